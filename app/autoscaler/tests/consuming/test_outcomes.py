"""What became of a task is told without holding up others, whatever server is away."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from celery import Celery
from celery.result import AsyncResult
from support.processes.counted_tasks import Fleet
from support.processes.services import RedisServer, RedisServerFactory, wait_for

# Seconds that the end of an idle worker takes at most, three times over for a busy machine.
STOP = 3 * 3.0
# Their states are to be stored by the worker's main process.
STORED: dict[str, Any] = {"ignore_result": False}


@pytest.fixture
def results(redis_server_factory: RedisServerFactory) -> RedisServer:
    """Return a server of results of its own."""
    return redis_server_factory()


def settings(results: RedisServer, **more: Any) -> dict[str, Any]:
    """Return the settings of a worker whose results are on that server; who sends knows nothing of it."""
    return {"result_backend": results.url} | more


def send_what_the_main_process_stores(fleet: Fleet, seconds: float = 1.0) -> list[str]:
    """Send tasks of each kind whose end a child process cannot tell."""
    tasks = fleet.tasks
    return [
        *tasks.send(2, expires=-60.0, **STORED),
        *tasks.send(1, name="of_another_release", **STORED),
        *tasks.send(1, 60.0, time_limit=seconds, **STORED),
        *tasks.send(1, name="die", **STORED),
    ]


def wait_until_settled(fleet: Fleet) -> None:
    def settled() -> bool:
        return fleet.tasks.left().keys() <= {"dead_letter:celery"}

    wait_for(settled, lambda: f"left: {fleet.tasks.left()}")


def states(results: RedisServer, ids: list[str]) -> list[str]:
    with Celery(backend=results.url, set_as_current=False) as app:
        return [str(AsyncResult(name, app=app).state) for name in ids]


# A message says since 5.6 whether its result is stored.
@pytest.mark.parametrize("always_retry", [pytest.param(True, marks=pytest.mark.celery(5, 6)), False])
@pytest.mark.versions
def test_others_go_on_while_the_server_of_results_is_away(
    fleet: Fleet, results: RedisServer, always_retry: bool
) -> None:
    worker = fleet.start(concurrency=1, settings=settings(results, result_backend_always_retry=always_retry))
    results.crash()

    odd = send_what_the_main_process_stores(fleet)
    ordinary = fleet.tasks.send(5)
    fleet.tasks.wait_until_ended(ordinary)
    assert fleet.tasks.app.control.ping(timeout=5.0, limit=1)

    results.restart()
    if always_retry:
        expected = ["REVOKED", "REVOKED", "FAILURE", "FAILURE"]
        wait_for(lambda: states(results, odd[:4]) == expected, lambda: f"stored: {states(results, odd[:4])}")
    wait_for(
        lambda: fleet.tasks.left().keys() <= {"dead_letter:celery"}, lambda: f"left: {fleet.tasks.left()}"
    )
    assert fleet.tasks.outcome(ordinary).exactly_once
    assert worker.stop() == 0


def test_an_idle_worker_ends_at_once_while_the_server_of_results_is_away(
    fleet: Fleet, results: RedisServer
) -> None:
    worker = fleet.start(concurrency=2, settings=settings(results))
    results.container.pause()
    try:
        odd = send_what_the_main_process_stores(fleet)
        ordinary = fleet.tasks.send(3)
        fleet.tasks.wait_until_ended(ordinary)
        # The one that dies, and the one that is killed at its limit.
        worker.wait_for_output(r"(?s)exited with.*exited with")

        began = time.monotonic()
        assert worker.stop() == 0
        assert time.monotonic() - began < STOP
    finally:
        results.container.unpause()

    fleet.start(settings=settings(results))
    wait_for(
        lambda: fleet.tasks.left().keys() <= {"dead_letter:celery"}, lambda: f"left: {fleet.tasks.left()}"
    )
    # The one with the time limit.
    assert fleet.tasks.started()[odd[3]] == 1
    assert fleet.tasks.outcome(ordinary).exactly_once


def test_a_task_that_cannot_be_handed_over_costs_itself_alone(fleet: Fleet) -> None:
    fleet.tasks.send(1)
    message = json.loads(str(fleet.tasks.redis.rpop("celery")))
    wrong: list[Any] = [3, ["x", None], [None, [1]], {"a": 1}, "33", [-1, None]]
    for limits in wrong:
        # One that is handed over as it comes, and one that is by a timer.
        for eta in (None, "2020-01-01T00:00:00+00:00"):
            message["headers"] |= {"id": f"{limits} {eta}", "timelimit": limits, "eta": eta}
            fleet.tasks.redis.lpush("celery", json.dumps(message))
    worker = fleet.start(concurrency=1)

    ids = fleet.tasks.send(6)
    assert fleet.tasks.settle(ids).exactly_once
    assert fleet.tasks.started().keys() == set(ids)
    assert fleet.tasks.left() == {"dead_letter:celery": 2 * len(wrong)}
    assert worker.stop() == 0
