"""Tasks that become due in the worker that holds them run wherever there is a slot for them."""

from __future__ import annotations

import json
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from celery_autoscaler.consuming.due_tasks import overdue
from support.processes.counted_tasks import SEPARATOR, Fleet, NewFleet
from support.processes.launched_workers import LaunchedWorker
from support.processes.services import RedisServerFactory, wait_for

SECONDS = 0.2


def runs_by_worker(fleet: Fleet) -> Counter[str]:
    """Return how many tasks each worker ran."""
    found: Any = fleet.tasks.counts.hgetall("by")
    return Counter(found.values())


def times_received(workers: list[LaunchedWorker]) -> int:
    """Return how often workers took a task."""
    return sum(worker.output().count("] received") for worker in workers)


def heartbeat(fleet: Fleet, name: str) -> dict[str, str]:
    """Return what a worker last told of itself."""
    (key,) = fleet.tasks.redis.scan_iter(match=f"fleet:worker:{name}@*")
    found: Any = fleet.tasks.redis.hgetall(key)
    return dict(found)


def send_due_together(fleet: Fleet, number: int, seconds: float, within: float) -> tuple[list[str], float]:
    """Send tasks that become due at the same time; return their ids and when that is."""
    due = datetime.now(UTC) + timedelta(seconds=within)
    return fleet.tasks.send(number, seconds, eta=due), due.timestamp()


@pytest.mark.versions
def test_all_workers_share_what_one_of_them_held(fleet: Fleet) -> None:
    holder = fleet.start(name="holder", concurrency=1)
    ids, due = send_due_together(fleet, 60, SECONDS, within=12.0)
    wait_for(lambda: len(fleet.tasks.held("holder")) == 60, "the worker does not take all")
    others = fleet.start_several(3, concurrency=1)
    assert time.time() < due

    assert fleet.tasks.settle(ids).exactly_once
    runs = runs_by_worker(fleet)
    assert len(runs) == 4
    # Alone it would run all of them, and take a second for five.
    assert runs["holder@here"] <= 30
    # Each is taken by the holder, and by the worker that runs it: nobody hands on what was due when it came.
    assert times_received([holder, *others]) <= 2 * len(ids)
    assert fleet.tasks.left() == {}


@pytest.mark.parametrize("pool", ["threads", "solo", "gevent"])
def test_other_pools_share_as_well(new_fleet: NewFleet, pool: str) -> None:
    """Tasks with early acknowledgement, too: their messages are held as long as they have not begun."""
    fleet = new_fleet({"task_acks_late": False})
    fleet.start("-P", pool, name="holder", concurrency=1)
    ids, due = send_due_together(fleet, 16, SECONDS, within=7.0)
    wait_for(lambda: len(fleet.tasks.held("holder")) == 16, "the worker does not take all")
    fleet.start("-P", pool, name="other", concurrency=1)
    assert time.time() < due

    assert fleet.tasks.settle(ids).exactly_once
    assert min(runs_by_worker(fleet)[f"{name}@here"] for name in ("holder", "other")) >= 4


def test_what_slots_are_free_for_begins_where_it_is(fleet: Fleet) -> None:
    worker = fleet.start(concurrency=4)
    ids, due = send_due_together(fleet, 4, SECONDS, within=2.0)
    fleet.tasks.wait_until_ended(ids)

    times: Any = fleet.tasks.counts.hmget("at", ids)
    assert max(map(float, times)) - due < 5.0
    assert times_received([worker]) == 4
    assert "offered" not in worker.output()


def test_what_goes_back_is_next_in_its_own_list_and_no_death(fleet: Fleet) -> None:
    fleet.start(name="holder", concurrency=1)
    due = datetime.now(UTC) + timedelta(seconds=4)
    ids = fleet.tasks.send(5, eta=due, priority=9)
    wait_for(lambda: len(fleet.tasks.held("holder")) == 5, "the worker does not take all")
    blocker = fleet.tasks.send(1, 8.0)
    fleet.tasks.wait_until_started(blocker)
    assert time.time() < due.timestamp()
    key = f"celery{SEPARATOR}9"
    later = fleet.tasks.send(1, priority=9)

    wait_for(lambda: len(fleet.tasks.waiting(key)) == 6, "what is due does not go back")
    assert fleet.tasks.waiting(key) == ids + later
    assert fleet.tasks.held("holder") == blocker
    message = json.loads(str(fleet.tasks.redis.lindex(key, -1)))
    assert message["headers"]["redelivered"] is True
    assert "redelivery_count" not in json.dumps(message)
    assert fleet.tasks.settle([*blocker, *ids, *later]).exactly_once


