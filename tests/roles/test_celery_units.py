"""Which units are restarted, replaced, started or stopped."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.made_up_projects import INPUTS, write
from support.role_files import (
    Place,
    evaluate,
    load_module,
    load_shared,
    render,
    security_score,
)

environment = load_shared("celery_environment")
units = load_module("celery_units")


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


def test_the_workers_of_a_group_that_is_gone_are_left_to_the_supervisor() -> None:
    groups = [{"name": "web", "workers": 1}, {"name": "mails", "workers": 1}]

    owned = evaluate(
        "celery_app",
        "__celery_app_owned_units",
        [
            INPUTS | {"celery_app_worker_groups": groups, "celery_app_supervised": True},
            INPUTS | {"celery_app_worker_groups": groups},
            INPUTS | {"celery_app_supervised": True},
        ],
    )

    assert owned == [
        ["celery-worker@web-[0-9]*.service", "celery-worker@mails-[0-9]*.service"],
        ["celery-worker@*.service"],
        ["celery-worker@*.service"],
    ]


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


def test_what_systemctl_could_not_do_is_one_line() -> None:
    said = (
        "Created symlink a → b.\nJob for w@1.service failed because a timeout was exceeded.\n"
        'See "systemctl status w@1.service" for details.\n'
    )

    assert units.reason(said) == "Job for w@1.service failed because a timeout was exceeded."
    assert units.reason("Unit w@2.service not found.\n") == "Unit w@2.service not found."
    assert units.reason("") == "it said nothing"


def test_the_workers_of_before_have_the_settings_of_their_groups() -> None:
    ran = ["celery-worker@web-1.service", "celery-worker@slow-reports-12.service"]
    cases = [INPUTS | {"__celery_app_ran": ran, "celery_app_supervised": on} for on in (False, True)]

    here, supervised = evaluate("celery_app", "__celery_app_units_before", cases)

    assert [(unit["name"], unit["environment_files"][1]) for unit in here] == [
        (ran[0], "/etc/celery/groups/web.env"),
        (ran[1], "/etc/celery/groups/slow-reports.env"),
    ]
    assert supervised == []


def test_a_unit_s_worker_has_the_name_that_celery_gives_it() -> None:
    assert units.worker_name("celery-worker@slow-reports-2.service", "web1") == "slow-reports-2@web1"


@pytest.mark.parametrize("host", ["web1", "10.0.0.5", "2001:db8::11", "Web-1.example"])
def test_a_worker_has_the_inventory_s_name_of_its_host(host: str) -> None:
    launcher = "usr/local/sbin/celery-launch.j2"

    lines = render("celery_app", [launcher], INPUTS, Place(host, {host: {}}))[launcher]

    assert f'worker --hostname "$2@{host}" ' in lines
    assert "%h" not in lines


def test_tasks_find_the_console_scripts_of_their_release(tmp_path: Path) -> None:
    launcher = "usr/local/sbin/celery-launch.j2"
    inputs = INPUTS | {"celery_app_root": str(tmp_path)}
    text = render("celery_app", [launcher], inputs)[launcher].replace("/etc/celery", str(tmp_path))
    program = write(tmp_path / "releases/r1/venv/bin/python", "#!/bin/sh\necho $PATH\n")
    program.chmod(0o755)
    (tmp_path / "current").symlink_to("releases/r1")
    write(tmp_path / "groups/web.env", "")

    done = subprocess.run(
        ["/bin/sh", "-c", text, "celery-launch", "worker", "web-1"],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.strip() == f"{program.parent}:/usr/bin:/bin"


def test_the_definition_of_a_host_changes_with_its_name() -> None:
    [one], [same], [other] = (
        evaluate("celery_app", "__celery_app_definition", [INPUTS], Place(host, {host: {}}))
        for host in ("web1", "web1", "web2")
    )

    assert one == same != other


def test_a_name_that_no_worker_can_have_is_refused() -> None:
    [errors] = evaluate("celery_app", "__celery_app_errors", [INPUTS], Place("web@1", {"web@1": {}}))

    assert errors == [
        "inventory name 'web@1': a host of the app is named in its workers' names (allowed: letters, digits, "
        "'_', '.', ':' and '-')"
    ]


def test_a_worker_that_runs_under_another_name_of_its_host_is_found() -> None:
    command = [sys.executable, "-c", "input(1)", "worker", "--hostname", "web-1@cloned"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        # Its command line is there for certain once it says something.
        assert process.stdout is not None
        process.stdout.read(1)
        seen = {"celery-worker@web-1.service": unit(main_pid=process.pid), "gone": unit(main_pid=0)}
        names = list(seen)

        assert units.running_name(process.pid) == "web-1@cloned"
        assert units.renamed("host1", names, seen)
        assert not units.renamed("cloned", names, seen)
        assert not units.renamed("host1", ["gone", "unknown"], seen)
        process.communicate(b"\n")
