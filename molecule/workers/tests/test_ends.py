"""Workers that are stopped: each task runs once, and what cannot end in time is left to others."""

import time

from support.hosts.deployed_app import ended, redis, results, send, started
from support.hosts.fleet_workers import UNIT, Worker, enlisted, held, load, outcome, waits
from support.processes.services import wait_for

testinfra_hosts = ["ansible://worker1"]
units = [UNIT]

CYCLES = 2
STOP_TIMEOUT = 6.0  # seconds, as the inventory says
SOFT_SHUTDOWN = 5.0  # seconds that follow it


def assert_signed_off(worker_id: str) -> None:
    """Check that a worker has left nothing behind."""
    assert worker_id not in enlisted()
    assert redis().exists(f"fleet:unacked:{worker_id}", f"fleet:worker:{worker_id}") == 0


def test_stopping_and_starting_under_load_loses_and_doubles_nothing(
    worker1: Worker, worker2: Worker, trace: str
) -> None:
    with load(trace) as ids:
        for worker in (worker1, worker2) * CYCLES:
            stopped = worker.busy()
            worker.stop()
            assert_signed_off(stopped)
            assert worker.property("Result") == "success"
            worker.start()
        for worker in (worker1, worker2) * CYCLES:
            stopped = worker.busy()
            worker.restart()
            assert_signed_off(stopped)

    assert outcome(trace, ids).exactly_once
    assert {result["status"] for result in results(ids).values()} == {"SUCCESS"}


def test_a_task_that_outlasts_the_stop_is_executed_by_the_other_host(
    worker1: Worker, worker2: Worker, trace: str
) -> None:
    since = time.time()
    [long] = send(trace, waits(STOP_TIMEOUT + SOFT_SHUTDOWN + 9))
    started(trace, 1)
    stopping, other = (worker1, worker2) if held(worker1.id()) else (worker2, worker1)
    stopped = stopping.id()

    began = time.monotonic()
    stopping.stop()
    took = time.monotonic() - began

    assert took >= STOP_TIMEOUT + SOFT_SHUTDOWN
    assert stopping.property("ActiveState") == "inactive"
    assert stopping.property("Result") == "success"
    assert f"still running tasks after {STOP_TIMEOUT:.0f} s: they are given back" in stopping.journal(since)
    assert_signed_off(stopped)
    assert ended(trace) == []
    wait_for(lambda: held(other.id()) == [long], "the other host does not take the task")
    assert outcome(trace, [long]).lost == []
    assert (started(trace), ended(trace)) == ([long, long], [long])
    assert results([long])[long]["worker"] == other.name
