"""What a killed worker held comes back as it was: its queue, its priority, its order, its time."""

from __future__ import annotations

import time
from typing import Any

import pytest
from support.processes.counted_tasks import NewFleet
from support.processes.services import wait_for

STEPS = {"priority_steps": list(range(10)), "queue_order_strategy": "priority"}


def options(**transport_options: Any) -> dict[str, Any]:
    return {"broker_transport_options": transport_options}


SITUATIONS: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    # Settings, options of the tasks, arguments of the workers.
    "prefork": ({}, {}, ()),
    "threads": ({}, {}, ("-P", "threads")),
    "solo": ({}, {}, ("-P", "solo")),
    "gevent": ({}, {}, ("-P", "gevent")),
    "early acknowledgement": ({"task_acks_late": False}, {}, ()),
    "prefix": (options(global_keyprefix="mine:"), {}, ()),
    "priority": (options(**STEPS), {"priority": 7}, ()),
    "topic": (
        {
            "task_queues": {"orders": {"exchange": "shop", "exchange_type": "topic", "routing_key": "*.new"}},
            "task_default_queue": "orders",
        },
        {"exchange": "shop", "routing_key": "orders.new"},
        (),
    ),
}


@pytest.mark.parametrize("situation", SITUATIONS)
def test_what_a_killed_worker_held_is_run_by_another(new_fleet: NewFleet, situation: str) -> None:
    settings, task_options, arguments = SITUATIONS[situation]
    fleet = new_fleet(settings | {"worker_prefetch_multiplier": 5})
    candidate = fleet.start(*arguments, name="victim", concurrency=1)
    ids = fleet.tasks.send(5, 0.3, **task_options)
    fleet.tasks.wait_until_started(ids[:1])
    candidate.kill()
    running = [name for name in ids if fleet.tasks.started()[name]]
    fleet.tasks.rescue("victim")

    fleet.start(*arguments, name="heir", concurrency=1)
    outcome = fleet.tasks.settle(ids, patience=4)

    if situation == "early acknowledgement":
        # Who acknowledges before the work asks for at most once.
        assert set(outcome.lost) <= set(running)
        assert not outcome.started_again
    else:
        assert not outcome.lost
        assert set(outcome.started_again) <= set(running)
    assert fleet.tasks.left() == {}
    # In the order in which they were sent, what was running first.
    assert [name for name in fleet.tasks.begun()[len(running) :] if name not in running] == [
        name for name in ids if name not in running
    ]


@pytest.mark.versions
def test_eta_tasks_of_a_killed_worker_wait_for_their_time_elsewhere(new_fleet: NewFleet) -> None:
    fleet = new_fleet()
    candidate = fleet.start(name="victim", concurrency=1)
    sent = time.time()
    soon = fleet.tasks.send(2, countdown=12)
    late = fleet.tasks.send(1, countdown=600)
    wait_for(lambda: len(fleet.tasks.held("victim")) == 3, "the worker has not taken the tasks")
    candidate.kill()
    fleet.tasks.rescue("victim")

    fleet.start(name="heir", concurrency=1)

    fleet.tasks.wait_until_ended(soon)
    assert fleet.tasks.outcome(soon).exactly_once
    times: Any = fleet.tasks.counts.hmget("at", soon)
    assert min(map(float, times)) - sent >= 12
    wait_for(lambda: fleet.tasks.held("heir") == late, "what it holds is not what is for later")
    assert fleet.tasks.outcome(late).lost == late


@pytest.mark.versions
def test_urgent_tasks_run_first_in_all_ten_steps_also_after_they_were_given_back(new_fleet: NewFleet) -> None:
    fleet = new_fleet(options(**STEPS) | {"worker_prefetch_multiplier": 8})
    # 0 is the most urgent on Redis; two of each show the order within a step.
    ids = {step: fleet.tasks.send(2, 0.0, priority=step) for step in reversed(range(10))}
    blocker = fleet.tasks.send(1, 60.0, priority=0)
    in_order = [name for step in range(10) for name in ids[step]]
    candidate = fleet.start("-Q", "celery", name="victim", concurrency=1, settings={"task_acks_late": False})
    fleet.tasks.wait_until_started(blocker)
    wait_for(lambda: len(fleet.tasks.held("victim")) >= 7, "the worker has not reserved the next tasks")
    done = fleet.tasks.begun()
    assert done == [*in_order[:2], *blocker]
    candidate.kill()
    fleet.tasks.rescue("victim")
    fleet.start(name="heir", concurrency=1, settings={"worker_prefetch_multiplier": 1})
    fleet.tasks.settle(in_order, patience=10)

    assert [name for name in fleet.tasks.begun() if name not in blocker] == in_order


def test_plain_workers_and_ours_share_the_queues(new_fleet: NewFleet) -> None:
    fleet = new_fleet(options(**STEPS))
    fleet.start(name="ours", ready=False)
    fleet.start(name="plain", plain=True)
    for worker in fleet.workers:
        worker.wait_until_ready()
    ids = [
        name for step in range(10) for name in fleet.tasks.send(20, 0.01, priority=step)
    ] + fleet.tasks.send(20, 0.01, countdown=0.5)

    outcome = fleet.tasks.settle(ids)

    assert outcome.exactly_once, outcome
    by: Any = fleet.tasks.counts.hvals("by")
    assert set(by) == {"ours@here", "plain@here"}
