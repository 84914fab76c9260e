"""From the slots that a group wants to workers, and to the slots of each."""

from __future__ import annotations

from dataclasses import replace

from celery_autoscaler.protocol.overrides import Override
from celery_autoscaler.settings import Group
from celery_autoscaler.supervisor.policy.law import GroupSeen
from celery_autoscaler.supervisor.policy.stretch import Member, decide, spread, workers_for
from hypothesis import given
from hypothesis import strategies as st
from support.law_examples import ONE_SLOT, backlog, law

STRETCHES = replace(ONE_SLOT, concurrency=2, max_concurrency=16, min_workers=1, max_workers=4)
ONE = GroupSeen(now=0.0, ready=1, slots=2, room=14, longest_queue="celery", service_time=1.0)


def member(name: str = "a", *, slots: int = 2, busy: int = 0, host: str = "one") -> Member:
    """Return a worker of the group."""
    return Member(name, host, slots, least=2, most=16, has=slots, busy=busy)


def test_workers_that_run_grow_before_another_one_starts() -> None:
    assert [workers_for(want, STRETCHES, ONE) for want in (2, 16, 17, 32, 33)] == [1, 1, 2, 2, 3]


def test_slots_that_are_on_their_way_start_no_further_worker() -> None:
    seen = replace(ONE, slots=16, room=0, starting=1)
    assert [workers_for(want, STRETCHES, seen) for want in (17, 32, 33)] == [2, 2, 3]


def test_whole_workers_go_only_when_each_has_its_least() -> None:
    seen = replace(ONE, ready=3, slots=12, room=36)
    assert [workers_for(want, STRETCHES, seen) for want in (12, 6, 5, 4, 2, 0)] == [3, 3, 3, 2, 1, 0]


def test_workers_of_a_host_that_is_short_are_a_reason_for_another_one() -> None:
    # Its members have no room.
    assert workers_for(6, STRETCHES, replace(ONE, slots=2, room=0)) == 2


def test_burst_is_decided_in_slots_and_kept_within_the_workers_bounds() -> None:
    decision = decide(law(), STRETCHES, backlog(2000, ONE))

    assert (decision.want, decision.slots) == (4, 64)
    assert "64 slots clear the queue" in decision.reason
    assert "Limited by max_workers = 64 slots" in decision.reason


def test_moderate_burst_needs_no_start() -> None:
    decision = decide(law(), STRETCHES, backlog(40, ONE))

    assert decision.want == 1
    assert 6 <= decision.slots <= 16


def test_slow_start_does_not_make_children_late() -> None:
    # With workers of one slot most tasks would wait for a start; what can be forked is there at once.
    slow = replace(ONE, startup=30.0)
    assert (
        decide(law(), STRETCHES, backlog(40, slow)).slots == decide(law(), STRETCHES, backlog(40, ONE)).slots
    )


def test_pause_and_bounds_of_operators_hold() -> None:
    busy = backlog(2000, ONE)
    paused = decide(law(), STRETCHES, busy, Override(paused=True, by="ann"))
    assert (paused.want, paused.slots, paused.limit) == (1, 2, "paused")
    bounded = decide(law(), STRETCHES, busy, Override(max_workers=2))
    assert (bounded.want, bounded.slots) == (2, 32)
    assert decide(law(), STRETCHES, ONE, Override(min_workers=3)).want == 3


def test_group_of_one_number_is_decided_by_the_law_alone() -> None:
    seen = backlog(40)
    assert decide(law(), ONE_SLOT, seen) == law().decide(ONE_SLOT, seen)


def test_slots_are_added_evenly_by_the_weight_of_the_hosts() -> None:
    members = [member("a"), member("b"), member("c", host="two")]
    assert spread(12, members, {"one": 1.0, "two": 1.0}, {}) == {"a": 3, "b": 3, "c": 6}
    assert spread(12, members, {"one": 2.0, "two": 1.0}, {}) == {"a": 4, "b": 4, "c": 4}


def test_host_that_is_short_adds_no_more_than_it_has_room_for() -> None:
    members = [member("a"), member("c", host="two")]
    assert spread(12, members, {}, {"one": 0}) == {"a": 2, "c": 10}
    assert spread(12, members, {}, {"one": 1, "two": 2}) == {"a": 3, "c": 4}


def test_busy_slots_are_kept() -> None:
    assert spread(4, [member("a", slots=8, busy=7), member("b", slots=8)], {}, {}) == {"a": 7, "b": 2}


MEMBERS = st.lists(
    st.builds(
        lambda slots, least, extra, busy, host: Member(
            "", host, slots, least=least, most=least + extra, has=slots, busy=busy
        ),
        st.integers(1, 20),
        st.integers(1, 4),
        st.integers(0, 12),
        st.integers(0, 20),
        st.sampled_from(["one", "two", "three"]),
    ),
    max_size=8,
).map(lambda found: [replace(one, name=f"w{number}") for number, one in enumerate(found)])


@given(MEMBERS, st.integers(0, 120), st.dictionaries(st.sampled_from(["one", "two"]), st.integers(0, 9)))
def test_spread_keeps_the_bounds_of_each_worker_and_moves_nothing(
    members: list[Member], want: int, room: dict[str, int]
) -> None:
    wanted = spread(want, members, {"one": 1.0, "two": 2.5}, room)

    start = {one.name: min(max(one.slots, one.least), one.most) for one in members}
    changes = {one.name: wanted[one.name] - start[one.name] for one in members}
    assert all(one.least <= wanted[one.name] <= one.most for one in members)
    # All grow, or all shrink, and never beyond what is wanted.
    assert all(change >= 0 for change in changes.values()) or all(change <= 0 for change in changes.values())
    if any(changes.values()):
        assert abs(want - sum(wanted.values())) < abs(want - sum(start.values()))
    for one in members:
        if changes[one.name] < 0:
            assert wanted[one.name] >= min(one.busy, start[one.name])
    for host, most in room.items():
        assert sum(max(0, changes[one.name]) for one in members if one.host == host) <= most


@given(MEMBERS, st.integers(0, 120))
def test_supervisors_that_act_one_after_the_other_come_to_what_is_wanted(
    members: list[Member], want: int
) -> None:
    weights = {"one": 1.0, "two": 2.5}
    at_once = spread(want, members, weights, {})
    for host in ("two", "one", "three"):
        told = spread(want, members, weights, {})
        members = [replace(one, slots=told[one.name]) if one.host == host else one for one in members]

    total = sum(one.slots for one in members)
    assert total == sum(at_once.values())


GROUPS = st.builds(
    lambda least, extra, low, more: Group(
        name="g", queues=("q",), concurrency=least, max_concurrency=least + extra, min_workers=low,
        max_workers=low + more,
    ),
    st.integers(1, 4), st.integers(1, 12), st.integers(0, 3), st.integers(1, 6),
)  # fmt: skip


@given(GROUPS, st.integers(0, 8), st.integers(0, 3), st.integers(0, 500), st.integers(0, 60))
def test_decision_keeps_the_bounds_and_its_slots_fit_its_workers(
    group: Group, ready: int, starting: int, waiting: int, busy: int
) -> None:
    slots = ready * group.concurrency
    seen = GroupSeen(
        now=0.0, ready=ready, starting=starting, slots=slots, backlog=waiting, longest=waiting,
        room=ready * group.max_concurrency - slots, busy=min(busy, slots), longest_queue="q",
    )  # fmt: skip

    decision = decide(law(), group, seen)

    assert group.min_workers <= decision.want <= group.max_workers
    assert decision.want * group.concurrency <= decision.slots <= group.max_workers * group.max_concurrency