@pytest.mark.versions
def test_a_heartbeat_tells_what_is_overdue(fleet: Fleet) -> None:
    fleet.start(name="holder", concurrency=1, settings={"worker_prefetch_multiplier": 4})
    blocker = fleet.tasks.send(1, 8.0)
    fleet.tasks.wait_until_started(blocker)
    ids, due = send_due_together(fleet, 3, 0.0, within=2.0)

    def holds_them() -> dict[str, str] | None:
        told = heartbeat(fleet, "holder")
        return told if told.get("scheduled") == "3" else None

    told = wait_for(holds_them, "the worker does not take them")
    assert (told["overdue"], told["oldest_due"]) == ("0", "")

    def has_them_back() -> dict[str, str] | None:
        told = heartbeat(fleet, "holder")
        # A heartbeat may fall between the moment when they are due and their way back.
        return told if (told["overdue"], told["scheduled"]) == ("3", "0") else None

    # It has room for them, beside what runs, when they have come back.
    told = wait_for(has_them_back, lambda: str(heartbeat(fleet, "holder")))
    assert float(told["oldest_due"]) == pytest.approx(due, abs=0.01)
    fleet.tasks.wait_until_ended([*blocker, *ids])
    wait_for(lambda: heartbeat(fleet, "holder")["overdue"] == "0", "they stay overdue")


def test_a_worker_that_drains_begins_nothing_that_becomes_due(fleet: Fleet) -> None:
    fleet.start(name="holder", concurrency=2)
    ids, _ = send_due_together(fleet, 4, 0.0, within=4.0)
    wait_for(lambda: len(fleet.tasks.held("holder")) == 4, "the worker does not take all")
    fleet.tasks.redis.sadd("fleet:drain", "holder@here")

    wait_for(lambda: fleet.tasks.waiting("celery") == ids, "what is due does not go back")
    assert not fleet.tasks.started()
    fleet.start(name="other")
    assert fleet.tasks.settle(ids).exactly_once
    assert set(runs_by_worker(fleet)) == {"other@here"}


def test_a_full_server_keeps_no_due_task_from_running(
    new_fleet: NewFleet, redis_server_factory: RedisServerFactory
) -> None:
    server = redis_server_factory()
    fleet = new_fleet(broker_url=server.url, server_url=server.url)
    worker = fleet.start(name="holder", concurrency=1)
    ids, _ = send_due_together(fleet, 4, SECONDS, within=2.0)
    wait_for(lambda: len(fleet.tasks.held("holder")) == 4, "the worker does not take all")
    fleet.tasks.redis.config_set("maxmemory", 1)

    fleet.tasks.wait_until_ended(ids)
    fleet.tasks.redis.config_set("maxmemory", 0)
    assert fleet.tasks.settle(ids).exactly_once
    assert times_received([worker]) == 4


def test_a_broadcast_with_an_eta_reaches_each_worker(new_fleet: NewFleet) -> None:
    queues = {"celery": {}, "news": {"exchange": "news", "exchange_type": "fanout"}}
    fleet = new_fleet({"task_queues": queues})
    fleet.start_several(2, concurrency=1)
    # A worker subscribes a moment after it consumes.
    control = fleet.tasks.app.control
    wait_for(lambda: len(control.ping(timeout=1) or ()) == 2, "not every worker listens")
    ids = fleet.tasks.send(3, SECONDS, queue="news", countdown=3)

    twice = dict.fromkeys(ids, 2)
    wait_for(lambda: fleet.tasks.ended() == twice, lambda: f"ran: {fleet.tasks.ended()}", 30.0)


@pytest.mark.parametrize("eta", ["0001-01-01T00:00:00+00:00", "9999-12-31T23:59:59-12:00"])
def test_an_eta_may_be_any_time(fleet: Fleet, eta: str) -> None:
    worker = fleet.start(concurrency=1)
    blocker = fleet.tasks.send(1, 3.0)
    fleet.tasks.wait_until_started(blocker)
    fleet.tasks.app.send_task("single.count", task_id="odd", eta=datetime.fromisoformat(eta))
    ids = fleet.tasks.send(3)

    fleet.tasks.wait_until_ended([*ids, "odd"] if eta < "2000" else ids)
    assert worker.process.poll() is None
    assert heartbeat(fleet, "w1")["state"] == "running"
    assert times_received([worker]) <= 5


def test_what_is_overdue_is_counted() -> None:
    now = time.time()
    requests = [SimpleNamespace(fleet_due=due) for due in (None, now - 5, now - 2, now + 3600)]

    assert overdue([*requests, object()]) == (2, now - 5)
    assert overdue([]) == (0, None)
