"""A group whose workers stretch: they grow by children first, then there are more of them, and back."""

from __future__ import annotations

from typing import Any

from support.processes.services import wait_for
from support.processes.supervisors import GROUP, SupervisedFleet

STRETCHES = {"concurrency": [1, 4], "min_workers": 1, "max_workers": 2, "target_wait": 2.0}


def slots(fleet: SupervisedFleet) -> dict[str, int]:
    """Return the slots of each worker."""
    found: Any = fleet.tasks.redis.zrange("fleet:workers", 0, -1)
    has = {name: fleet.tasks.redis.hget(f"fleet:worker:{name}", "concurrency") for name in found}
    return {name.rpartition(":")[0]: int(number) for name, number in has.items() if number}


def test_burst_gets_children_first_then_another_worker_and_gives_them_up_again(
    fleet: SupervisedFleet,
) -> None:
    supervisor = fleet.start(group=STRETCHES, stabilisation=2)
    [first] = fleet.wait_for_workers(1)

    ids = fleet.tasks.send(250, 0.2)
    wait_for(lambda: slots(fleet).get(first) == 4, "the worker does not grow")
    wait_for(lambda: sum(slots(fleet).values()) == 8, lambda: f"no second worker: {slots(fleet)}")
    outcome = fleet.tasks.settle(ids)
    # The law forgets slowly how many tasks came.
    wait_for(lambda: sum(slots(fleet).values()) <= 4, lambda: f"nothing shrinks: {slots(fleet)}")

    assert outcome.exactly_once, outcome
    decisions = fleet.decisions()
    moved = [(int(one["children"]), int(one["here"])) for one in decisions]
    grown = next(number for number, (children, _) in enumerate(moved) if children > 0)
    # The first worker is the minimum.
    started = [number for number, (_, here) in enumerate(moved) if here > 0][1]
    assert grown <= started, moved
    assert fleet.status("here")["groups"][GROUP]["concurrency"] == 1
    assert supervisor.stop() == 0
    assert fleet.living() == []
