"""Services that timers and other services start, in every role."""

from pathlib import Path

import pytest
from support.role_files import ROLES

ONESHOTS = sorted(
    path
    for path in ROLES.glob("*/templates/etc/systemd/system/*.service.j2")
    if "Type=oneshot" in path.read_text(encoding="utf-8")
)


def test_there_are_some() -> None:
    assert len(ONESHOTS) >= 4


@pytest.mark.parametrize("unit", ONESHOTS, ids=lambda path: path.name)
def test_a_service_that_ends_at_once_may_start_at_any_time(unit: Path) -> None:
    # A timer fires again after each daemon-reload, and a worker may crash: five starts are soon used up.
    assert "\nStartLimitIntervalSec=0\n" in unit.read_text(encoding="utf-8").partition("[Service]")[0]
