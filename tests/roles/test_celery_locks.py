"""What of a lock file goes along to a host, and which lock is refused."""

import re
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.made_up_projects import write
from support.role_files import (
    load_shared,
)

celery_lock = load_shared("celery_lock")
content = load_shared("celery_content")
host = load_shared("celery_host")
requirements = load_shared("celery_requirements")
HOST = host.Target("3.13", "x86_64", "2.36")


def environment(python: str) -> dict[str, str]:
    """What markers ask for on a host with a Python."""
    return dict(HOST._replace(python=python).environment())


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
    assert celery_lock.pins_of(lock, "lock", environment("3.13")) == {
        "celery": celery_lock.Locked("5.7.0", "celery==5.7.0 --hash=sha256:aa --hash=sha256:bb")
    }
    assert celery_lock.pins_of(lock, "lock", environment("3.11"))["backports"].line == (
        "backports==1.0 --hash=sha256:dd"
    )


def test_a_line_for_another_machine_may_be_pinned_otherwise_and_all_wrong_lines_are_named() -> None:
    lock = "pywin32>=1 ; sys_platform == 'win32'\nsix>=1 --hash=sha256:aa\nrich==1\n"

    with pytest.raises(
        celery_lock.BundleError, match=r"^lock: 'six>=1' is not pinned.*; 'rich==1' has no hash"
    ):
        celery_lock.pins_of(lock, "lock", environment("3.13"))


def test_a_lock_says_where_its_wheels_come_from(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    text = (
        "-i https://index.example/simple\n--extra-index-url=https://more.example/simple\n"
        "--find-links wheels\n--trusted-host index.example\n--only-binary :all:\n--require-hashes\n"
        "six==1.16.0 --hash=sha256:bb\n"
    )

    assert celery_lock.read_requirements(write(tmp_path / "own", text), environment("3.13")).options == (
        "--index-url https://index.example/simple",
        "--extra-index-url https://more.example/simple",
        f"--find-links {tmp_path}/wheels",
        "--trusted-host index.example",
    )


@pytest.mark.parametrize("line", ["-r other.txt", "-c limits.txt", "-e .", "--no-binary :all:", "--pre"])
def test_an_option_that_would_not_be_followed_is_refused(tmp_path: Path, line: str) -> None:
    own = write(tmp_path / "own", f"{line}\n")

    with pytest.raises(
        celery_lock.BundleError, match=rf"own: the option {line.partition(' ')[0]} has no place"
    ):
        celery_lock.read_requirements(own, environment("3.13"))


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("celery>=5 --hash=sha256:aa", "not pinned"),
        ("celery==5.7.0", "no hash"),
        ("./celery --hash=sha256:aa", "no requirement"),
    ],
)
def test_a_lock_that_locks_nothing_is_refused(line: str, problem: str) -> None:
    with pytest.raises(celery_lock.BundleError, match=problem):
        celery_lock.pins_of(line, "lock", environment("3.13"))


@pytest.fixture
def locked(tmp_path: Path) -> Any:
    """What the lock of a project pins."""
    (tmp_path / "own").write_text("Celery==5.7.1 --hash=sha256:aa\nsix==1.16.0 --hash=sha256:bb\n")
    return celery_lock.read_requirements(tmp_path / "own", environment("3.13"))


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
def test_a_version_that_the_worker_package_cannot_work_with_is_refused(
    locked: Any, needed: str, problem: str | None
) -> None:
    refuse = partial(celery_lock.refuse_unmet, "it", [needed], locked.pins, environment("3.13"))

    if problem is None:
        refuse()
    else:
        with pytest.raises(celery_lock.BundleError, match=re.escape(problem)):
            refuse()


def wheel(folder: Path, name: str, *needs: str) -> None:
    """Write a wheel that says what it needs."""
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-py3-none-any.whl", "w") as archive:
        lines = "".join(f"Requires-Dist: {need}\n" for need in needs)
        archive.writestr(f"{name}.dist-info/METADATA", f"Name: {name}\n{lines}\nText\n")


def test_all_that_does_not_go_together_is_named_at_once(tmp_path: Path) -> None:
    wheel(tmp_path / "w", "celery-5.7.0", "kombu[redis]==5.7.*; extra == 'redis'", "vine>=5")
    wheel(tmp_path / "w", "kombu-5.7.0", "redis>=6.2 ; extra == 'redis'", "tzdata ; sys_platform == 'win32'")
    wheel(tmp_path / "w", "redis-5.3.0")

    asked = requirements.Root("ours", ("celery[redis]>=5.4",))
    assert requirements.conflicts(tmp_path / "w", [asked], environment("3.13")) == [
        "celery 5.7.0 needs vine>=5, which is in no lock file",
        "the lock file pins redis==5.3.0, but kombu[redis] 5.7.0 needs redis>=6.2: "
        "allow such a version and lock again",
    ]
    # Nobody asks for the extra, or the project has decided.
    assert len(requirements.conflicts(tmp_path / "w", [], environment("3.13"))) == 1
    assert len(requirements.conflicts(tmp_path / "w", [asked], environment("3.13"), ["redis"])) == 1


def test_an_extra_that_the_project_does_not_ask_for_bounds_versions_from_below_only(tmp_path: Path) -> None:
    wheel(tmp_path / "w", "ours-1.0", "celery[redis]>=5.4")
    wheel(tmp_path / "w", "celery-5.6.3", "kombu<5.8,>=5.6", "kombu[redis]; extra == 'redis'")
    wheel(tmp_path / "w", "kombu-5.6.2", "redis!=5.0.2,<6.5,>=4.5.2 ; extra == 'redis'")

    def found(redis: str, *asked: Any) -> list[str]:
        wheel(tmp_path / "w", f"redis-{redis}")
        problems = requirements.conflicts(tmp_path / "w", asked, environment("3.13"), added="ours")
        (tmp_path / f"w/redis-{redis}-py3-none-any.whl").unlink()
        return [problem.partition(":")[0] for problem in problems]

    assert found("7.4.1") == []
    assert found("4.4.0") == [
        "the lock file pins redis==4.4.0, but kombu[redis] 5.6.2 needs redis!=5.0.2,>=4.5.2"
    ]
    assert found("7.4.1", requirements.Root("the project", ("celery[redis]",))) == [
        "the lock file pins redis==7.4.1, but kombu[redis] 5.6.2 needs redis!=5.0.2,<6.5,>=4.5.2"
    ]


def test_what_many_ask_for_who_do_not_need_it_may_be_missing(tmp_path: Path) -> None:
    wheel(tmp_path / "w", "gevent-1.0", "setuptools>=40")

    assert requirements.conflicts(tmp_path / "w", [], environment("3.13")) == []


def test_wheels_for_an_older_glibc_are_good_and_for_a_newer_one_are_not() -> None:
    platforms = HOST.platforms()

    assert platforms[0] == "manylinux_2_36_x86_64"
    assert "manylinux_2_17_x86_64" in platforms
    assert "manylinux2014_x86_64" in platforms
    assert "manylinux_2_37_x86_64" not in platforms
