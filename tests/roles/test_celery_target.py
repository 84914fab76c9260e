"""What a host says of itself before a release goes there."""

import grp
import pwd
from pathlib import Path

import pytest
from support.fake_module import Module, RefusedError
from support.role_files import load_module

target = load_module("celery_target")


def test_the_python_of_the_host_is_asked_and_not_that_of_ansible(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python3"
    python.write_text("#!/bin/sh\necho '[3, 99, \"glibc 2.77\"]'\n")
    python.chmod(0o755)
    monkeypatch.setattr(target, "PYTHON", str(python))
    assert target.ask_python(Module()) == ("3.99", "2.77")

    python.write_text("#!/bin/sh\necho No module named venv >&2\nexit 1\n")
    with pytest.raises(RefusedError, match=r"which releases run on, does not work: No module named venv"):
        target.ask_python(Module())


def test_a_user_who_is_there_stays_as_it_is_unless_it_may_do_everything() -> None:
    me = next(user for user in pwd.getpwall() if user.pw_uid)

    assert target.group_of(Module(), me.pw_name) == grp.getgrgid(me.pw_gid).gr_name
    assert target.group_of(Module(), "nobody-of-this-name") == ""
    with pytest.raises(RefusedError, match="celery_app_user: root may do everything"):
        target.group_of(Module(), "root")


def test_what_is_installed_counts_if_it_is_for_the_python_of_the_host(tmp_path: Path) -> None:
    release = tmp_path / "releases/abc"
    (release / "venv/lib/python3.11").mkdir(parents=True)
    nothing = {"release": "", "project": ""}
    assert target.current(tmp_path, "3.11") == nothing
    (tmp_path / "current").symlink_to(release)
    (release / "manifest.json").write_text("{")
    assert target.current(tmp_path, "3.11") == nothing

    (release / "manifest.json").write_text('{"release": "abc", "project": "def"}')

    assert target.current(tmp_path, "3.11") == {"release": "abc", "project": "def"}
    assert target.current(tmp_path, "3.13") == nothing


def test_releases_in_use_are_those_that_links_lead_to(tmp_path: Path) -> None:
    assert target.linked(tmp_path) == []
    (tmp_path / "current").symlink_to("releases/abc")
    (tmp_path / "previous").symlink_to("releases/def")

    assert target.linked(tmp_path) == ["abc", "def"]
