"""The control law: what holds for any load."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

from celery_autoscaler.protocol.overrides import Override
from celery_autoscaler.settings import Group
from celery_autoscaler.supervisor.policy.bounds import bounds
from celery_autoscaler.supervisor.policy.law import GroupPolicy, GroupSeen, workers_for
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from support.law_examples import IDLE, ONE_SLOT, STABILISATION, THRESHOLD, backlog

# The machine may be busy, and each run is the same.
properties = settings(deadline=None, max_examples=70, derandomize=True)


rates = st.floats(0, 200)


seconds = st.floats(0.1, 120)


@st.composite
def seens(draw: st.DrawFn) -> GroupSeen:
    """Anything that a supervisor could see."""
    messages = draw(st.integers(0, 5000))
    return GroupSeen(
        now=0.0,
        backlog=messages,
        future=draw(st.integers(0, 50)),
        held=draw(st.integers(0, 50)),
        busy=draw(st.integers(0, 200)),
        next_eta=draw(st.none() | st.floats(-10, 300)),
        age=draw(st.floats(0, 100)) if messages else 0.0,
        longest=messages,
        longest_queue="celery",
        ready=draw(st.integers(0, 40)),
        starting=draw(st.integers(0, 20)),
        arrival_fast=draw(rates),
        arrival_slow=draw(rates),
        service_time=draw(st.none() | st.floats(0.001, 100)),
        startup=draw(seconds),
        busy_workers=draw(st.integers(0, 60)),
        long=draw(st.integers(0, 20)),
        due=draw(st.integers(0, 500)),
        parts=draw(st.just(()) | st.just(((30.0, messages // 2), (1.0, messages - messages // 2)))),
        start_left=tuple(draw(st.lists(st.floats(-1, 200), max_size=20))),
        starts_at_once=draw(st.none() | st.integers(1, 16)),
        useful_slots=draw(st.none() | st.integers(1, 40)),
        tried_slots=draw(st.integers(0, 60)),
    )


@st.composite
def groups(draw: st.DrawFn) -> Group:
    """Any group."""
    low = draw(st.integers(0, 10))
    return replace(
        ONE_SLOT,
        concurrency=draw(st.integers(1, 16)),
        target_wait=draw(seconds),
        min_workers=low,
        max_workers=draw(st.integers(max(1, low), 100)),
    )


def tried_workers(seen: GroupSeen, group: Group) -> int:
    """Return the workers that were found to finish no more tasks than fewer."""
    useful = workers_for(max(seen.useful_slots or 0, seen.long), group.concurrency)
    return max(workers_for(seen.tried_slots, group.concurrency), max(1, useful) + 1)


overrides = st.builds(
    Override,
    paused=st.booleans(),
    min_workers=st.none() | st.integers(0, 50),
    max_workers=st.none() | st.integers(1, 50),
    by=st.sampled_from(["", "ann"]),
)


histories = st.lists(st.tuples(seens(), st.floats(0.1, 90)), max_size=6)


def after(history: list[tuple[GroupSeen, float]], group: Group) -> tuple[GroupPolicy, float]:
    """Return a control law that has seen something, and when."""
    policy, now = GroupPolicy(STABILISATION, THRESHOLD), 0.0
    for seen, pause in history:
        policy.decide(group, replace(seen, now=now))
        now += pause
    return policy, now


@properties
@given(histories, seens(), groups(), overrides)
def test_bounds_are_kept_whatever_is_seen(
    history: list[tuple[GroupSeen, float]], seen: GroupSeen, group: Group, override: Override
) -> None:
    policy, now = after(history, group)

    decision = policy.decide(group, replace(seen, now=now), override)

    low, high = bounds(group, override)
    if override.paused:
        assert decision.want == seen.ready + seen.starting
    else:
        assert min(low, high) <= decision.want <= high


@properties
@given(histories, seens(), groups(), st.integers(0, 5000))
@example([], backlog(0, replace(IDLE, age=0.0, busy=1, arrival_slow=5.0)), ONE_SLOT, 2001)
def test_more_messages_never_make_fewer_workers(
    history: list[tuple[GroupSeen, float]], seen: GroupSeen, group: Group, more: int
) -> None:
    policy, now = after(history, group)
    seen = replace(seen, now=now)

    fewer = deepcopy(policy).decide(group, seen)
    many = policy.decide(group, backlog(seen.backlog + more, seen))

    assert fewer.want <= many.want


@properties
@given(histories, seens(), groups())
def test_no_worker_is_wanted_without_a_task_for_it(
    history: list[tuple[GroupSeen, float]], seen: GroupSeen, group: Group
) -> None:
    policy, now = after(history, group)

    decision = policy.decide(group, replace(seen, now=now))

    have = seen.ready + seen.starting
    jobs = workers_for(seen.busy + seen.backlog + seen.held + seen.due, group.concurrency)
    for_an_eta = int(have == 0 and seen.next_eta is not None)
    assert decision.want <= max(have, jobs, group.min_workers, for_an_eta)


@properties
@given(histories, seens(), groups())
def test_an_empty_queue_makes_nothing_grow(
    history: list[tuple[GroupSeen, float]], seen: GroupSeen, group: Group
) -> None:
    assume(seen.ready + seen.starting)
    policy, now = after(history, group)

    decision = policy.decide(group, replace(backlog(0, seen), now=now, held=0, due=0))

    assert decision.want <= max(seen.ready + seen.starting, group.min_workers)


@properties
@given(histories, seens(), groups(), overrides)
def test_the_sentence_names_the_limit_that_bit(
    history: list[tuple[GroupSeen, float]], seen: GroupSeen, group: Group, override: Override
) -> None:
    policy, now = after(history, group)

    decision = policy.decide(group, replace(seen, now=now), override)

    words = {
        "": "",
        "paused": "paused",
        "max_workers": f"Limited by max_workers = {decision.want}",
        "min_workers": f"Limited by min_workers = {decision.want}",
        "stabilisation": f"within the last {STABILISATION:g} s",
        "throughput": f"More workers finish no more tasks ({tried_workers(seen, group)} → {decision.want})",
    }
    assert words[decision.limit] in decision.reason
    assert "\n" not in decision.reason


@properties
@given(histories, seens(), groups())
def test_a_worker_that_runs_something_is_not_given_up_for_want_of_work(
    history: list[tuple[GroupSeen, float]], seen: GroupSeen, group: Group
) -> None:
    policy, now = after(history, group)
    seen = replace(seen, now=now, useful_slots=None)

    decision = policy.decide(group, seen)

    have = seen.ready + seen.starting
    assert decision.want >= min(seen.busy_workers, have, group.max_workers)


@properties
@given(histories, seens(), groups(), st.floats(0, 60))
def test_workers_that_consume_sooner_never_make_more(
    history: list[tuple[GroupSeen, float]], seen: GroupSeen, group: Group, sooner: float
) -> None:
    policy, now = after(history, group)
    late = tuple(max(0.0, left) for left in seen.start_left)
    seen = replace(seen, now=now, start_left=late)

    slow = deepcopy(policy).decide(group, seen)
    quick = policy.decide(group, replace(seen, start_left=tuple(max(0.0, left - sooner) for left in late)))

    assert quick.want <= slow.want
