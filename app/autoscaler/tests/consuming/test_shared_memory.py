"""Forked processes share with their worker what it has loaded, for as long as they live."""

from __future__ import annotations

from typing import Any

import pytest
from support.processes.counted_tasks import Fleet, NewFleet
from support.processes.launched_workers import APP

# Many objects that a collector has to look at: about 30 MB of them.
LOADED = '''
import gc

loaded = [[number] for number in range(300_000)]


@app.task(bind=True, name="single.private")
def private(task):
    """Let the garbage collector look at everything; return the MiB that this process shares with no other."""
    gc.collect()
    with open("/proc/self/smaps_rollup") as file:
        found = dict(line.split(":") for line in file.readlines()[1:])
    return [os.getpid(), int(found["Private_Dirty"].split()[0]) / 1024, gc.get_freeze_count()]
'''
# More than a process of this app needs of its own, less than what was loaded.
MOST = 25.0


@pytest.fixture
def fleet(new_fleet: NewFleet) -> Fleet:
    """Return workers of an app that has loaded much."""
    fleet = new_fleet({"task_ignore_result": False})
    (fleet.folder / "single.py").write_text(APP + LOADED)
    return fleet


def ask(fleet: Fleet) -> tuple[int, float, int]:
    """Return what a process of the pool tells."""
    (task_id,) = fleet.tasks.send(1, name="private")
    result: Any = fleet.tasks.app.AsyncResult(task_id).get(60)
    pid, private, frozen = result
    return pid, private, frozen


def test_a_forked_process_keeps_sharing_what_was_loaded_also_one_that_replaces_another(fleet: Fleet) -> None:
    fleet.start("--max-tasks-per-child", "1", concurrency=1)

    told = [ask(fleet) for _ in range(3)]

    assert len({pid for pid, _, _ in told}) == 3
    assert all(private < MOST for _, private, _ in told), told


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_a_worker_without_processes_collects_all_its_garbage(fleet: Fleet, pool: str) -> None:
    fleet.start("--pool", pool, concurrency=1)

    _, _, frozen = ask(fleet)

    assert frozen == 0
