"""Whatever a task is called, its worker keeps its lease, counts what it can, and settles it."""

from __future__ import annotations

import json
from typing import Any

from support.processes.counted_tasks import SHORT_LEASE, Fleet


def test_odd_names_and_times_neither_cost_the_lease_nor_keep_a_task(fleet: Fleet) -> None:
    fleet.tasks.send(1, SHORT_LEASE + 1)
    message = json.loads(str(fleet.tasks.redis.rpop("celery")))
    odd: list[dict[str, Any]] = [
        {"shadow": "\ud800 and \x00"},
        {"shadow": "x" * 100_000},
        {"published_at": "x"},
        {"eta": "0001-01-01T00:00:00+00:00"},
        {"eta": "9999-12-31T23:59:59+00:00"},
    ]
    ids = [f"odd-{number}" for number in range(len(odd))]
    headers = message["headers"]
    for name, change in zip(ids, odd, strict=True):
        message["headers"] = headers | change | {"id": name}
        fleet.tasks.redis.lpush("celery", json.dumps(message))

    # One that acknowledges before a task runs, and one that does so after it.
    workers = [
        fleet.start(name="late", concurrency=4, ready=False),
        fleet.start(name="early", concurrency=4, ready=False, settings={"task_acks_late": False}),
    ]
    fleet.tasks.wait_until_ended(ids[:-1])
    outcome = fleet.tasks.settle(ids[:-1] + fleet.tasks.send(4), patience=3.0)

    assert outcome.exactly_once, outcome
    for worker in workers:
        assert worker.process.poll() is None
        for complaint in ("No heartbeat", "Fenced", "lacks the worker's tasks"):
            assert complaint not in worker.output(), complaint
    held = fleet.tasks.held("late") + fleet.tasks.held("early")
    assert held == ids[-1:]
