"""`check`: settings that cost tasks or time."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery_autoscaler.supervisor.loop import Supervisor
from celery_autoscaler.supervisor.policy.estimates import Work
from click.testing import Result
from kombu import Queue
from support.command_runs import invoke
from support.processes.services import RedisServerFactory

# Nothing to be said against these.
GOOD = {"task_acks_late": True, "task_reject_on_worker_lost": True, "worker_prefetch_multiplier": 1}


def test_a_project_as_it_should_be_passes(redis_server_factory: RedisServerFactory) -> None:
    server = redis_server_factory("--appendonly", "yes", "--dir", "/tmp")  # noqa: S108  in its container
    with Celery("proj", broker=server.url, set_as_current=False) as app:
        app.conf.update(GOOD)
        result = invoke(app, "check")

    assert (result.exit_code, result.output) == (0, "No problems found.\n")


def check(app: Celery, *arguments: str, **settings: Any) -> Result:
    """Check an app that is good but for some settings."""
    app.conf.update(GOOD | settings)
    return invoke(app, "check", *arguments)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"task_acks_late": False}, "error: task_acks_late is off"),
        ({"task_reject_on_worker_lost": False}, "error: task_reject_on_worker_lost is off"),
        ({"worker_prefetch_multiplier": 4}, "warning: worker_prefetch_multiplier=4: tasks wait behind"),
        (
            {"broker_transport_options": {"visibility_timeout": 60}},
            "warning: visibility_timeout=60: the workers of this fleet need none",
        ),
        (
            {"task_time_limit": 3600},
            "warning: default: drain_timeout=600 is shorter than task_time_limit=3600",
        ),
        ({}, "warning: Redis has no append-only file"),
    ],
)
def test_settings_that_cost_tasks_or_time_are_named(
    app: Celery, settings: dict[str, Any], words: str
) -> None:
    result = check(app, **settings)

    assert words in result.output
    assert result.exit_code == int("error" in words)


def test_a_signal_that_interrupts_tasks_is_an_error(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMAP_SIGTERM", "SIGQUIT")

    result = check(app)

    assert result.exit_code == 1
    assert result.output.startswith("error: REMAP_SIGTERM=SIGQUIT: stopping a worker interrupts its tasks\n")


def test_queues_and_groups_that_do_not_match_are_named(app: Celery, tmp_path: Path) -> None:
    app.conf.task_routes = [
        [("web.*", {"queue": "pages"}), (re.compile("old"), {"queue": Queue("letters")})],
        {"bill": "bills"},
        lambda *_, **__: None,
    ]
    path = tmp_path / "autoscaler.toml"
    path.write_text(
        '[groups.mails]\nqueues = ["mials", "pages", "letters"]\n'
        'options = { autoscale = "2,8" }\nmax_workers = 9000\n'
    )

    result = check(app, "-c", str(path))

    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert lines[0] == "error: queue celery of the app belongs to no group: its tasks wait forever"
    assert lines[1] == "error: mails: autoscale=2,8 is the wrong way round: it is max,min"
    assert [line for line in lines if "queue " in line][1:] == [
        "warning: queue bills of the app's task_routes belongs to no group: who serves it?",
        "warning: queue mials is in neither task_queues nor task_routes of the app: is the name right?",
    ]
    assert any("clients; at their maximum the workers need about 90000" in line for line in lines)


def test_a_server_that_drops_tasks_when_it_is_full_is_an_error(
    redis_server_factory: RedisServerFactory,
) -> None:
    server = redis_server_factory("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    with Celery("proj", broker=server.url, set_as_current=False) as app:
        result = check(app)

    assert result.exit_code == 1
    assert "error: Redis has maxmemory-policy allkeys-lru: when it is full it drops tasks" in result.output


def test_what_was_measured_is_compared_with_the_settings(
    app: Celery, supervise: Callable[..., Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIN_WORKERS", "0")
    supervisor = supervise()
    state = supervisor.groups["default"]
    state.startup.add(12.0)
    state.meter.work = Work(tasks=10.0, seconds=9000.0)
    supervisor.tick()

    shown = invoke(app, "check").output

    assert "default: its tasks take 900 s on average, longer than drain_timeout=600" in shown
    # A child is a fork of the worker that has imported the app: its start is not the worker's.
    assert "worker_proc_alive_timeout" not in shown
    assert "default: a start takes 12 s: with min_workers=0 the target wait of 10 s cannot be met" in shown


def test_wrong_settings_are_told_in_one_line(app: Celery, tmp_path: Path) -> None:
    path = tmp_path / "autoscaler.toml"
    path.write_text("tick = 0")

    result = check(app, "-c", str(path))

    assert result.output == (f"Error: {path}: tick=0 is wrong: allowed is a number from 0.1 to 60 seconds\n")
