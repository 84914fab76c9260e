"""Findings as lines for people: equal ones of several hosts in one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .model import Finding, Inventory
from .text import line

# Hosts that a line names at most.
MOST = 5


def lines(findings: Iterable[Finding], inventory: Inventory) -> list[str]:
    """Return a line for each finding; equal ones of several hosts are one line."""
    places: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        places.setdefault((finding.variable, finding.text), []).append(finding.host)
    found = []
    for (variable, text), hosts in places.items():
        where = [f"{_where(variable, hosts, inventory.groups)}: "] if any(hosts) else []
        found.append(line("".join([*where, f"{variable}: {text}"])))
    return found


def _where(variable: str, hosts: Sequence[str], groups: Mapping[str, Sequence[str]]) -> str:
    """What a line calls the hosts of a finding: of several groups of the same hosts, the variable's own."""
    if len(hosts) > 1:
        for group in sorted(
            groups, key=lambda name: (name == "all", not variable.startswith(f"{name}_"), name)
        ):
            if set(groups[group]) == set(hosts):
                return group
    more = f" and {len(hosts) - MOST} more" if len(hosts) > MOST else ""
    return ", ".join(hosts[:MOST]) + more
