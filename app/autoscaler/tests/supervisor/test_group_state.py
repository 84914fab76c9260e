"""What a supervisor sees of a group: tasks that are overdue, workers that are busy, queues that wait."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from celery_autoscaler.protocol.peers import PeerSeen
from celery_autoscaler.protocol.worker_seen import WorkerSeen
from celery_autoscaler.settings import Group
from celery_autoscaler.supervisor.group_state import GroupState, see_group
from celery_autoscaler.supervisor.members import members
from celery_autoscaler.supervisor.observation import FleetSeen, ListSeen
from celery_autoscaler.supervisor.policy.law import GroupPolicy
from celery_autoscaler.supervisor.policy.stretch import Member

GROUP = Group(name="web", queues=("mail", "pics"))
NOW = 1_700_000_000.0
WORKER = WorkerSeen(id="web-1@here:1", host="here", group="web", state="running", concurrency=4)
LOOK = FleetSeen(
    time=NOW, lists=[ListSeen("mail", "mail", 5, future=2), ListSeen("pics", "pics", 4)],
    dead_letters={"mail": 0, "pics": 0}, workers=[WORKER], expired=[], draining=frozenset(),
    replaced=frozenset(), leaving={}, peers=[], overrides={}, claims={}, short="",
)  # fmt: skip


def look(*workers: WorkerSeen) -> GroupState:
    """Return the state of the group after a look that shows these workers."""
    state = GroupState(GROUP, GroupPolicy())
    state.seen = see_group(100.0, state, replace(LOOK, workers=workers))
    return state


def test_tasks_whose_eta_has_come_have_an_age_wherever_they_are() -> None:
    late = replace(WORKER, overdue=3, oldest_due=NOW - 40.0)
    later = replace(WORKER, id="web-2@here:1", overdue=2, oldest_due=NOW - 12.0)

    state = look(late, later)

    assert (state.overdue, state.overdue_age, state.seen.age) == (5, 40.0, 40.0)


def test_an_eta_that_has_not_come_by_the_clock_of_redis_has_no_age() -> None:
    state = look(replace(WORKER, overdue=1, oldest_due=NOW + 5.0))

    assert (state.overdue_age, state.seen.age) == (0.0, 0.0)


def test_workers_that_run_something_are_counted_not_their_slots() -> None:
    busy = [replace(WORKER, id=f"web-{number}@here:1", active=1) for number in (1, 2, 3)]

    seen = look(*busy, replace(WORKER, id="web-4@here:1")).seen

    assert (seen.busy_workers, seen.busy, seen.ready) == (3, 3, 4)


def test_a_worker_counts_what_waits_in_its_own_queues() -> None:
    state = look(WORKER)

    assert state.waiting_in(None) == 7
    assert state.waiting_in({"mail", "other"}) == 3
    assert state.waiting_in(()) == 0


def test_a_worker_whose_state_is_unknown_is_neither_ready_nor_starting() -> None:
    seen = look(replace(WORKER, state="unknown")).seen

    assert (seen.ready, seen.starting) == (0, 0)


STRETCHES = replace(GROUP, concurrency=2, max_concurrency=8)
STRETCHED = replace(WORKER, concurrency=3, max_concurrency=8, told=5, active=2, reserved=1)


def stretching(worker: WorkerSeen, **look_at: Any) -> Member:
    """Return a worker of a group whose workers stretch, as it is seen."""
    peers = [PeerSeen("here", 1.0, {"web": None})]
    [member] = members(STRETCHES, replace(LOOK, workers=[worker], **{"peers": peers} | look_at))
    return member


def test_worker_that_stretches_counts_with_what_it_was_told_and_what_it_has() -> None:
    member = stretching(STRETCHED)
    assert (member.slots, member.has, member.least, member.most, member.busy) == (5, 3, 2, 8, 3)
    assert stretching(replace(STRETCHED, told=0)).slots == 3


def test_worker_of_a_release_that_does_not_stretch_keeps_its_slots() -> None:
    member = stretching(WORKER)
    assert (member.slots, member.least, member.most) == (4, 4, 4)


def test_worker_that_nobody_tells_anything_keeps_its_slots() -> None:
    nobody: list[dict[str, Any]] = [{"peers": []}, {"leaving": {"here": "ann"}}]
    for alone in nobody:
        member = stretching(STRETCHED, **alone)
        assert (member.least, member.most) == (5, 5)


def test_worker_of_a_host_that_is_short_may_shrink_and_not_grow() -> None:
    member = stretching(STRETCHED, peers=[PeerSeen("here", 1.0, {"web": 1})])
    assert (member.least, member.most) == (2, 5)


def test_worker_that_drains_has_no_slots() -> None:
    fleet = replace(LOOK, workers=[STRETCHED], draining=frozenset({STRETCHED.name}))
    assert members(STRETCHES, fleet) == []


def test_group_that_is_full_of_workers_still_grows_by_slots() -> None:
    state = GroupState(STRETCHES, GroupPolicy())
    peers = [PeerSeen("here", 1.0, {"web": None})]
    state.seen = see_group(100.0, state, replace(LOOK, workers=[STRETCHED], peers=peers))

    assert (state.seen.slots, state.seen.room) == (3, 5)
    assert state.assumed(1, 1.0) < math.inf
    state.seen = replace(state.seen, room=0)
    assert state.assumed(1, 1.0) == math.inf
