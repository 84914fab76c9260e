"""Workers that die, or seem to: no task is lost, and only those that were running run twice."""

import time

import pytest
from support.hosts.deployed_app import redis
from support.hosts.fleet_workers import UNIT, Worker, held, load, outcome, rescued
from support.hosts.lost_hosts import without_power
from support.processes.services import wait_for

testinfra_hosts = ["ansible://worker1"]
units = [UNIT]

KILLS = 3
CONCURRENCY = 2  # as the inventory says
CONTAINER = "celery-fleet-workers-worker2"


@pytest.mark.usefixtures("worker2")
def test_killed_workers_lose_nothing(worker1: Worker, trace: str) -> None:
    restarts = int(worker1.property("NRestarts"))
    running: set[str] = set()

    with load(trace) as ids:
        for _ in range(KILLS):
            victim = worker1.busy()
            worker1.signal("KILL")
            running |= rescued(trace, victim, time.monotonic())
            worker1.id(after=victim)  # systemd has started another one

    counted = outcome(trace, ids)
    assert counted.lost == []
    assert set(counted.started_again) <= running
    assert running  # else they had nothing to lose
    assert int(worker1.property("NRestarts")) == restarts + KILLS


@pytest.mark.usefixtures("worker2")
@pytest.mark.parametrize("whom", ["main", "all"])
def test_a_worker_woken_after_its_lease_is_fenced(worker1: Worker, trace: str, whom: str) -> None:
    since = time.time()  # the containers have this machine's clock
    restarts = int(worker1.property("NRestarts"))

    with load(trace) as ids:
        frozen = worker1.busy()
        with worker1.frozen(whom):
            on_record = set(held(frozen))
            rescued(trace, frozen, time.monotonic())
        worker1.id(after=frozen)

    counted = outcome(trace, ids)
    assert counted.lost == []
    # What its processes had in hand, one each: also a task that had begun and not yet said so.
    assert set(counted.started_again) <= on_record
    assert len(counted.started_again) <= CONCURRENCY
    journal = worker1.journal(since)
    assert "Fenced: the lease expired" in journal
    assert "code=exited, status=75" in journal
    assert "Watchdog" not in journal
    assert int(worker1.property("NRestarts")) == restarts + 1


@pytest.mark.usefixtures("worker1")
def test_a_host_that_loses_its_power_comes_back_and_works(worker2: Worker, trace: str) -> None:
    with load(trace) as ids:
        victim = worker2.busy()
        with without_power(CONTAINER):
            running = rescued(trace, victim, time.monotonic())
        returned = worker2.id(after=victim)
        wait_for(
            lambda: int(redis().hget(f"fleet:worker:{returned}", "processed") or 0) > 0,
            "the host that came back executes nothing",
        )

    counted = outcome(trace, ids)
    assert counted.lost == []
    assert set(counted.started_again) <= running
