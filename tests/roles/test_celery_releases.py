"""Releases come and go."""

import os
import pwd
import subprocess
from pathlib import Path
from typing import Any, ClassVar

import pytest
from support.made_up_projects import INPUTS, write
from support.role_files import (
    HERE,
    evaluate,
    load_module,
    render,
)

bundle = load_module("celery_bundle")
release = load_module("celery_release")
current = load_module("celery_current")


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """Where five releases are installed, r1 the oldest."""
    for number in range(1, 6):
        path = tmp_path / f"releases/r{number}"
        path.mkdir(parents=True)
        os.utime(path, (number, number))
    return tmp_path


def test_a_link_is_replaced_and_never_missing(installed: Path) -> None:
    link = installed / "current"

    current.point(link, "r1")
    current.point(link, "r2")

    assert current.target(link) == "r2"
    assert link.resolve() == installed / "releases/r2"
    assert current.target(installed / "previous") == ""


def test_the_oldest_releases_go_but_never_one_that_is_needed(installed: Path) -> None:
    releases = installed / "releases"

    assert [path.name for path in current.superfluous(releases, 3, {"r5"})] == ["r1", "r2"]
    assert [path.name for path in current.superfluous(releases, 1, {"r1", "r3"})] == ["r2", "r4", "r5"]
    assert current.superfluous(releases, 5, set()) == []
    assert current.superfluous(installed / "none", 1, set()) == []


def test_nothing_goes_behind_migrations_that_cannot_be_taken_back(installed: Path) -> None:
    releases = installed / "releases"
    (releases / "r3" / current.IRREVERSIBLE).touch()
    os.utime(releases / "r3", (3, 3))

    assert current.barrier(releases, "r2") == "r3"
    assert current.barrier(releases, "r3") == current.barrier(releases, "r4") == ""
    assert current.barrier(releases, "not yet there") == ""


def test_only_processes_of_the_app_s_user_keep_a_release() -> None:
    # The value is bytes that are no UTF-8, as any user may set it.
    process = subprocess.Popen(
        ["sleep", "600"], env={"CELERY_APP_RELEASE": os.fsdecode(b"r\xff")}, start_new_session=True
    )
    try:
        me = pwd.getpwuid(os.getuid()).pw_name
        assert "r\ufffd" in list(current.running(me))
        other = next(user.pw_name for user in pwd.getpwall() if user.pw_uid != os.getuid())
        assert "r\ufffd" not in list(current.running(other))
        assert list(current.running("nobody-of-this-name")) == []
    finally:
        process.kill()
        process.wait()


def test_root_runs_no_program_of_the_release(tmp_path: Path) -> None:
    script = tmp_path / "celery-app"
    name = "usr/local/sbin/celery-app.j2"
    script.write_text(render("celery_app", [name], INPUTS)[name])
    programs = tmp_path / "release/venv/bin"
    programs.mkdir(parents=True)
    for program in ("systemd-run", "env", "test", "["):
        (programs / program).write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
        (programs / program).chmod(0o755)

    # It fails where no systemd runs; what counts is whose program was tried.
    subprocess.run(
        ["sh", script, "-r", tmp_path / "release", "true"], check=False, stdin=subprocess.DEVNULL, timeout=60
    )

    assert not (tmp_path / "ran").exists()


def test_compiling_a_project_executes_nothing_of_its_dependencies(tmp_path: Path) -> None:
    folder = tmp_path / "release"
    commands: list[list[str]] = []

    class Module:
        params: ClassVar = {"bundle": str(tmp_path / "bundle.tar")}

        def run_command(self, command: list[str], **_: Any) -> None:
            commands.append(command)
            if command[0] == "tar":
                for name in ("wheels/pip-1-py3-none-any.whl", "source/app.py", "requirements.txt"):
                    write(folder / "unpacked" / name, "")
                write(folder / "unpacked/manifest.json", '{"sha256": {}, "python": "3.11"}')
            if "venv" in command:
                write(folder / "venv-3.11/lib/python3.11/site-packages/x.pth", "")

    release.install(Module(), folder)

    compiling = next(command for command in commands if "compileall" in command)
    assert compiling[1 : compiling.index("-m")] == ["-I", "-S"]


def test_the_room_on_a_disk_is_what_df_says() -> None:
    case = {"__celery_app_disk": {"stdout_lines": ["  Avail", "  123MB"]}}
    assert evaluate("celery_app", "__celery_app_room", [case], HERE) == ["123"]
