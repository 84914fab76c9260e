"""A task does not fail because its result cannot be stored for a moment."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest
from celery import chord
from celery.result import AsyncResult
from support.processes.counted_tasks import Fleet, NewFleet
from support.processes.refusing_servers import alone, full, replica
from support.processes.services import RedisServer, RedisServerFactory, wait_for


@contextmanager
def gone(server: RedisServer) -> Iterator[None]:
    """Have the server die, and come back empty."""
    server.crash()
    yield
    server.restart()


def wait_until_nothing_ends(fleet: Fleet, seconds: float = 1.5) -> None:
    """Return when no task has ended for that number of seconds: not every Celery logs that it waits."""
    ended, since = fleet.tasks.ended(), time.monotonic()

    def stands_still() -> bool:
        nonlocal ended, since
        if (now := fleet.tasks.ended()) != ended:
            ended, since = now, time.monotonic()
        return time.monotonic() - since > seconds

    wait_for(stands_still, "tasks end though their results cannot be stored")


@pytest.mark.parametrize("away", [alone, full, replica, gone])
@pytest.mark.versions
def test_a_task_waits_for_the_server_of_results(
    new_fleet: NewFleet,
    redis_server_factory: RedisServerFactory,
    away: Callable[[RedisServer], AbstractContextManager[None]],
) -> None:
    server = redis_server_factory()
    settings = {"task_ignore_result": False, "task_track_started": True, "result_backend": server.url}
    fleet = new_fleet(settings)
    fleet.start()
    ids = fleet.tasks.send(10, 0.3)
    fleet.tasks.wait_until_started(ids[:1])

    with away(server):
        wait_until_nothing_ends(fleet)
    found = fleet.tasks.settle(ids)

    assert found.exactly_once, found
    assert AsyncResult(ids[-1], app=fleet.tasks.app).get(timeout=10) is None


def test_chord_goes_on_whose_last_task_was_killed_when_it_had_stored_its_success(new_fleet: NewFleet) -> None:
    fleet = new_fleet({"task_ignore_result": False})
    app = fleet.tasks.app
    fleet.start(concurrency=1)

    header = [
        app.signature(f"single.{name}", args=arguments, immutable=True, task_id=name)
        for name, arguments in (("count", (0.0,)), ("die_after_success", ()))
    ]
    body = app.signature("single.count", args=(0.0,), immutable=True, task_id="body")
    sent = chord(header, body, app=app).apply_async()

    assert fleet.tasks.settle(["count", "die_after_success", "body"]).ended_again == []
    fleet.tasks.wait_until_ended(["body"])
    # Results that are collected when the server is gone shall not look for it.
    sent.forget()


def test_chord_goes_on_whose_last_task_was_killed_while_it_sent_the_body(new_fleet: NewFleet) -> None:
    fleet = new_fleet({"task_ignore_result": False})
    tasks = fleet.tasks
    # Results that are collected when the server is gone shall not look for it.
    backend: Any = tasks.app.backend
    backend.remove_pending_result = lambda result: result
    signatures = [
        tasks.app.signature("single.count", args=(0.0,), immutable=True, task_id=name)
        for name in ("first", "last", "body")
    ]
    chord(signatures[:2], signatures[2], app=tasks.app).apply_async()
    messages: Any = tasks.redis.lrange("celery", 0, -1)
    tasks.redis.delete("celery")
    for text in messages:
        message = json.loads(text)
        # As a rescue marks it.
        message["properties"]["delivery_info"]["redelivered"] = True
        tasks.redis.rpush("celery", json.dumps(message))
    # As the process left it that was killed.
    tasks.redis.set(f"celery-taskset-meta-{message['headers']['group']}.c", "dead", ex=12)

    fleet.start(concurrency=1)
    outcome = tasks.settle(["first", "last", "body"])

    assert outcome.exactly_once, outcome
