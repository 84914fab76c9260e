"""The role celery_app without a host: its modules, its units, its settings."""

import hashlib
import json
import re
import subprocess
import tomllib
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from role_files import CHECKOUT, load_module, render

bundle = load_module("celery_app", "celery_bundle")
release = load_module("celery_app", "celery_release")
units = load_module("celery_app", "celery_units")

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


def test_a_unit_is_restarted_when_its_process_has_other_settings(tmp_path: Path) -> None:
    settings = tmp_path / "app.env"
    settings.write_text('COLOUR="red"\n')
    seen = {"a.service": units.Unit(active=True, enabled=True, main_pid=1)}
    wanted = {"a.service": [str(settings)]}
    running = {"COLOUR": "red", "CELERY_APP_RELEASE": "r1", "PATH": "/bin"}

    def restarts(environment: dict[str, str], release_id: str) -> list[str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(units, "running_environment", lambda _pid: environment)
            return list(units.plan(seen, wanted, release_id).restart)

    assert restarts(running, "r1") == []
    assert restarts(running, "r2") == ["a.service"]
    assert restarts({**running, "COLOUR": "blue"}, "r1") == ["a.service"]


def test_units_that_nobody_wants_are_stopped_and_missing_ones_started() -> None:
    seen = {
        "worker@old-1.service": units.Unit(active=True, enabled=True, main_pid=1),
        "worker@off-1.service": units.Unit(active=False, enabled=False, main_pid=0),
        "worker@dead-1.service": units.Unit(active=False, enabled=True, main_pid=0),
    }

    todo = units.plan(seen, {"worker@dead-1.service": [], "worker@new-1.service": []}, "r1")

    assert todo.stop == ["worker@old-1.service"]
    assert todo.start == ["worker@dead-1.service", "worker@new-1.service"]
    assert todo.restart == []


@pytest.mark.parametrize("unit", ["celery-worker@.service", "celery-beat.service"])
def test_the_units_expose_at_most_2_5(unit: str, tmp_path: Path) -> None:
    template = f"etc/systemd/system/{unit}.j2"
    (tmp_path / unit).write_text(render("celery_app", [template], INPUTS)[template])

    score = subprocess.run(
        [
            *("docker", "run", "--rm", "--label=celery-fleet=test", f"--volume={tmp_path}:/units:ro"),
            *("celery-fleet/host:trixie", "systemd-analyze", "security", "--offline=yes", "--threshold=25"),
            f"/units/{unit}",
        ],
        check=False,
        capture_output=True,
        text=True,
    )

    assert score.returncode == 0, score.stdout + score.stderr
    assert "Overall exposure level" in score.stdout


@pytest.mark.parametrize("python", ["3.11", "3.13"])
def test_the_examples_bundle_has_what_the_autoscaler_needs(python: str) -> None:
    own, companion = (CHECKOUT / f"app/{project}/requirements.txt" for project in ("tasks", "autoscaler"))
    metadata = tomllib.loads((CHECKOUT / "app/autoscaler/pyproject.toml").read_text())["project"]

    content = bundle.read_locks(own, companion, python, "x86_64")

    assert content.added
    bundle.refuse_unmet("it", metadata["dependencies"], content.pins, bundle.environment_of(python, "x86_64"))
