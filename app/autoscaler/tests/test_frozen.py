"""A worker that was silent for longer than its lease does no harm when it comes back."""

from __future__ import annotations

import os

import pytest
from counted_tasks import LEASE, Fleet

SEVERAL = {"worker_prefetch_multiplier": 4}


@pytest.mark.parametrize(
    ("pool", "seconds"),
    # A task that is still at work when the worker comes back, and one that ends at that moment.
    [("prefork", 0.5), ("prefork", 2.4 * LEASE), ("threads", 0.5), ("solo", 0.5)],
)
def test_a_worker_woken_after_its_lease_is_fenced(fleet: Fleet, pool: str, seconds: float) -> None:
    frozen = fleet.start("-P", pool, name="frozen", concurrency=1, settings=SEVERAL)
    running = fleet.tasks.send(1, seconds)
    fleet.tasks.wait_until_started(running)
    reserved = fleet.tasks.send(0 if pool == "solo" else 3)
    frozen.freeze()
    other = fleet.start(name="other", concurrency=4)
    fleet.tasks.wait_until_ended(reserved)
    other.wait_for_output("Recovered .* of the dead worker frozen@here")

    frozen.wake()

    status = frozen.wait()
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
    fleet.tasks.wait_until_ended(ids[2:5])
    frozen.wake()

    assert fleet.tasks.settle(ids).exactly_once
    assert frozen.process.poll() is None


def test_a_task_may_run_longer_than_every_time_out(fleet: Fleet) -> None:
    short = {"broker_transport_options": {"visibility_timeout": 1, "unacked_restore_interval": 1}}
    fleet.start("-P", "solo", name="blocked", concurrency=1, settings=short)
    fleet.start_several(2, concurrency=1, settings=short)
    ids = fleet.tasks.send(3, LEASE + 3)

    assert fleet.tasks.settle(ids).exactly_once
