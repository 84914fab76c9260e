"""A worker that stretches has as many slots as it is told, and loses no task while they come and go."""

from __future__ import annotations

import time

import psutil
import pytest
from support.processes.counted_tasks import Fleet, Tasks
from support.processes.launched_workers import LaunchedWorker
from support.processes.services import wait_for


def children(worker: LaunchedWorker) -> list[int]:
    """Return the ids of a worker's children."""
    return [child.pid for child in psutil.Process(worker.process.pid).children()]


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
        fleet.tasks.tell_slots("w", told)
        wait_for_children(worker, has)
        wait_for_slots(fleet.tasks, "w", has)
        # Each slot runs a task, and no further one is taken meanwhile.
        held = fleet.tasks.send(has, 1.0)
        fleet.tasks.wait_until_started(held)
        late = fleet.tasks.send(1, 0.0)
        time.sleep(0.3)
        assert set(fleet.tasks.held("w")) == set(held)
        fleet.tasks.wait_until_ended([*held, *late])

    assert fleet.tasks.heartbeat("w")["max_concurrency"] == "4"
    assert worker.stop() == 0
