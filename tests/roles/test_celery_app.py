"""The role celery_app without a host: its modules, its units, its settings."""

import hashlib
import json
import os
import re
import subprocess
import tomllib
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from role_files import CHECKOUT, load_module, render, security_score

bundle = load_module("celery_app", "celery_bundle")
release = load_module("celery_app", "celery_release")
units = load_module("celery_app", "celery_units")
current = load_module("celery_app", "celery_current")

AWKWARD = {
    "PLAIN": "redis://app:secret@data1:6379/0",
    "SHELL": "$HOME `id` \\ \"quoted\" 'single' #; &",
    "EMPTY": "",
    "TWO_LINES": "first\nsecond",
}
INPUTS = {
    "celery_app_name": "proj",
    "celery_app_source": "/nowhere",
    "celery_app_environment": AWKWARD,
}


def test_the_lock_is_cut_to_what_the_host_needs() -> None:
    lock = """
# a comment
--index-url nowhere
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


def test_the_release_id_follows_sources_and_lock_and_nothing_else(tmp_path: Path) -> None:
    def checkout(place: str, code: str = "x = 1", lock: str = "a", companion: str = "b") -> str:
        source = tmp_path / place / "proj"
        (source / "__pycache__").mkdir(parents=True)
        (source / "__pycache__/tasks.pyc").write_text(place)
        (source / "tasks.py").write_text(code)
        (source / "lock").write_text(lock)
        (tmp_path / place / "companion").write_text(companion)
        return str(bundle.release_id([source], [source / "lock", tmp_path / place / "companion"]))

    assert checkout("here") == checkout("elsewhere")
    assert checkout("here2") != checkout("changed", code="x = 2")
    assert checkout("here3") != checkout("relocked", lock="b")
    assert checkout("here4") != checkout("companion", companion="c")


def test_the_same_input_makes_the_same_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def collect(folder: Path, *_: object) -> None:
        (folder / "proj-1-py3-none-any.whl").write_text("wheel")
        (folder / "pip-1-py3-none-any.whl").write_text("pip")

    monkeypatch.setattr(bundle, "collect_wheels", collect)
    params = {"python": "3.13", "machine": "x86_64"}
    for name in ("one.tar", "two.tar"):
        bundle.write_bundle(tmp_path / name, "id", params, [], bundle.Content({}, set()))

    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()


def test_a_damaged_wheel_is_named(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels/good.whl").write_text("good")
    (tmp_path / "wheels/bad.whl").write_text("damaged")
    manifest = {"sha256": {name: hashlib.sha256(b"good").hexdigest() for name in ("good.whl", "bad.whl")}}

    assert release.check_hashes(tmp_path, manifest).startswith("bad.whl is damaged")


def test_settings_mean_the_same_to_a_shell_and_to_the_module(tmp_path: Path) -> None:
    template = "etc/celery/app.env.j2"
    text = render("celery_app", [template], INPUTS)[template]
    (tmp_path / "app.env").write_text(text)
    dump = "import json, os, sys; json.dump(dict(os.environ), sys.stdout)"

    seen_by_shell = json.loads(
        subprocess.run(
            ["sh", "-c", 'set -a; . "$1"; python3 -c "$2"', "-", str(tmp_path / "app.env"), dump],
            check=True,
            capture_output=True,
        ).stdout
    )

    assert {name: seen_by_shell[name] for name in AWKWARD} == AWKWARD
    assert units.parse_environment(text) == AWKWARD


def unit(state: str = "active", enabled: bool = True, main_pid: int = 1) -> Any:
    """A unit as systemd sees it."""
    return units.Unit(state, enabled, main_pid)


def plan(
    seen: dict[str, Any],
    wanted: dict[str, Any],
    adopted: dict[str, list[str]] | None = None,
    running: dict[str, str] | None = None,
    release_id: str = "r1",
) -> Any:
    """What has to happen when all processes run in the same environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(units, "running_environment", lambda _pid: running or {"CELERY_APP_RELEASE": "r1"})
        return units.plan(seen, wanted, adopted or {}, release_id)


def test_a_unit_is_restarted_when_its_process_has_other_settings(tmp_path: Path) -> None:
    settings = tmp_path / "app.env"
    settings.write_text('COLOUR="red"\n')
    running = {"COLOUR": "red", "CELERY_APP_RELEASE": "r1", "PATH": "/bin"}

    def restarts(environment: dict[str, str], release_id: str) -> list[str]:
        wanted = {"a.service": units.Wanted([str(settings)], {})}
        return list(plan({"a.service": unit()}, wanted, None, environment, release_id).restart)

    assert restarts(running, "r1") == []
    assert restarts(running, "r2") == ["a.service"]
    assert restarts({**running, "COLOUR": "blue"}, "r1") == ["a.service"]


