"""What is loaded stays shared with forked processes, and every process collects its garbage."""

from __future__ import annotations

import gc
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


@app.task(bind=True, name="single.collects")
def collects(task):
    """Return how many new objects start a collection, 0 if none is ever started."""
    return gc.isenabled() * gc.get_threshold()[0]
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


@pytest.mark.parametrize("plain", ["false", "true"])
@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
def test_garbage_is_collected_once_the_app_is_loaded(fleet: Fleet, pool: str, plain: str) -> None:
    fleet.start("--pool", pool, concurrency=1, environment={"CELERY_APP_PLAIN_WORKERS": plain})

    assert threshold(fleet) == gc.get_threshold()[0]


def test_an_app_chooses_when_its_garbage_is_collected(fleet: Fleet) -> None:
    source = fleet.folder / "single.py"
    source.write_text(source.read_text() + "\ngc.set_threshold(12345)\n")
    fleet.start(concurrency=1)

    assert threshold(fleet) == 12345


def threshold(fleet: Fleet) -> int:
    """Return how many new objects start a collection where tasks run."""
    (task_id,) = fleet.tasks.send(1, name="collects")
    found: int = fleet.tasks.app.AsyncResult(task_id).get(60)
    return found
