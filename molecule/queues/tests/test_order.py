"""In which order messages are executed."""

from support.hosts.deployed_app import Batch, ended, send, started
from support.hosts.worker_units import Workers

testinfra_hosts = ["ansible://worker1"]
units = ["celery-worker@general-1"]

ECHO = "tasks.default.echo"
WAIT = "tasks.io_intensive.wait"
PRIORITIES = range(10)
QUEUES = ["default", "priority", "scheduled"]


def test_an_urgent_message_overtakes_500_waiting_ones(one_worker: Workers, trace: str) -> None:
    one_worker.stop("general-1")
    *normal, urgent = send(trace, Batch(ECHO, 500), Batch(ECHO, options={"priority": 0}))

    one_worker.start("general-1")

    assert started(trace, 501) == [urgent, *normal]


def test_all_ten_priorities_are_served_in_order_across_queues(one_worker: Workers, trace: str) -> None:
    del one_worker  # busy with the first task while the others are sent, the least urgent first
    busy = Batch(WAIT, kwargs={"seconds": 3}, options={"queue": "default", "priority": 9})
    [first] = send(trace, busy)
    started(trace, 1)
    later = {}
    for priority in reversed(PRIORITIES):
        options = {"queue": QUEUES[priority % 3], "priority": priority}
        later[priority] = send(f"{trace}-{priority}", Batch(ECHO, 3, {"trace_key": trace}, options))

    assert ended(trace) == []
    assert started(trace, 31) == [first, *(sent for priority in PRIORITIES for sent in later[priority])]
