"""Services and timers of a project: their units, their launcher, what restarts them."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.platform.plugins.filter.on_host import on_host
from ansible_collections.celery_fleet.platform.plugins.filter.unit_words import unit_words
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_project import shown_unit
from support.made_up_projects import INPUTS, write
from support.role_files import Place, evaluate, load_module, render, security_score

units = load_module("celery_units")

WEB: dict[str, Any] = {
    "name": "web",
    "command": ["gunicorn", "--bind=[::1]:80", "a $b %n"],
    "ready_command": ["curl", "--fail", "http://[::1]:80"],
    "start_timeout": 20,
    "environment": {"PORT": "80", "TOKEN": "se$cret"},
    "memory_max": "2G",
}
READER = {"name": "reader", "command": ["python", "-m", "reader"], "notify": True}
NIGHTLY = {"name": "nightly", "command": ["python", "manage.py", "clearsessions"], "on_calendar": "04:30"}
OWN: dict[str, Any] = INPUTS | {
    "celery_app_services": [WEB, READER],
    "celery_app_timers": [NIGHTLY],
    "celery_app_files": [{"dest": "web.json", "content": "{}", "read_by": ["web"]}],
}
FILES = "(__celery_app_files + __celery_app_secret_files)"
UNITS = "/etc/systemd/system"
HERE = Place("host1", {"host1": {}}, groups={"workers": ["host1"]})


Files = dict[str, dict[str, Any]]
CHANGES: list[tuple[dict[str, Any], set[str]]] = [
    ({"celery_app_services": [WEB | {"command": ["other"]}, READER]}, {"web.env"}),
    ({"celery_app_services": [WEB, READER | {"memory_max": "1G"}]}, {"reader.env"}),
    ({"celery_app_files": [OWN["celery_app_files"][0] | {"content": "[]"}]}, {"web.env"}),
    ({"celery_app_timers": [NIGHTLY | {"on_calendar": "daily"}]}, set()),
]


@pytest.fixture(scope="module")
def written() -> list[Files]:
    """What the role writes, by path: without services, with them, and with each of the changes."""
    cases = [INPUTS, OWN, *(OWN | changes for changes, _names in CHANGES)]
    return [{file["path"]: file for file in found} for found in evaluate("celery_app", FILES, cases, HERE)]


@pytest.fixture
def files(written: list[Files]) -> Files:
    """What the role writes of the project with services."""
    return written[1]


def test_a_service_has_a_unit_with_its_command_and_limits(files: Files) -> None:
    lines = files[f"{UNITS}/celery-service@web.service"]["content"].splitlines()

    assert 'ExecStart=/usr/local/sbin/celery-serve "gunicorn" "--bind=[::1]:80" "a $$b %%n"' in lines
    assert 'ExecStartPost=/usr/local/sbin/celery-serve -r 20 "curl" "--fail" "http://[::1]:80"' in lines
    assert {"Type=exec", "TimeoutStartSec=50", "MemoryMax=2G", "Slice=celery.slice"} <= set(lines)
    assert [line for line in lines if line.startswith("EnvironmentFile=")] == [
        "EnvironmentFile=/etc/celery/app.env",
        "EnvironmentFile=/etc/celery/services/web.env",
    ]
    assert [line for line in lines if line.startswith("CPUQuota")] == []


def test_a_service_says_itself_that_it_is_ready(files: Files) -> None:
    lines = files[f"{UNITS}/celery-service@reader.service"]["content"].splitlines()

    assert {"Type=notify", "TimeoutStartSec=60"} <= set(lines)
    assert [line for line in lines if line.startswith("ExecStartPost")] == []


def test_a_timer_has_a_job(files: Files) -> None:
    timer = files[f"{UNITS}/celery-timer@nightly.timer"]["content"].splitlines()
    job = files[f"{UNITS}/celery-timer@nightly.service"]["content"].splitlines()

    assert {"OnCalendar=04:30", "Persistent=true", "RandomizedDelaySec=0"} <= set(timer)
    assert 'ExecStart=/usr/local/sbin/celery-serve "python" "manage.py" "clearsessions"' in job
    assert {"Type=oneshot", "TimeoutStartSec=3600"} <= set(job)


def test_a_secret_of_a_service_is_read_by_root_alone(files: Files) -> None:
    secret = files["/etc/celery/services/web.env"]

    assert secret["mode"] == "0600"
    assert 'TOKEN="se\\$cret"' in secret["content"].splitlines()
    assert [path for path, file in files.items() if "se$cret" in file["content"]] == []


@pytest.mark.parametrize("unit", ["celery-service@web.service", "celery-timer@nightly.service"])
def test_services_are_as_hardened_as_workers(unit: str, files: Files, tmp_path: Path) -> None:
    (tmp_path / unit).write_text(files[f"{UNITS}/{unit}"]["content"])

    score = security_score(tmp_path, unit)

    assert score.returncode == 0, score.stdout + score.stderr


def test_a_project_without_services_has_none_of_their_files(written: list[Files]) -> None:
    assert [path for path in written[0] if "service@" in path or "timer@" in path or "serve" in path] == []


def test_a_service_restarts_when_something_of_it_changes(written: list[Files]) -> None:
    before, *after = written[1:]

    for files, (changes, names) in zip(after, CHANGES, strict=True):
        changed = {
            Path(path).name
            for path, file in files.items()
            if path.endswith(".env") and before[path]["content"] != file["content"]
        }
        assert changed == names, changes


def test_units_are_those_of_the_host() -> None:
    two = Place(
        "host2",
        {"host1": {}, "host2": {}},
        groups={"workers": ["host1", "host2"], "front": ["host2"], "back": ["host1"]},
    )
    front, back = WEB | {"hosts": ["front"]}, READER | {"hosts": ["back"]}

    # A rollback asks the host for nothing.
    asked = ("__celery_app_target", "__celery_app_bundle")
    inputs = {name: value for name, value in OWN.items() if name not in asked}

    [here] = evaluate(
        "celery_app", "__celery_app_served_units", [inputs | {"celery_app_services": [front, back]}], two
    )

    # A timer without hosts is the first one's.
    assert here == [
        {
            "name": "celery-service@web.service",
            "environment_files": ["/etc/celery/app.env", "/etc/celery/services/web.env"],
        }
    ]


def test_what_ran_before_is_run_again_with_its_settings() -> None:
    found = {
        "files": [
            {"path": f"{UNITS}/{name}"} for name in ("celery-timer@x.timer", "celery-service@a-b.service")
        ]
    }

    [before] = evaluate(
        "celery_app", "__celery_app_served_before", [INPUTS | {"__celery_app_served_found": found}]
    )

    assert before == [
        {
            "name": "celery-service@a-b.service",
            "environment_files": ["/etc/celery/app.env", "/etc/celery/services/a-b.env"],
        },
        {"name": "celery-timer@x.timer", "environment_files": []},
    ]


def test_a_timer_is_not_restarted_with_a_release() -> None:
    seen = units.parse_units(
        "Id=celery-timer@x.timer\nLoadState=loaded\nActiveState=active\nUnitFileState=enabled\n"
    )

    assert not any(units.plan(seen, {"celery-timer@x.timer": units.Wanted([], {})}, {}, "r2"))


def test_words_reach_a_command_as_they_are() -> None:
    assert unit_words(["a b", 'c"d', "\\", "100%", "$HOME", "two\nlines", 5]) == (
        r'"a b" "c\"d" "\\" "100%%" "$$HOME" "two\nlines" "5"'
    )


def test_what_names_no_host_is_on_all_or_on_the_usual_ones() -> None:
    records: list[dict[str, Any]] = [{"name": "all"}, {"name": "empty", "hosts": []}]
    records.append({"name": "web", "hosts": ["web"]})

    def found(*arguments: Any) -> list[str]:
        return [str(record["name"]) for record in on_host(records, *arguments)]

    assert found("host1", ["web"]) == ["all", "empty", "web"]
    assert found("host1", []) == ["all", "empty"]
    assert found("host2", ["web"], ["host1"]) == ["web"]
    assert found("host1", [], ["host1"]) == ["all", "empty"]


@pytest.mark.parametrize(
    ("unit", "name"),
    [
        ("celery-service@web.service", "celery-service@web"),
        ("celery-shop-timer@nightly.timer", "celery-shop-timer@nightly"),
        ("postgresql@17-main.service", "postgresql"),
        ("celery-beat.service", "celery-beat"),
    ],
)
def test_a_screen_names_each_service(unit: str, name: str) -> None:
    assert shown_unit(unit) == name


@pytest.fixture(scope="module")
def launcher() -> str:
    """What the units start, for releases in the working directory."""
    template = "usr/local/sbin/celery-serve.j2"
    return render("celery_app", [template], INPUTS | {"celery_app_root": "."})[template]


def serve(text: str, folder: Path, *arguments: str, main_pid: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the launcher on a release in a folder."""
    return subprocess.run(
        ["/bin/sh", "-c", text, "celery-serve", *arguments],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "MAINPID": str(main_pid)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A release with a program and files of its own."""
    program = write(tmp_path / "releases/r1/venv/bin/own", "#!/bin/sh\necho $PWD $CELERY_APP_RELEASE $1\n")
    program.chmod(0o755)
    write(tmp_path / "releases/r1/source/manage.py", "")
    (tmp_path / "current").symlink_to("releases/r1")
    return tmp_path


def test_a_service_runs_a_program_of_the_release_where_its_files_are(launcher: str, release: Path) -> None:
    done = serve(launcher, release, "own", "a b")

    assert done.stdout == f"{release}/releases/r1/source r1 a b\n"


READY: list[tuple[Sequence[str], int, str]] = [
    (["true"], 0, ""),
    (["sh", "-c", "echo refused >&2; exit 1"], 1, "not ready within 1 s: refused\n"),
    (["sleep", "60"], 1, "not ready within 1 s: sleep says nothing\n"),
]


@pytest.mark.parametrize(("command", "status", "words"), READY)
def test_a_service_is_ready_once_its_command_succeeds(
    command: Sequence[str], status: int, words: str, launcher: str, release: Path
) -> None:
    with subprocess.Popen(["sleep", "600"]) as service:
        done = serve(launcher, release, "-r", "1", *command, main_pid=service.pid)
        service.kill()

    assert (done.returncode, done.stdout) == (status, words)


def test_a_service_that_has_ended_does_not_get_ready(launcher: str, release: Path) -> None:
    with subprocess.Popen(["true"]) as service:
        service.wait()

        done = serve(launcher, release, "-r", "5", "true", main_pid=service.pid)

    assert (done.returncode, done.stdout) == (1, "ended before it was ready\n")
