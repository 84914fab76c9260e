"""What the last table of a play says."""

import importlib.util
from typing import Any, NamedTuple

import pytest
from rich.console import Console
from support.role_files import CHECKOUT


def load(name: str) -> Any:
    """Import a callback plugin."""
    spec = importlib.util.spec_from_file_location(name, CHECKOUT / f"plugins/callback/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_setting_that_can_lose_tasks_is_told_once_with_its_hosts_and_errors_come_first() -> None:
    late = {"level": "error", "text": "task_acks_late is off [see docs]"}
    many = {"level": "warning", "text": "worker_prefetch_multiplier=4"}
    console = Console(width=100)

    with console.capture() as captured:
        console.print(load("fleet_report").findings_table({"web2": [many, late], "web1": [late]}))

    lines = captured.get().splitlines()
    errors = [line for line in lines if "task_acks_late is off [see docs]" in line]
    assert len(errors) == 1
    assert "error" in errors[0]
    assert "web1, web2" in errors[0]
    assert lines.index(errors[0]) < next(n for n, line in enumerate(lines) if "prefetch" in line)


def test_status_warns_of_settings_that_can_lose_tasks() -> None:
    fleet = {
        "also": [
            {"word": "unsafe settings", "why": "task_acks_late is off"},
            {"word": "dead letters", "why": "1"},
        ]
    }

    assert list(load("fleet_status").warnings({}, {"celery": fleet})) == [
        "unsafe settings: task_acks_late is off"
    ]


def test_status_says_which_hosts_run_plain_workers() -> None:
    plugin = load("fleet_status")

    assert list(plugin.warnings({"web1": plugin.SILENT, "web2": plugin.SILENT | {"plain": True}}, {})) == [
        "web2: plain Celery workers, for which no guarantee about workers and scaling holds"
    ]


class Stats(NamedTuple):
    """What Ansible hands to a callback at the end of a run."""

    custom: dict[str, Any]


def test_status_begins_with_the_hosts_that_do_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    plugin = load("fleet_status")
    fleet = {"verdict": "keeping up", "why": "no tasks waiting"}

    plugin.CallbackModule().v2_playbook_on_stats(
        Stats({"_run": {"fleet_status": {"hosts": {}, "expected": ["web1"], "fleets": {"celery": fleet}}}})
    )

    lines = capsys.readouterr().out.split("\n")
    assert lines[:3] == ["", "web1 does not answer", "KEEPING UP  no tasks waiting"]
    assert not any("No warnings" in line for line in lines)


def test_status_names_a_host_that_was_drained_and_how_it_comes_back() -> None:
    drained = {"state": "leaving", "why": "ann", "groups": {}}

    assert list(load("fleet_status").warnings({}, {"celery": {"supervisors": {"web2": drained}}})) == [
        "web2: runs no workers, drained by ann; resume.yml ends that"
    ]


def test_status_shows_each_project_and_blames_none_for_the_broker_of_another(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plugin = load("fleet_status")
    keeps_up = {"verdict": "keeping up", "why": "no tasks waiting", "supervisors": {}}
    unit = {"unit": "celery-blog-autoscaler.service", "active": "active"}
    hosts = {
        name: plugin.SILENT | {"answers": True, "project": project, "release": release}
        for name, project, release in [("web1", "shop", "r1"), ("web2", "blog", "b1"), ("web3", "blog", "b2")]
    }
    hosts["web2"] = hosts["web2"] | {"units": [unit]}

    plugin.CallbackModule().v2_playbook_on_stats(
        Stats(
            {
                "_run": {
                    "fleet_status": {"hosts": hosts, "expected": [], "fleets": {"shop": keeps_up, "blog": {}}}
                }
            }
        )
    )

    shown = capsys.readouterr().out
    assert shown.split("\n")[:3] == [
        "", "blog: No supervisor answers.", "shop: KEEPING UP  no tasks waiting",
    ]  # fmt: skip
    assert "the hosts of blog are on 2 releases: b1, b2" in shown
    assert "does not report" not in shown
