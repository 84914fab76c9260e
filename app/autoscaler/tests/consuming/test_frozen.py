"""A worker that was silent for longer than its lease does no harm when it comes back."""

from __future__ import annotations

import os

import pytest
from support.processes.counted_tasks import SHORT_LEASE, Fleet
from support.processes.services import wait_for

SEVERAL = {"worker_prefetch_multiplier": 4}


@pytest.mark.parametrize(
    ("pool", "seconds", "reserve"),
    [
        # A task that ends when the worker comes back, and one that is still at work.
        ("prefork", 1.0, 3),
        ("prefork", 2.4 * SHORT_LEASE, 3),
        ("threads", 1.0, 3),
        # They reserve nothing, or what waits for a greenlet.
        ("solo", 1.0, 0),
        ("gevent", 1.0, 1),
    ],
)
@pytest.mark.versions
def test_a_worker_woken_after_its_lease_is_fenced(
    fleet: Fleet, pool: str, seconds: float, reserve: int
) -> None:
    frozen = fleet.start("-P", pool, name="frozen", concurrency=1, settings=SEVERAL)
    running = fleet.tasks.send(1, seconds)
    fleet.tasks.wait_until_started(running)
    reserved = fleet.tasks.send(reserve)
    wait_for(lambda: len(fleet.tasks.held("frozen")) == 1 + reserve, "the tasks are not reserved")
    frozen.freeze()
    other = fleet.start(name="other", concurrency=4)
    fleet.tasks.wait_until_ended(reserved)
    other.wait_for_output("Recovered .* of the dead worker frozen@here")

    frozen.wake()

    # With Celery 5.5 its process was seen to wait half a minute until its result was read.
    status = frozen.wait(90.0)
    assert "Fenced" in frozen.output()
    assert status == os.EX_TEMPFAIL
    assert fleet.tasks.settle(reserved).exactly_once
    assert fleet.tasks.settle(running).lost == []
    assert fleet.tasks.left() == {}


def test_a_short_freeze_changes_nothing(fleet: Fleet) -> None:
    frozen, _ = fleet.start_several(2, concurrency=1)
    ids = fleet.tasks.send(20, 0.2)
    fleet.tasks.wait_until_started(ids[:2])

    frozen.freeze()
    # The other worker goes on; whichever tasks those are.
    ended = len(fleet.tasks.ended())
    wait_for(lambda: len(fleet.tasks.ended()) >= ended + 2, "nothing goes on")
    frozen.wake()

    assert fleet.tasks.settle(ids).exactly_once
    assert frozen.process.poll() is None


def test_a_task_may_run_longer_than_every_time_out(fleet: Fleet) -> None:
    short = {"broker_transport_options": {"visibility_timeout": 1, "unacked_restore_interval": 1}}
    for pool in ("prefork", "threads", "solo", "gevent"):
        fleet.start("-P", pool, name=pool, concurrency=1, settings=short, ready=False)
    for worker in fleet.workers:
        worker.wait_until_ready()
    ids = fleet.tasks.send(4, 2 * SHORT_LEASE)

    assert fleet.tasks.settle(ids).exactly_once
