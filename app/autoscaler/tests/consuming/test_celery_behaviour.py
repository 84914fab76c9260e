"""What Celery documents works with our workers as with plain ones."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import chain, chord, group
from celery.exceptions import TaskRevokedError, TimeLimitExceeded
from celery.result import AsyncResult
from support.processes.counted_tasks import Fleet
from support.processes.services import RedisServer, wait_for

pytestmark = pytest.mark.versions

WITHIN = 30.0
HERE = ["behaved@here"]


@pytest.fixture(scope="module")
def shared(redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Return a fleet with one worker of two processes, for all tests of the module."""
    redis_server.flush()
    folder: Path = tmp_path_factory.mktemp("behaviour")
    settings = {"task_ignore_result": False, "worker_prefetch_multiplier": 4}
    with Fleet(folder, redis_server.url, None, settings) as fleet:
        fleet.start(name="behaved")
        yield fleet


@pytest.fixture(autouse=True)
def _show_log(shared: Fleet) -> Iterator[None]:
    yield
    print(shared.tails())  # noqa: T201  pytest shows it with a failure only


@pytest.fixture
def app(shared: Fleet) -> Any:
    """Return the app of a producer; canvas asks for the current one."""
    shared.tasks.app.set_current()
    return shared.tasks.app


def result(app: Any, task_id: str) -> AsyncResult[Any]:
    """Return the result of a task by its id."""
    return AsyncResult(task_id, app=app)


def add(app: Any, *numbers: Any) -> Any:
    """Return the signature of an addition."""
    return app.signature("single.add", args=numbers)


def test_chain(app: Any) -> None:
    assert chain(add(app, 1, 2), add(app, 3), add(app, 4)).apply_async().get(WITHIN) == 10


def test_group(app: Any) -> None:
    assert group(add(app, number, 1) for number in range(10)).apply_async().get(WITHIN) == list(range(1, 11))


def test_chord(app: Any) -> None:
    # The body gets the results in one list.
    assert chord([add(app, number, 0) for number in range(20)])(add(app)).get(WITHIN) == sum(range(20))


def test_retry(app: Any, shared: Fleet) -> None:
    (task_id,) = shared.tasks.send(1, 3, name="fail_at_first")

    assert result(app, task_id).get(WITHIN) == 3
    assert shared.tasks.started()[task_id] == 4


def test_countdown(shared: Fleet) -> None:
    sent = time.time()
    (task_id,) = shared.tasks.send(1, 0.0, countdown=2)
    shared.tasks.wait_until_ended([task_id])

    assert float(str(shared.tasks.counts.hget("at", task_id))) - sent >= 2


def test_a_task_revoked_before_it_begins_never_runs(app: Any, shared: Fleet) -> None:
    blockers = shared.tasks.send(2, 3.0)
    shared.tasks.wait_until_started(blockers)
    (task_id,) = shared.tasks.send(1)
    app.control.revoke(task_id)
    shared.tasks.wait_until_ended(blockers)

    with pytest.raises(TaskRevokedError):
        result(app, task_id).get(WITHIN)
    assert not shared.tasks.started()[task_id]


def test_rate_limit(app: Any, shared: Fleet) -> None:
    assert app.control.rate_limit("single.count", "4/s", reply=True, timeout=WITHIN, destination=HERE)
    ids = shared.tasks.send(8, 0.0)
    shared.tasks.wait_until_ended(ids)
    app.control.rate_limit("single.count", 0, reply=True, timeout=WITHIN, destination=HERE)

    times = sorted(float(str(shared.tasks.counts.hget("at", task_id))) for task_id in ids)
    # The bucket lets the first ones through at once.
    assert times[-1] - times[0] >= 0.75


def test_soft_time_limit(app: Any, shared: Fleet) -> None:
    (task_id,) = shared.tasks.send(1, 60.0, name="soft", soft_time_limit=1)

    assert result(app, task_id).get(WITHIN) == "soft limit"


