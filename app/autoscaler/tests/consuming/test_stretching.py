"""A worker that stretches has as many slots as it is told, and loses no task while they come and go."""

from __future__ import annotations

import os
import signal
import time

import psutil
import pytest
from support.processes.counted_tasks import Fleet, NewFleet, Tasks
from support.processes.launched_workers import LaunchedWorker
from support.processes.services import RedisServerFactory, wait_for
from support.processes.stretched_workers import DURABLE, stretch_and_shrink


def children(worker: LaunchedWorker) -> list[int]:
    """Return the ids of a worker's children."""
    return [child.pid for child in psutil.Process(worker.process.pid).children()]


def tell(fleet: Fleet, slots: int) -> None:
    """Tell the worker its number of slots, once it has a lease."""
    wait_for(lambda: fleet.tasks.tell_slots("w", slots), "the worker has no lease")


def wait_for_children(worker: LaunchedWorker, number: int, within: float = 20.0) -> None:
    """Return when a worker has that number of children."""
    wait_for(lambda: len(children(worker)) == number, f"not {number} children", within)


def wait_for_slots(tasks: Tasks, worker: str, number: int) -> None:
    """Return when a worker says that it has that number of slots."""
    wait_for(lambda: tasks.heartbeat(worker).get("concurrency") == str(number), f"not {number} slots")


@pytest.mark.versions
def test_worker_has_as_many_children_as_it_is_told(fleet: Fleet) -> None:
    worker = fleet.start(name="w", concurrency=1, most=4)
    assert len(children(worker)) == 1

    for told, has in ((3, 3), (9, 4), (2, 2), (0, 1)):
        tell(fleet, told)
        wait_for_children(worker, has)
        wait_for_slots(fleet.tasks, "w", has)
        # Each slot runs a task, and no further one is taken meanwhile.
        held = fleet.tasks.send(has, 3.0)
        fleet.tasks.wait_until_started(held)
        late = fleet.tasks.send(1, 0.0)
        time.sleep(0.3)
        assert set(fleet.tasks.held("w")) == set(held)
        fleet.tasks.wait_until_ended([*held, *late])

    assert fleet.tasks.heartbeat("w")["max_concurrency"] == "4"
    assert worker.stop() == 0


def test_busy_child_is_never_ended_and_its_slot_goes_when_its_task_has_ended(fleet: Fleet) -> None:
    worker = fleet.start(name="w", concurrency=1, most=3)
    tell(fleet, 3)
    wait_for_children(worker, 3)
    long = fleet.tasks.send(3, 4.0)
    fleet.tasks.wait_until_started(long)
    busy = set(children(worker))

    tell(fleet, 1)
    later = fleet.tasks.send(6, 0.3)
    time.sleep(1.5)
    assert set(children(worker)) == busy
    assert set(fleet.tasks.held("w")) == set(long)
    wait_for_children(worker, 1)

    outcome = fleet.tasks.settle([*long, *later])
    assert outcome.exactly_once, outcome
    # One slot runs what waited, one after the other.
    at = fleet.tasks.counts.hmget("at", later)
    assert max(map(float, at)) - min(map(float, at)) >= 5 * 0.3  # type: ignore[arg-type]


def test_number_is_heard_with_the_next_heartbeat_where_nothing_wakes_the_worker(fleet: Fleet) -> None:
    worker = fleet.start(name="w", concurrency=1, most=3)
    [name] = wait_for(lambda: fleet.tasks.worker_ids() or None, "the worker has no lease")
    # As if the message had been lost.
    fleet.tasks.redis.hset(f"fleet:worker:{name}", "slots", 3)
    wait_for_children(worker, 3, within=5.0)

    fleet.tasks.redis.hset(f"fleet:worker:{name}", "slots", "many")
    wait_for(lambda: int(fleet.tasks.heartbeat("w")["concurrency"]) == 3, "the number is another one")
    assert len(children(worker)) == 3


def test_worker_of_one_number_ignores_what_it_is_told(fleet: Fleet) -> None:
    worker = fleet.start(name="w", concurrency=2)
    tell(fleet, 4)
    done = fleet.tasks.send(4, 0.5)
    fleet.tasks.wait_until_ended(done)
    assert len(children(worker)) == 2


def test_killed_child_is_replaced_and_one_that_was_told_to_end_is_not(fleet: Fleet) -> None:
    worker = fleet.start(name="w", concurrency=1, most=4)
    tell(fleet, 4)
    wait_for_children(worker, 4)
    [first, *others] = children(worker)
    # Stopped children cannot read that they are to end.
    for pid in others:
        os.kill(pid, signal.SIGSTOP)
    os.kill(first, signal.SIGKILL)
    tell(fleet, 1)
    time.sleep(1.0)
    for pid in others:
        os.kill(pid, signal.SIGKILL)
    wait_for_children(worker, 1)
    tell(fleet, 4)
    wait_for_children(worker, 4)

    # The pipes are used again: no child finds in its pipe that another one was to end.
    before = set(children(worker))
    outcome = fleet.tasks.settle(fleet.tasks.send(40, 0.05))
    assert outcome.exactly_once, outcome
    assert set(children(worker)) == before


@pytest.mark.parametrize("pool", ["gevent"])
def test_pool_of_greenlets_stretches(fleet: Fleet, pool: str) -> None:
    fleet.start("-P", pool, name="w", concurrency=1, most=5)
    for told, at_once in ((5, 5), (2, 2), (4, 4)):
        tell(fleet, told)
        wait_for_slots(fleet.tasks, "w", at_once)
        held = fleet.tasks.send(at_once, 3.0)
        fleet.tasks.wait_until_started(held)
        late = fleet.tasks.send(2, 0.0)
        time.sleep(0.3)
        assert not set(late) & set(fleet.tasks.started())
        fleet.tasks.wait_until_ended([*held, *late])


@pytest.mark.parametrize(
    ("arguments", "most", "words"),
    [
        (["-P", "threads"], 4, "only the pools prefork and gevent stretch"),
        (["-P", "solo"], 4, "only the pools prefork and gevent stretch"),
        ([], 1, "allowed is no less than the concurrency, 2"),
    ],
)
def test_worker_that_cannot_stretch_says_so_in_one_line(
    fleet: Fleet, arguments: list[str], most: int, words: str
) -> None:
    worker = fleet.start(*arguments, name="w", most=most, ready=False)
    assert worker.wait() != 0
    assert [line for line in worker.output().splitlines() if words in line]


@pytest.mark.versions
def test_nothing_is_lost_while_slots_come_and_go(
    redis_server_factory: RedisServerFactory, new_fleet: NewFleet
) -> None:
    server = redis_server_factory(*DURABLE)

    def restart() -> None:
        server.crash()
        server.restart()

    fleet = new_fleet(broker_url=server.url)
    changes, seed = int(os.environ.get("STRETCHES", "30")), int(os.environ.get("STRETCH_SEED", "3"))
    found = stretch_and_shrink(fleet, changes=changes, seed=seed, restart=restart)

    print(found)  # noqa: T201
    assert found.is_kept, found
    assert fleet.tasks.left() == {}
