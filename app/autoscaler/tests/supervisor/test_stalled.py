"""Workers that take nothing for a reason are left alone; what runs is never interrupted by scaling."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from celery_autoscaler.operations.overrides import Sender, change
from celery_autoscaler.protocol.broker import connect
from celery_autoscaler.protocol.worker_seen import WorkerSeen
from celery_autoscaler.settings import Group
from celery_autoscaler.supervisor.local import STALLED_SECONDS, LocalWorker
from support.processes.services import wait_for
from support.processes.supervisors import GROUP, SupervisedFleet

# Of each group: one worker, which nothing but its being stalled could end.
ALONE = {"min_workers": 1, "max_workers": 1}
SETTINGS = {
    "worker_eta_task_limit": 2,
    "task_annotations": {"single.add": {"rate_limit": "1/m"}},
    "task_create_missing_queues": True,
}


@pytest.fixture
def fleet(redis_url: str, tmp_path: Path) -> Iterator[SupervisedFleet]:
    """Return a fleet; a failed test shows what its supervisors printed."""
    with ExitStack() as stack:
        counts = redis_url.replace("/0", "/1")
        fleet = stack.enter_context(SupervisedFleet(tmp_path, redis_url, counts, SETTINGS))
        stack.callback(lambda: print(fleet.tails()))  # noqa: T201  pytest shows it with a failure only
        yield fleet


def test_workers_that_are_kept_from_taking_more_are_not_replaced(fleet: SupervisedFleet) -> None:
    others = {
        "rated": {"queues": ["rated"], **ALONE},
        "etas": {"queues": ["etas"], **ALONE},
        "cancelled": {"queues": ["cancelled"], **ALONE},
        "solo": {"queues": ["solo"], "pool": "solo", "concurrency": 1, **ALONE},
    }
    supervisor = fleet.start(group=ALONE, others=others)
    names = fleet.wait_for_workers(5, within=60.0)
    pids = {name: fleet.pid_of(name) for name in names}

    # A rate of one a minute, more ETAs than may be held, a queue that an operator cancelled, a long task.
    fleet.tasks.send(5, 1, name="add", queue="rated")
    fleet.tasks.send(4, queue="etas", countdown=3600)
    fleet.tasks.app.control.cancel_consumer("cancelled", destination=["cancelled-1@here"])
    fleet.tasks.send(3, queue="etas")
    fleet.tasks.send(3, queue="cancelled")
    [long, *_] = fleet.tasks.send(1, STALLED_SECONDS + 12.0, queue="solo") + fleet.tasks.send(2, queue="solo")
    fleet.tasks.wait_until_started([long])
    groups = ("rated", "etas", "cancelled", "solo")

    def all_wait() -> bool:
        found = fleet.status("here")["groups"]
        return all(found[group]["waiting"] for group in groups)

    wait_for(all_wait, "there are no messages that wait")
    time.sleep(STALLED_SECONDS + 6.0)

    assert {name: fleet.pid_of(name) for name in fleet.consuming()} == pids
    assert " drains" not in supervisor.output()
    assert fleet.tasks.started()[long] == 1


def test_settings_that_change_replace_workers_without_interrupting_a_task(fleet: SupervisedFleet) -> None:
    supervisor = fleet.start(group={"max_workers": 2, "concurrency": 1}, stabilisation=1)
    [before] = fleet.wait_for_workers(1)
    pid = fleet.pid_of(before)
    [long] = fleet.tasks.send(1, 12.0)
    fleet.tasks.wait_until_started([long])

    config = supervisor.config.read_text()
    assert '["celery"]' in config
    supervisor.config.write_text(config.replace('["celery"]', '["celery", "more"]'))
    supervisor.signal(signal.SIGHUP)
    ids = fleet.tasks.send(3, queue="more")
    fleet.tasks.wait_until_ended(ids)
    assert not fleet.tasks.ended()[long]
    fleet.tasks.wait_until_ended([long])

    supervisor.wait_for_output(f"{before.partition('@')[0]} drains: replaced by default-2")
    wait_for(
        lambda: fleet.consuming() and pid not in map(fleet.pid_of, fleet.consuming()), "the old one stays"
    )
    assert fleet.tasks.started()[long] == 1
    assert "SIGQUIT" not in supervisor.output()


def test_a_group_that_is_renamed_gets_its_workers_and_lets_the_former_finish(fleet: SupervisedFleet) -> None:
    supervisor = fleet.start(group={"max_workers": 1})
    fleet.wait_for_workers(1)
    [long] = fleet.tasks.send(1, 6.0)
    fleet.tasks.wait_until_started([long])

    config = supervisor.config.read_text()
    supervisor.config.write_text(config.replace(f"[groups.{GROUP}]", "[groups.renamed]"))
    supervisor.signal(signal.SIGHUP)

    supervisor.wait_for_output("default-1 drains: its group was removed")
    wait_for(lambda: "renamed-1@here" in fleet.consuming(), "the renamed group has no worker", 60.0)
    fleet.tasks.wait_until_ended([long, *fleet.tasks.send(3)])
    assert fleet.wait_for_workers(1) == ["renamed-1@here"]
    assert fleet.tasks.started()[long] == 1


def test_no_worker_that_runs_something_is_given_up_for_want_of_work(fleet: SupervisedFleet) -> None:
    supervisor = fleet.start(
        group={"concurrency": 4, "max_workers": 3, "drain_timeout": 1.0}, stabilisation=1.0
    )
    change(connect(fleet.tasks.app), GROUP, Sender("test"), min_workers=3)
    fleet.wait_for_workers(3)
    # Twelve slots for a task on two or three workers: packed, one of them would do.
    long = fleet.tasks.send(6, 12.0)
    fleet.tasks.wait_until_started(long)
    at: dict[str, str] = {str(name): str(fleet.tasks.counts.hget("by", name)) for name in long}
    change(connect(fleet.tasks.app), GROUP, Sender("test"), min_workers=None)

    fleet.tasks.wait_until_ended(long)

    assert {name for name in long if fleet.tasks.started()[name] > 1} == set(), at
    # A worker with nothing to do may need it on a busy machine.
    assert not re.search(r"running [1-9].*SIGQUIT", supervisor.output())
    fleet.wait_for_workers(1)


# --- Which worker is stalled ---------------------------------------------------------------------------

IDLE = WorkerSeen(id="default-1@here:1", state="running", concurrency=2, held=0)


def is_stalled(seen: WorkerSeen, waiting: int = 5) -> bool:
    """Return whether a worker that shows the same for long is taken for stalled."""
    worker = LocalWorker("default-1", "default", 0.0)
    worker.look(1.0, seen)
    return [worker.is_stalled(1.0 + second, waiting) for second in range(int(10 * STALLED_SECONDS))][-1]


@pytest.mark.parametrize(
    "seen",
    [
        replace(IDLE, held=1),
        replace(IDLE, scheduled=1),
        replace(IDLE, reserved=1),
        replace(IDLE, active=1),
        replace(IDLE, state="drained"),
        replace(IDLE, state="unknown"),
    ],
)
def test_a_worker_that_holds_anything_or_does_not_consume_is_not_stalled(seen: WorkerSeen) -> None:
    assert not is_stalled(seen)


def test_a_worker_that_holds_nothing_and_takes_nothing_is_stalled() -> None:
    assert is_stalled(IDLE)
    assert is_stalled(replace(IDLE, held=None))
    assert not is_stalled(IDLE, waiting=0)


def test_workers_started_with_other_settings_are_told_apart() -> None:
    group = Group(name="default", queues=("a", "b"), options={"max_tasks_per_child": 5})
    worker = LocalWorker("default-1", "default", 0.0)

    assert worker.is_of(group)
    worker.launched = group
    assert worker.is_of(replace(group, queues=("b", "a"), target_wait=1.0, max_workers=99, drain_timeout=5.0))
    for other in (
        replace(group, queues=("a",)),
        replace(group, pool="threads"),
        replace(group, concurrency=2),
        replace(group, options={}),
    ):
        assert not worker.is_of(other)
