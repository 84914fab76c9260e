"""What of a lock file goes along to a host, and which lock is refused."""

import re
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.made_up_projects import write
from support.role_files import (
    load_module,
)

bundle = load_module("celery_bundle")


def test_the_lock_is_cut_to_what_the_host_needs() -> None:
    lock = """
# a comment
celery==5.7.0 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
tzdata==2026.1 ; sys_platform == 'win32' \\
    --hash=sha256:cc
backports==1.0 ; python_full_version < '3.13' --hash=sha256:dd
"""
    assert bundle.lock_for_target(lock, "lock", "3.13", "x86_64") == {
        "celery": ("5.7.0", "celery==5.7.0 --hash=sha256:aa --hash=sha256:bb")
    }
    assert bundle.lock_for_target(lock, "lock", "3.11", "x86_64")["backports"] == (
        "1.0",
        "backports==1.0 --hash=sha256:dd",
    )


def test_a_line_for_another_machine_may_be_pinned_otherwise_and_all_wrong_lines_are_named() -> None:
    lock = "pywin32>=1 ; sys_platform == 'win32'\nsix>=1 --hash=sha256:aa\nrich==1\n"

    with pytest.raises(bundle.BundleError, match=r"^lock: 'six>=1' is not pinned.*; 'rich==1' has no hash"):
        bundle.lock_for_target(lock, "lock", "3.13", "x86_64")


def test_a_lock_says_where_its_wheels_come_from(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    text = (
        "-i https://index.example/simple\n--extra-index-url=https://more.example/simple\n"
        "--find-links wheels\n--trusted-host index.example\n--only-binary :all:\n--require-hashes\n"
        "six==1.16.0 --hash=sha256:bb\n"
    )
    own, companion = write(tmp_path / "own", text), write(tmp_path / "companion", "")

    assert bundle.read_locks(own, companion, "3.13", "x86_64").options == (
        "--index-url https://index.example/simple",
        "--extra-index-url https://more.example/simple",
        f"--find-links {tmp_path}/wheels",
        "--trusted-host index.example",
    )


@pytest.mark.parametrize("line", ["-r other.txt", "-c limits.txt", "-e .", "--no-binary :all:", "--pre"])
def test_an_option_that_would_not_be_followed_is_refused(tmp_path: Path, line: str) -> None:
    own, companion = write(tmp_path / "own", f"{line}\n"), write(tmp_path / "companion", "")

    with pytest.raises(bundle.BundleError, match=rf"own: the option {line.partition(' ')[0]} has no place"):
        bundle.read_locks(own, companion, "3.13", "x86_64")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("celery>=5 --hash=sha256:aa", "not pinned"),
        ("celery==5.7.0", "no hash"),
        ("./celery --hash=sha256:aa", "no requirement"),
    ],
)
def test_a_lock_that_locks_nothing_is_refused(line: str, problem: str) -> None:
    with pytest.raises(bundle.BundleError, match=problem):
        bundle.lock_for_target(line, "lock", "3.13", "x86_64")


@pytest.fixture
def locks(tmp_path: Path) -> Any:
    """What goes into the bundle of a project that has some requirements in common with its companion."""
    (tmp_path / "own").write_text("Celery==5.7.1 --hash=sha256:aa\nsix==1.16.0 --hash=sha256:bb\n")
    (tmp_path / "companion").write_text("celery==5.7.0 --hash=sha256:cc\nrich==15.0.0 --hash=sha256:dd\n")
    return bundle.read_locks(tmp_path / "own", tmp_path / "companion", "3.13", "x86_64")


def test_the_companion_adds_what_the_project_lacks_and_overrides_nothing(locks: Any) -> None:
    assert {name: pin.version for name, pin in locks.pins.items()} == {
        "celery": "5.7.1",
        "six": "1.16.0",
        "rich": "15.0.0",
    }
    assert locks.added == {"rich"}
    assert locks.pins["celery"].line == "Celery==5.7.1 --hash=sha256:aa"


@pytest.mark.parametrize(
    ("needed", "problem"),
    [
        ("celery[redis]>=5.7,<5.8", None),
        ("six>=1.17", "the lock file pins six==1.16.0, but it needs six>=1.17"),
        ("Six!=1.16.0", "the lock file pins Six==1.16.0, but it needs Six!=1.16.0"),
        ("psutil>=5.9", "it needs psutil>=5.9, which is in no lock file"),
        ("psutil>=5.9 ; sys_platform == 'win32'", None),
        ("psutil>=5.9 ; extra == 'processes'", None),
    ],
)
def test_a_version_that_the_companion_cannot_work_with_is_refused(
    locks: Any, needed: str, problem: str | None
) -> None:
    refuse = partial(bundle.refuse_unmet, "it", [needed], locks.pins, bundle.environment_of("3.13", "x86_64"))

    if problem is None:
        refuse()
    else:
        with pytest.raises(bundle.BundleError, match=re.escape(problem)):
            refuse()


def test_what_the_companion_needs_must_work_with_the_project_as_well(tmp_path: Path, locks: Any) -> None:
    for name in ("rich-15.0.0", "celery-5.7.1"):
        with zipfile.ZipFile(tmp_path / f"{name}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}.dist-info/METADATA", f"Name: {name}\nRequires-Dist: six>=1.17\n\nText\n")

    with pytest.raises(bundle.BundleError, match=r"six==1\.16\.0, but rich 15\.0\.0 needs six>=1\.17"):
        bundle.refuse_conflicts(tmp_path, locks, bundle.environment_of("3.13", "x86_64"))


def test_wheels_for_an_older_glibc_are_good_and_for_a_newer_one_are_not() -> None:
    platforms = bundle.platforms("x86_64", "2.36")

    assert platforms[0] == "manylinux_2_36_x86_64"
    assert "manylinux_2_17_x86_64" in platforms
    assert "manylinux2014_x86_64" in platforms
    assert "manylinux_2_37_x86_64" not in platforms
