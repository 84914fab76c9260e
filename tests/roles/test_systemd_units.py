"""When systemd has to read the files of a unit again."""

from pathlib import Path
from typing import Any

import pytest
from support.role_files import load_shared

module: Any = load_shared("systemd_units")

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
def test_systemd_reads_files_that_it_does_not_know(
    shown: dict[str, str], expected: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    systemctl = tmp_path / "systemctl"
    lines = "".join(f"echo '{name}={value}'\n" for name, value in (shown or {"Id": "x"}).items())
    systemctl.write_text(f"#!/bin/sh\n{lines}")
    systemctl.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    unread = module.unread(["pgbouncer.service"], [DROP_IN, "/etc/pgbouncer/pgbouncer.ini"])

    assert bool(unread) is expected
    assert set(unread) <= {DROP_IN}
