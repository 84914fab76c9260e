"""What differs between versions of Celery makes no difference to a worker."""

from __future__ import annotations

from typing import Any

import pytest
from celery import Celery
from celery_autoscaler.consuming import supported, versions
from celery_autoscaler.protocol.recovery import MAX_REDELIVERIES
from support.processes.counted_tasks import Fleet, NewFleet
from support.processes.launched_workers import APP
from support.processes.services import wait_for

LEAVE = '''
@app.task(bind=True)
def leave(task):
    """End the process that runs the task, as a library may."""
    begin(task)
    sys.exit(3)
'''


def dead_letters(fleet: Fleet) -> list[Any]:
    found: Any = fleet.tasks.redis.lrange("dead_letter:celery", 0, -1)
    return list(found)


@pytest.mark.versions
def test_a_task_at_its_hard_time_limit_runs_again_if_the_app_wants_it_to(new_fleet: NewFleet) -> None:
    fleet = new_fleet({"task_acks_on_failure_or_timeout": False})
    fleet.start(concurrency=1)
    ids = fleet.tasks.send(1, 60.0, time_limit=0.5)

    wait_for(lambda: len(dead_letters(fleet)) == 1, lambda: f"begun: {fleet.tasks.started()}")
    assert fleet.tasks.started()[ids[0]] == 1 + MAX_REDELIVERIES
    assert "TimeLimitExceeded" in dead_letters(fleet)[0]


@pytest.mark.versions
def test_a_task_that_ends_its_process_is_one_whose_process_was_lost(fleet: Fleet) -> None:
    (fleet.folder / "single.py").write_text(APP + LEAVE)
    fleet.start(concurrency=1)
    ids = fleet.tasks.send(1, name="leave")

    wait_for(lambda: len(dead_letters(fleet)) == 1, lambda: f"begun: {fleet.tasks.started()}")
    assert fleet.tasks.started()[ids[0]] == 1 + MAX_REDELIVERIES


@pytest.mark.versions
@pytest.mark.parametrize("namespace", ["", "CELERY"])
def test_a_setting_of_the_app_is_found_wherever_it_is_set(namespace: str) -> None:
    app = Celery(set_as_current=False)
    if namespace:
        settings = type("Settings", (), {"CELERY_RESULT_BACKEND_ALWAYS_RETRY": False})
        app.config_from_object(settings, namespace=namespace)
    else:
        app.conf.update(result_backend_always_retry=False)

    assert versions.value_set_for(app.conf, "result_backend_always_retry")
    assert not versions.value_set_for(app.conf, "broker_connection_max_retries")


def test_a_version_that_is_newer_than_the_tested_ones_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert supported.untested() == []
    monkeypatch.setattr(supported, "installed", lambda name: (9, 1) if name == "celery" else (5, 5))

    assert supported.untested() == [
        "celery 9.1 is newer than the versions that this worker was tested with (5.4 to 5.7)"
    ]


def test_a_version_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert supported.too_old() is None
    monkeypatch.setattr(supported, "installed", lambda _: (5, 3))

    assert supported.too_old() == (
        "celery 5.3 is too old for this worker: allowed is 5.4 or later "
        "(celery_app_plain_workers: true runs plain workers of Celery 5.2 or later)"
    )
