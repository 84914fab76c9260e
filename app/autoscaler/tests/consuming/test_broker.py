"""What workers do when Redis is full, drops them, dies, or dies silently.

It is full for as many seconds as the environment says: FULL_SECONDS.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any

import pytest
from redis import Redis, RedisError
from support.processes.counted_tasks import SHORT_LEASE, Load, NewFleet
from support.processes.services import RedisServer, RedisServerFactory, wait_for
from support.processes.silent_deaths import Wire, gone_without_a_word


@pytest.fixture
def server(redis_server_factory: RedisServerFactory) -> RedisServer:
    """Return a broker of the test's own; tasks are counted on another server."""
    return redis_server_factory()


def every(seconds: float, times: int, action: Callable[[], object]) -> None:
    """Do something several times while tasks run."""
    for _ in range(times):
        time.sleep(seconds)
        action()


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo", "gevent"])
@pytest.mark.versions
def test_dropped_connections_neither_lose_nor_repeat_a_task(
    server: RedisServer, new_fleet: NewFleet, pool: str
) -> None:
    fleet = new_fleet(broker_url=server.url)
    workers = fleet.start_several(2, "-P", pool)
    ids = fleet.tasks.send(60, 0.2)
    fleet.tasks.wait_until_started(ids[:2])

    def drop_all() -> None:
        for kind in ("normal", "pubsub"):
            with suppress(RedisError):
                fleet.tasks.redis.client_kill_filter(_type=kind, skipme=True)

    every(0.7, 4, drop_all)
    outcome = fleet.tasks.settle(ids)

    assert outcome.exactly_once, outcome
    assert fleet.tasks.left() == {}
    assert [worker.process.poll() for worker in workers] == [None, None]


def test_a_broker_that_is_gone_without_a_word_holds_up_no_worker(
    server: RedisServer, new_fleet: NewFleet
) -> None:
    # Kombu shall not look at its connections meanwhile: one that reconnects does nothing else.
    settings = {"worker_prefetch_multiplier": 3, "broker_transport_options": {"health_check_interval": 60}}
    fleet = new_fleet(settings, broker_url=server.url)
    tasks = fleet.tasks
    worker = fleet.start()
    ending = tasks.send(1, SHORT_LEASE + 2)
    limited = tasks.send(1, 60.0, time_limit=SHORT_LEASE + 4)
    tasks.wait_until_started(ending + limited)
    waiting = tasks.send(4)
    wait_for(lambda: len(tasks.held("w1")) == 6, "the worker has not reserved the tasks")

    with gone_without_a_word(server):
        worker.wait_for_output("Hard time limit", within=3 * (SHORT_LEASE + 4))
        # Nobody can tell whether they are still this worker's.
        assert not tasks.started().keys() & set(waiting)

    outcome = tasks.settle(ending + waiting)
    assert outcome.exactly_once, outcome
    assert tasks.left() == {}
    assert worker.process.poll() is None


@pytest.mark.parametrize("which", ["all", "the one that fetches"])
@pytest.mark.versions
def test_connections_that_die_without_a_word_are_replaced(
    server: RedisServer, new_fleet: NewFleet, which: str
) -> None:
    fleet = new_fleet(broker_url=server.url)
    tasks = fleet.tasks
    with closing(Wire(server)) as wire:
        fleet.broker_url = wire.url
        worker = fleet.start(concurrency=1)
        assert tasks.settle(tasks.send(3)).exactly_once

        # It alone is told of changes ("t").
        fetching: Any = [client["addr"] for client in tasks.redis.client_list() if "t" in client["flags"]]
        wire.cut(None if which == "all" else fetching)
        ids = tasks.send(40, 0.05)
        # The look of an idle worker, and two of kombu's at its connections.
        tasks.wait_until_ended(ids[:1], within=3 * (1 + 2 * SHORT_LEASE))
        # A step that was sent on a dead connection arrives after all, and takes nothing.
        wire.mend()
        outcome = tasks.settle(ids)

        assert outcome.exactly_once, outcome
        assert tasks.left() == {}
        assert "Fenced" not in worker.output()
        assert worker.process.poll() is None


def test_a_worker_can_be_stopped_while_its_broker_is_gone(server: RedisServer, new_fleet: NewFleet) -> None:
    fleet = new_fleet({"worker_prefetch_multiplier": 3}, broker_url=server.url)
    tasks = fleet.tasks
    worker = fleet.start(concurrency=1)
    ids = tasks.send(1, 3.0)
    tasks.wait_until_started(ids)
    ids += tasks.send(2)
    wait_for(lambda: len(tasks.held("w1")) == 3, "the worker has not reserved the tasks")

    with gone_without_a_word(server):
        assert worker.stop() == 0
    fleet.start()

    assert not tasks.settle(ids).lost
    assert tasks.left() == {}


