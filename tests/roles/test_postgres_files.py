"""When systemd has to read the files of a unit again."""

from pathlib import Path
from typing import Any

import pytest
from support.role_files import load_shared

module: Any = load_shared("postgres_files")

DROP_IN = "/etc/systemd/system/pgbouncer.service.d/celery-fleet.conf"


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        ({"NeedDaemonReload": "no", "DropInPaths": DROP_IN}, False),
        ({"NeedDaemonReload": "yes", "DropInPaths": DROP_IN}, True),
        # The folder is new: systemd 252 does not say so.
        ({"NeedDaemonReload": "no", "DropInPaths": ""}, True),
        ({}, True),
    ],
)
def test_systemd_reads_files_that_it_does_not_know(shown: dict[str, str], expected: bool) -> None:
    files = [module.File(Path(path), "", 0o644, 0, 0) for path in (DROP_IN, "/etc/pgbouncer/pgbouncer.ini")]

    assert module.unread(shown, files) is expected