def test_units_that_nobody_wants_are_stopped_and_missing_ones_started() -> None:
    seen = {
        "worker@old-1.service": unit(),
        "worker@off-1.service": unit("inactive", enabled=False, main_pid=0),
        "worker@dead-1.service": unit("inactive", main_pid=0),
    }

    todo = plan(seen, dict.fromkeys(["worker@dead-1.service", "worker@new-1.service"], units.Wanted([], {})))

    assert todo.stop == ["worker@old-1.service"]
    assert todo.start == ["worker@dead-1.service", "worker@new-1.service"]
    assert todo.restart == []


ADOPTED: dict[str, list[str]] = {r"worker@a-[0-9]+\.service": []}


def test_adopted_units_are_neither_started_nor_stopped_and_no_longer_start_at_boot() -> None:
    seen = {
        "worker@a-1.service": unit(),
        "worker@a-2.service": unit("inactive", main_pid=0),
        "worker@a-3.service": unit(enabled=False),
        "worker@a-4.service": unit("failed", enabled=False, main_pid=0),
        "worker@a-b-1.service": unit(),
    }

    todo = plan(seen, {}, ADOPTED)

    assert todo.disable == ["worker@a-1.service", "worker@a-2.service"]
    assert todo.stop == ["worker@a-b-1.service"]
    assert todo.start == todo.restart == []


def test_adopted_units_that_are_outdated_are_replaced_once_their_process_has_begun() -> None:
    def replaces(state: str, running: dict[str, str]) -> bool:
        return bool(plan({"worker@a-1.service": unit(state)}, {}, ADOPTED, running, "r2").replace)

    assert replaces("active", {"CELERY_APP_RELEASE": "r1"})
    assert replaces("activating", {"CELERY_APP_RELEASE": "r1"})
    assert replaces("active", {"PATH": "/bin"})
    assert not replaces("activating", {"PATH": "/bin"})
    assert not replaces("deactivating", {"CELERY_APP_RELEASE": "r1"})
    assert not replaces("active", {"CELERY_APP_RELEASE": "r2"})


def test_units_that_are_handed_back_go_on() -> None:
    seen = {"worker@a-1.service": unit(enabled=False), "worker@a-2.service": unit(enabled=False)}

    todo = plan(seen, {"worker@a-1.service": units.Wanted([], {})})

    assert todo.start == ["worker@a-1.service"]  # enabled; a start of what runs does nothing
    assert todo.stop == ["worker@a-2.service"]
    assert todo.restart == []


def test_a_unit_is_reloaded_when_its_file_differs_from_what_it_has_read(tmp_path: Path) -> None:
    file, copy = tmp_path / "file", tmp_path / "copy"

    def todo(release_id: str = "r1") -> Any:
        wanted = {"a.service": units.Wanted([], {str(file): str(copy)})}
        return plan({"a.service": unit()}, wanted, release_id=release_id)

    assert todo().reload == []  # neither is there, as in check mode on a bare host
    file.write_text("new")
    assert todo().reload == ["a.service"]
    copy.write_text("old")
    assert todo().reload == ["a.service"]
    assert (todo("r2").reload, todo("r2").restart) == ([], ["a.service"])
    copy.write_text("new")
    assert not any(todo())


@pytest.mark.parametrize("unit", ["celery-worker@.service", "celery-beat.service"])
def test_the_units_expose_at_most_2_5(unit: str, tmp_path: Path) -> None:
    template = f"etc/systemd/system/{unit}.j2"
    (tmp_path / unit).write_text(render("celery_app", [template], INPUTS)[template])

    score = security_score(tmp_path, unit)

    assert score.returncode == 0, score.stdout + score.stderr
    assert "Overall exposure level" in score.stdout


@pytest.mark.parametrize("python", ["3.11", "3.13"])
def test_the_examples_bundle_has_what_the_autoscaler_needs(python: str) -> None:
    own, companion = (CHECKOUT / f"app/{project}/requirements.txt" for project in ("tasks", "autoscaler"))
    metadata = tomllib.loads((CHECKOUT / "app/autoscaler/pyproject.toml").read_text())["project"]

    content = bundle.read_locks(own, companion, python, "x86_64")

    assert content.added
    bundle.refuse_unmet("it", metadata["dependencies"], content.pins, bundle.environment_of(python, "x86_64"))


# --- Releases come and go ------------------------------------------------------------------------------


def test_units_with_the_same_spare_are_restarted_in_turns() -> None:
    wanted = {
        name: units.Wanted([], {}, spare)
        for name, spare in {"a-1": "a-3", "a-2": "a-3", "b-1": "b-2", "beat": ""}.items()
    }

    assert units.rounds(["a-1", "a-2", "b-1", "beat"], wanted) == (
        ["a-3", "b-2"],
        [["beat"], ["a-1", "b-1"], ["a-2"]],
    )
    assert units.rounds(["a-2"], wanted) == (["a-3"], [["a-2"]])
    assert units.rounds([], wanted) == ([], [])


def test_a_unit_s_worker_has_the_name_that_celery_gives_it() -> None:
    assert units.worker_name("celery-worker@slow-reports-2.service", "web1") == "slow-reports-2@web1"


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