@pytest.mark.versions
def test_a_full_redis_stops_no_worker_and_loses_nothing(server: RedisServer, new_fleet: NewFleet) -> None:
    fleet = new_fleet(broker_url=server.url)
    tasks = fleet.tasks
    workers = fleet.start_several(2)
    running = tasks.send(4, 3.0)
    tasks.wait_until_started(running)
    waiting = tasks.send(60, 0.1)

    tasks.redis.config_set("maxmemory", "100kb")
    for worker in workers:
        worker.wait_for_output("Redis is full")
    tasks.wait_until_ended(running)
    before = tasks.started()
    # Its lease must be renewed even now.
    time.sleep(float(os.environ.get("FULL_SECONDS", SHORT_LEASE + 1)))
    assert tasks.started() == before
    assert set(waiting) - set(before)
    assert [worker.process.poll() for worker in workers] == [None, None]
    tasks.redis.config_set("maxmemory", "0")
    outcome = tasks.settle(running + waiting)

    assert outcome.exactly_once, outcome
    assert tasks.left() == {}
    assert [worker.process.poll() for worker in workers] == [None, None]


# For longer than a lease: nobody can renew one.
@pytest.mark.parametrize("seconds", [1.0, SHORT_LEASE + 1])
def test_a_redis_that_takes_no_writes_stops_no_worker_and_loses_nothing(
    server: RedisServer, new_fleet: NewFleet, seconds: float
) -> None:
    fleet = new_fleet(broker_url=server.url)
    tasks = fleet.tasks
    workers = fleet.start_several(2)
    ids = tasks.send(200, 0.05)
    tasks.wait_until_started(ids[:10])

    # As after a failover, until the replicas have found the new primary.
    tasks.redis.config_set("min-replicas-to-write", 1)
    for worker in workers:
        worker.wait_for_output("Redis takes no writes")
    workers.append(fleet.start(ready=False))
    since = time.monotonic()
    workers[-1].wait_for_output("Connection to broker lost")
    wait_for(lambda: time.monotonic() - since > seconds, "time stands still")
    assert set(ids) - set(tasks.started())
    assert [worker.process.poll() for worker in workers] == [None, None, None]
    assert "Frequent restarts" not in workers[-1].output()
    tasks.redis.config_set("min-replicas-to-write", 0)
    workers[-1].wait_until_ready()
    outcome = tasks.settle(ids)

    assert outcome.exactly_once, outcome
    assert tasks.left() == {}
    assert [worker.process.poll() for worker in workers] == [None, None, None]


# Away for longer than a lease, and for less.
@pytest.mark.parametrize(("fsync", "away"), [("always", SHORT_LEASE + 2), ("everysec", 2.0)])
def test_workers_go_on_after_a_crash_of_redis(
    redis_server_factory: RedisServerFactory, new_fleet: NewFleet, fsync: str, away: float
) -> None:
    server = redis_server_factory("--appendonly", "yes", "--appendfsync", fsync, "--dir", "/tmp")  # noqa: S108
    fleet = new_fleet({"task_publish_retry": False}, broker_url=server.url)
    tasks = fleet.tasks
    workers = fleet.start_several(2)
    rate = 100.0
    with Load(tasks, rate, 0.01) as load:
        wait_for(lambda: len(tasks.ended()) > 50, "no task runs")
        server.crash()
        down = time.monotonic()
        wait_for(lambda: time.monotonic() - down > away, "time stands still")
        server.restart()
        back = time.monotonic()
        before = len(tasks.ended())
        wait_for(lambda: len(tasks.ended()) > before, "no task runs after the crash")
        resumed = time.monotonic() - back
        every(0.2, 5, lambda: None)
    outcome = tasks.settle(load.ids)

    print(f"{fsync}: {outcome}; {load.refused} refused; went on after {resumed:.1f} s")  # noqa: T201
    assert len(outcome.lost) <= (0 if fsync == "always" else rate)
    # What the server had forgotten to note it may hand out again.
    assert len(outcome.ended_again) <= (0 if fsync == "always" else rate)
    assert resumed < 10
    assert tasks.left() == {}
    assert [worker.process.poll() for worker in workers] == [None, None]


def test_an_empty_redis_is_filled_again(server: RedisServer, new_fleet: NewFleet) -> None:
    fleet = new_fleet(broker_url=server.url)
    worker = fleet.start()
    first = fleet.tasks.send(5)
    assert fleet.tasks.settle(first).exactly_once

    Redis.from_url(server.url).flushall()
    second = fleet.tasks.send(5)

    assert fleet.tasks.settle(first + second).exactly_once
    assert worker.process.poll() is None
