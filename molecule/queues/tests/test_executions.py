"""Each task is executed exactly once, whatever becomes of its worker."""

import time

import pytest
from support.hosts.deployed_app import Batch, ended, executions, results, send, started, taken, waiting
from support.hosts.worker_units import Workers

testinfra_hosts = ["ansible://worker1"]
units = ["celery-worker@general-1", "celery-worker@general-2"]

ECHO = "tasks.default.echo"
WAIT = "tasks.io_intensive.wait"


def wait_batch(seconds: float, count: int = 1) -> Batch:
    """Return tasks that take this long, for the general group."""
    return Batch(WAIT, count, {"seconds": seconds}, {"queue": "default"})


@pytest.mark.usefixtures("workers")
def test_5000_tasks_are_executed_once_each(trace: str) -> None:
    send(
        trace,
        Batch(ECHO, 1250),
        Batch("tasks.priority.notify", 1250),
        Batch("tasks.cpu_intensive.burn", 1250, {"seconds": 0}),
        Batch(WAIT, 1250, {"seconds": 0}),
    )

    assert executions(trace, 5000, within=180) == {1: 5000}


def test_restarting_the_workers_under_load_loses_and_doubles_nothing(workers: Workers, trace: str) -> None:
    send(trace, wait_batch(0.02, 1000))
    started(trace, 20)

    workers.restart("general-1")
    workers.restart("general-2")

    assert waiting()  # else they had nothing to lose
    assert executions(trace, 1000) == {1: 1000}


def test_a_stopped_worker_finishes_its_task_and_leaves_the_others_waiting(
    one_worker: Workers, trace: str
) -> None:
    since = time.time()  # the containers have this machine's clock
    running, *others = send(trace, wait_batch(5), Batch(ECHO, 20))
    started(trace, 1)

    one_worker.stop("general-1")

    assert ended(trace) == [running]
    assert results([running])[running]["status"] == "SUCCESS"
    assert "Warm shutdown" in one_worker.journal("general-1", since)
    assert one_worker.property("general-1", "Result") == "success"
    assert [message["id"] for messages in waiting().values() for message in messages] == others
    assert taken() == 0

    one_worker.start("general-1")

    assert started(trace, 21) == [running, *others]
    assert executions(trace, 21) == {1: 21}


def test_a_task_whose_process_is_killed_is_executed_again(one_worker: Workers, trace: str) -> None:
    restarts = one_worker.property("general-1", "NRestarts")
    [killed] = send(trace, wait_batch(2))
    started(trace, 1)

    one_worker.kill_child("general-1")

    assert ended(trace, 1) == [killed]
    assert started(trace) == [killed, killed]
    assert results([killed])[killed]["status"] == "SUCCESS"
    assert one_worker.property("general-1", "NRestarts") == restarts  # the worker itself lives on