def test_inspect_tells_what_the_worker_does(app: Any, shared: Fleet) -> None:
    running = shared.tasks.send(2, 6.0)
    shared.tasks.wait_until_started(running)
    reserved = shared.tasks.send(2)
    later = shared.tasks.send(1, countdown=3600)
    wait_for(lambda: len(shared.tasks.held("behaved")) == 5, "the worker has not taken the tasks")
    inspect = app.control.inspect(destination=HERE, timeout=WITHIN)

    def ids(report: dict[str, list[dict[str, Any]]]) -> list[str]:
        return sorted(str(task.get("request", task)["id"]) for task in report["behaved@here"])

    assert ids(inspect.active()) == running
    assert ids(inspect.reserved()) == reserved
    assert ids(inspect.scheduled()) == later
    assert inspect.stats()["behaved@here"]["pool"]["max-concurrency"] == 2
    assert [queue["name"] for queue in inspect.active_queues()["behaved@here"]] == ["celery"]
    assert inspect.ping() == {"behaved@here": {"ok": "pong"}}
    app.control.revoke(later[0])
    shared.tasks.wait_until_ended(running + reserved)


def test_queues_are_added_and_cancelled(app: Any, shared: Fleet) -> None:
    reply: dict[str, Any] = {"reply": True, "timeout": WITHIN, "destination": HERE}
    waiting = shared.tasks.send(3, queue="added")
    assert not shared.tasks.started().keys() & set(waiting)

    app.control.add_consumer("added", **reply)
    shared.tasks.wait_until_ended(waiting)
    app.control.cancel_consumer("added", **reply)
    after = shared.tasks.send(3, queue="added")
    others = shared.tasks.send(3)
    shared.tasks.wait_until_ended(others)

    assert shared.tasks.waiting("added") == after
    shared.tasks.redis.delete("added")


def test_the_pool_grows_and_shrinks(app: Any, shared: Fleet) -> None:
    reply: dict[str, Any] = {"reply": True, "timeout": WITHIN, "destination": HERE}

    def processes() -> int:
        stats = app.control.inspect(destination=HERE, timeout=WITHIN).stats()
        return len(stats["behaved@here"]["pool"]["processes"])

    app.control.pool_grow(1, **reply)
    wait_for(lambda: processes() == 3, "the pool does not grow")
    shared.tasks.wait_until_ended(shared.tasks.send(20))
    app.control.pool_shrink(1, **reply)
    wait_for(lambda: processes() == 2, "the pool does not shrink")
    shared.tasks.wait_until_ended(shared.tasks.send(20))


# Those that kill a process of the pool come last: Celery replaces it some seconds later.
def test_a_running_task_is_terminated(app: Any, shared: Fleet) -> None:
    (task_id,) = shared.tasks.send(1, 60.0)
    shared.tasks.wait_until_started([task_id])

    app.control.revoke(task_id, terminate=True)

    with pytest.raises(TaskRevokedError):
        result(app, task_id).get(WITHIN)
    wait_for(lambda: task_id not in shared.tasks.held("behaved"), "its message is still held")
    assert not shared.tasks.ended()[task_id]
    assert shared.tasks.started()[task_id] == 1


def test_hard_time_limit(app: Any, shared: Fleet) -> None:
    (task_id,) = shared.tasks.send(1, 60.0, time_limit=1)

    with pytest.raises(TimeLimitExceeded):
        result(app, task_id).get(WITHIN)
    wait_for(lambda: task_id not in shared.tasks.held("behaved"), "its message is still held")
    assert shared.tasks.started()[task_id] == 1


def test_a_worker_ends_when_it_is_told_to(app: Any, shared: Fleet) -> None:
    worker = shared.start("-Q", "short", name="ending")
    ids = shared.tasks.send(1, 1.0, queue="short")
    shared.tasks.wait_until_started(ids)

    app.control.shutdown(destination=["ending@here"])

    assert worker.wait() == 0
    assert shared.tasks.outcome(ids).exactly_once
