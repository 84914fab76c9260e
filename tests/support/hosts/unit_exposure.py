"""How much systemd lets the services of a host do: one gate for all that a role installs or runs."""

from __future__ import annotations

import re
from typing import Any

# As `systemd-analyze security` counts, from 0 to 10.
ALLOWED = 2.5
# What any Debian host runs, with or without a role of ours.
OF_THE_SYSTEM = re.compile(
    r"(?:apt-|console-getty|dbus|dpkg-|e2scrub|emergency|getty|initrd|kmod-|ldconfig|logrotate|man-db|modprobe@"
    r"|polkit|rc-local|rescue|ssh|sudo|systemd-|udev|user@|user-runtime-dir@)"
)
# Those that systemd has loaded, and those in its own folder that nothing has asked for yet.
LIST = (
    "systemctl list-units --all --type=service --plain --no-legend | awk '$2 == \"loaded\" {print $1}';"
    " find /etc/systemd/system -maxdepth 1 -type f -name '*.service' -not -name '*@.service' -printf '%f\\n'"
)
SCORE = re.compile(r"Overall exposure level for (\S+): ([0-9.]+)")


def exposures(host: Any) -> dict[str, float]:
    """Return the exposure of each service that the roles brought, by its unit; the host says which."""
    units = {unit for unit in host.check_output(LIST).split() if not OF_THE_SYSTEM.match(unit)}
    analysed = host.run(f"systemd-analyze security --no-pager {' '.join(sorted(units))}")
    found = {unit: float(score) for unit, score in SCORE.findall(analysed.stdout)}
    assert set(found) == units, analysed.stderr
    return found


def exposed(host: Any) -> dict[str, float]:
    """Return the services that may do more than is allowed."""
    return {unit: score for unit, score in exposures(host).items() if score > ALLOWED}
