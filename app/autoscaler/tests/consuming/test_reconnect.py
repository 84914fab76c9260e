"""A lost connection leaves what a worker holds, limits and runs as it was."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from kombu.exceptions import OperationalError
from redis import RedisError
from support.processes.counted_tasks import Fleet, NewFleet
from support.processes.services import RedisServer, RedisServerFactory, wait_for

pytestmark = pytest.mark.versions


@pytest.fixture
def fleet(redis_server_factory: RedisServerFactory, new_fleet: NewFleet) -> Fleet:
    """Return a fleet on a broker of the test's own; tasks are counted on another server."""
    server: RedisServer = redis_server_factory()
    return new_fleet(broker_url=server.url)


def drop_connections(fleet: Fleet) -> None:
    """Drop all connections to the broker but our own."""
    for kind in ("normal", "pubsub"):
        with suppress(RedisError):
            fleet.tasks.redis.client_kill_filter(_type=kind, skipme=True)


def fetching(fleet: Fleet) -> set[str]:
    """Return the connections on which workers fetch: they alone are told of changes ("t")."""
    found: Any = fleet.tasks.redis.client_list()
    return {client["id"] for client in found if "t" in client["flags"]}


def reconnect(fleet: Fleet, times: int = 1) -> None:
    """Drop all connections again and again; return when the worker consumes."""
    for _ in range(times):
        before = wait_for(lambda: fetching(fleet), "the worker does not consume")
        drop_connections(fleet)
        wait_for(lambda before=before: fetching(fleet) - before, "the worker does not connect again")  # type: ignore[misc]


def ask(fleet: Fleet, command: str, **arguments: Any) -> Any:
    """Send a command to the only worker until it answers; return the answer."""

    def answer() -> Any:
        replies: Any = None
        # Our own connections may have been dropped, too.
        with suppress(RedisError, OperationalError):
            replies = fleet.tasks.app.control.broadcast(command, arguments, reply=True, timeout=1.0, limit=1)
        return next(iter(replies[0].values())) if replies else None

    return wait_for(answer, f"no answer to {command}")


def prefetch_count(fleet: Fleet) -> int:
    return int(ask(fleet, "stats")["prefetch_count"])


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_held_eta_tasks_take_no_room_after_a_reconnect(fleet: Fleet, pool: str) -> None:
    fleet.start("-P", pool, name="holds", concurrency=1)
    later = fleet.tasks.send(5, countdown=600)
    soon = fleet.tasks.send(1, countdown=6)
    wait_for(lambda: len(fleet.tasks.held("holds")) == 6, "the worker has not taken the tasks")
    assert ask(fleet, "pool_grow", n=1)
    before = prefetch_count(fleet)

    reconnect(fleet, times=3)

    now = fleet.tasks.send(20)
    fleet.tasks.wait_until_ended(now)
    fleet.tasks.wait_until_ended(soon)
    # A task says that it has ended before its message is settled.
    wait_for(lambda: len(fleet.tasks.held("holds")) == 5, "the worker does not hold the five of later")
    # One has come due since.
    wait_for(lambda: prefetch_count(fleet) == before - 1, "the prefetch count is another one")
    assert fleet.tasks.outcome(now + soon).exactly_once
    assert not fleet.tasks.started().keys() & set(later)


def test_rate_limits_and_their_tasks_outlive_a_reconnect(fleet: Fleet) -> None:
    fleet.start("-E", name="limited", concurrency=2, settings={"worker_prefetch_multiplier": 5})
    assert ask(fleet, "rate_limit", task_name="single.count", rate_limit="1/s")
    ids = fleet.tasks.send(8)
    wait_for(lambda: len(fleet.tasks.started()) >= 2, "no task runs")

    reconnect(fleet, times=3)
    wait_for(lambda: len(fleet.tasks.started()) >= 5, "no more tasks run")
    at: Any = fleet.tasks.counts.hgetall("at")

    begun = sorted(float(moment) for moment in at.values())
    assert begun[-1] - begun[0] > 0.9 * (len(begun) - 2)
    assert ask(fleet, "rate_limit", task_name="single.count", rate_limit="0")
    assert fleet.tasks.settle(ids).exactly_once


def test_children_may_end_while_connections_drop(fleet: Fleet) -> None:
    worker = fleet.start("--max-tasks-per-child", "1", concurrency=2)
    ids: list[str] = []

    for _ in range(3):
        # Each ends its child, soon after it has ended itself.
        ids += fleet.tasks.send(2)
        fleet.tasks.wait_until_ended(ids)
        reconnect(fleet)

    assert fleet.tasks.settle(ids).exactly_once
    assert worker.process.poll() is None
    assert worker.stop() == 0


def test_large_tasks_and_results_under_way_arrive_whole(fleet: Fleet) -> None:
    # Larger than what a pipe holds: a child reads it, and is read, in pieces.
    worker = fleet.start(concurrency=2, settings={"worker_prefetch_multiplier": 3})
    ids = fleet.tasks.send(24, "x" * 3_000_000, name="echo")
    fleet.tasks.wait_until_started(ids[:1])

    for _ in range(4):
        reconnect(fleet)

    assert fleet.tasks.settle(ids).exactly_once
    assert "inqueue damaged" not in worker.output()
    assert worker.stop() == 0
