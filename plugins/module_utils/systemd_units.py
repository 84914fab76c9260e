"""What systemd says of units, and which of their files it has not read."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

ANSWERS_WITHIN_SECONDS = 30


def show(properties: Sequence[str], *units: str) -> list[dict[str, str]]:
    """Return the properties of each unit, in this order; nothing where there is no systemd.

    Args:
        properties: Names of properties.
        units: Names of units. One with wildcards stands for all loaded units of such names.
    """
    command = ["systemctl", "show", f"--property={','.join(properties)}", *units]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=ANSWERS_WITHIN_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return blocks(done.stdout)


def blocks(shown: str) -> list[dict[str, str]]:
    """Return the properties of each unit from what ``systemctl show`` prints."""
    return [
        dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        for block in shown.split("\n\n")
        if block.strip()
    ]


def template(unit: str) -> str:
    """The file of a unit, without its instance: ``copy@daily.timer`` is ``copy@.timer``."""
    return re.sub("@.*(?=[.])", "@", unit)


def unread(units: Sequence[str], paths: Iterable[str]) -> list[str]:
    """Return the files of units that systemd has not read since they were written.

    It says so of a unit itself, but before release 253 it notices no folder of additions that was made since
    it last read all units.

    Args:
        units: Names of units that the host has.
        paths: Files, also others than these units'.
    """
    stale: dict[str, bool] = {}
    read: set[str] = set()
    shown = show(("NeedDaemonReload", "DropInPaths", "FragmentPath"), *units) if units else []
    for unit, found in zip(units, shown, strict=False):
        stale[template(unit)] = stale.get(template(unit), False) or found.get("NeedDaemonReload") == "yes"
        read.update(f"{found.get('DropInPaths', '')} {found.get('FragmentPath', '')}".split())
    return [
        path for path in paths if any(stale[unit] or path not in read for unit in owners(path) & stale.keys())
    ]


def owners(path: str) -> set[str]:
    """Return the units to which a file may belong, as their own or as an addition."""
    return {Path(path).name, Path(path).parent.name.removesuffix(".d")}
