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
    load_shared,
    render,
)

bundle = load_module("celery_bundle")
release = load_module("celery_release")
current = load_module("celery_current")
releases = load_shared("celery_releases")


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
        assert "r\ufffd" in list(releases.running(me))
        other = next(user.pw_name for user in pwd.getpwall() if user.pw_uid != os.getuid())
        assert "r\ufffd" not in list(releases.running(other))
        assert list(releases.running("nobody-of-this-name")) == []
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
        params: ClassVar = {"bundle": str(tmp_path / "bundle.tar"), "interpreter": ""}

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


# --- Another Python ------------------------------------------------------------------------------------


def environment(path: Path, python: str) -> Path:
    """A virtual environment of a release."""
    packages = path / f"venv-{python}/lib/python{python}/site-packages"
    packages.mkdir(parents=True)
    (packages / "proj.py").write_text(python)
    return path / f"venv-{python}"


@pytest.mark.parametrize("is_link", [False, True])
def test_a_release_gets_a_second_environment_and_keeps_the_first_in_its_place(
    tmp_path: Path, is_link: bool
) -> None:
    first = environment(tmp_path, "3.11")
    if is_link:
        release.point(tmp_path, first)
    else:
        first.rename(tmp_path / "venv")
    (tmp_path / "manifest.json").write_text("")
    assert release.python_of(tmp_path) == "3.11"
    assert current.other_python(tmp_path, Path("/usr/bin/python3.13")).endswith(
        "was installed for Python 3.11, and the host has 3.13 now: deploy it again, which rebuilds it"
    )

    release.point(tmp_path, environment(tmp_path, "3.13"))

    assert release.python_of(tmp_path) == "3.13"
    for python in ("3.11", "3.13"):
        assert (tmp_path / f"venv/lib/python{python}/site-packages/proj.py").read_text() == python
        assert (tmp_path / f"venv/lib/python{python}/../../../manifest.json").exists()
    assert current.other_python(tmp_path, Path("/usr/bin/python3.13")) == ""


def test_a_release_that_is_rebuilt_stays_as_old_as_it_was(tmp_path: Path) -> None:
    for number, name in enumerate(("r1", "r2"), start=1):
        manifest = tmp_path / name / "manifest.json"
        manifest.parent.mkdir()
        manifest.write_text("")
        os.utime(manifest, (number, number))
    unpacked = tmp_path / "r1/unpacked"
    unpacked.mkdir()
    (unpacked / "manifest.json").write_text("{}")
    (tmp_path / "r1/proved.json").write_text("")

    release.finish(tmp_path / "r1", unpacked, environment(tmp_path / "r1", "3.13"))

    assert [path.name for path in current.by_age(tmp_path)] == ["r1", "r2"]
    assert not (tmp_path / "r1/proved.json").exists()
    assert (tmp_path / "r1/manifest.json").read_text() == "{}"


class _EndedError(Exception):
    """The module has ended; what it returned."""


@pytest.mark.parametrize("there", ["", "3.9"])
def test_a_release_that_is_rebuilt_is_not_new_and_so_stays_when_it_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: str
) -> None:
    path = tmp_path / "r1"
    if there:
        release.point(path, environment(path, there))
        (path / "manifest.json").write_text("")

    class Module:
        params: ClassVar = {"bundle": str(tmp_path / "r1.tar"), "path": str(path), "interpreter": ""}
        check_mode = True

        def exit_json(self, **answer: Any) -> None:
            raise _EndedError(answer)

    monkeypatch.setattr(release, "AnsibleModule", lambda **_options: Module())

    with pytest.raises(_EndedError) as ended:
        release.main()

    assert ended.value.args == ({"changed": True, "new": not there},)
