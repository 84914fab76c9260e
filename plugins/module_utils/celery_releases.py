"""Which releases of a host are in use."""

from __future__ import annotations

import json
import pwd
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# The launchers of the role put this variable into the environment of what they start.
RELEASE_VARIABLE = "CELERY_APP_RELEASE"


def running(user: str) -> Iterator[str]:
    """Yield the releases that the processes of a user run; anybody else may have set the variable."""
    try:
        wanted = pwd.getpwnam(user).pw_uid
    except KeyError:
        return
    mark = f"{RELEASE_VARIABLE}=".encode()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if process.stat().st_uid != wanted:
                continue
            variables = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        for variable in variables:
            if variable.startswith(mark):
                yield variable.removeprefix(mark).decode(errors="replace")


def manifest_of(release: Path) -> dict[str, Any]:
    """Return what a release says of itself; nothing of one that is missing or damaged."""
    try:
        found = json.loads((release / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def has_python(release: Path, python: str) -> bool:
    """Tell whether a release runs here: on a Python that it brought along, or on the distribution's.

    Args:
        release: The release.
        python: The version of the distribution's.
    """
    if manifest_of(release).get("interpreter"):
        return (release / "venv/bin/python").exists()
    return (release / "venv/lib" / f"python{python}").is_dir()


def linked(root: Path) -> list[str]:
    """Return the current and the previous release, as far as there are any."""
    return [link.readlink().name for link in (root / "current", root / "previous") if link.is_symlink()]
