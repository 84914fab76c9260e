"""Workers hear of each other as plain ones do: broadcasts, mingle."""

from __future__ import annotations

from support.processes.counted_tasks import Fleet, NewFleet
from support.processes.services import wait_for

WITH_NEWS = {
    "task_queues": {
        "celery": {"exchange": "celery", "routing_key": "celery"},
        "news": {"exchange": "news", "exchange_type": "fanout"},
    }
}


def test_a_broadcast_task_runs_on_every_worker(new_fleet: NewFleet) -> None:
    fleet = new_fleet(WITH_NEWS)
    fleet.start_several(2)
    fleet.start(plain=True)
    # A worker subscribes a moment after it consumes.
    control = fleet.tasks.app.control
    wait_for(lambda: len(control.ping(timeout=1) or ()) == len(fleet.workers), "not every worker listens")

    (task_id,) = fleet.tasks.send(1, 0.0, queue="news")

    wait_for(lambda: fleet.tasks.ended()[task_id] == len(fleet.workers), "not every worker has run it")
    wait_for(lambda: fleet.tasks.left() == {}, "something is left")


def test_a_new_worker_learns_what_was_revoked(fleet: Fleet) -> None:
    fleet.start(name="old", gossip=True)
    control = fleet.tasks.app.control
    wait_for(lambda: bool(control.ping(timeout=0.5)), "the worker does not listen")
    control.revoke("task-000000", reply=True, timeout=30, destination=["old@here"])

    new = fleet.start("-Q", "another", name="new", gossip=True)

    new.wait_for_output("mingle: sync complete")
    ids = fleet.tasks.send(2, 0.0, queue="another")
    fleet.tasks.wait_until_ended(ids[1:])
    assert not fleet.tasks.started()[ids[0]]
