"""The control law in examples: how a group grows and shrinks, and how the decision reads."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from celery_autoscaler.protocol.overrides import Override
from celery_autoscaler.supervisor.policy.bounds import bounds
from celery_autoscaler.supervisor.policy.law import GroupPolicy
from support.law_examples import IDLE, ONE_SLOT, STABILISATION, THRESHOLD, TO_ZERO, backlog, hold, law


def test_a_burst_gets_what_the_target_wait_needs_at_once() -> None:
    # 100 tasks of 0.2 s are 20 s of work, to be done in 5.5 s; a new worker consumes after 3 of them. The one
    # that is there does 5.5 s of it, each other 2.5 s: 1 + 14.5 / 2.5 = 6.8.
    decision = law().decide(ONE_SLOT, backlog(100, replace(IDLE, service_time=0.2)))

    assert decision.want == 7
    assert decision.reason == (
        "100 tasks waiting, about 20.0 s of work for 1 slot. Target wait 10 s; "
        "7 workers clear the queue in about 2.9 s"
    )


def test_a_shorter_target_wait_makes_more_workers() -> None:
    seen = backlog(200, replace(IDLE, service_time=0.2))

    wanted = [
        law().decide(replace(ONE_SLOT, target_wait=target_wait, max_workers=100), seen).want
        for target_wait in (60.0, 10.0, 5.0)
    ]

    assert wanted == sorted(set(wanted))


def test_slots_are_counted_not_workers() -> None:
    # 30 s of work: four slots do 22 s of it, each of another worker's four 2.5 s.
    seen = backlog(150, replace(IDLE, service_time=0.2))

    assert law().decide(replace(ONE_SLOT, concurrency=4), seen).want == 2


def test_two_tasks_never_start_three_workers() -> None:
    seen = backlog(2, replace(IDLE, ready=0, service_time=60.0, arrival_fast=10.0, arrival_slow=10.0))

    assert law().decide(ONE_SLOT, seen).want == 2


def test_the_maximum_is_named_when_it_bites() -> None:
    decision = law().decide(ONE_SLOT, backlog(500, replace(IDLE, service_time=5.0)))

    assert (decision.want, decision.limit) == (10, "max_workers")
    assert decision.reason.endswith(". Limited by max_workers = 10")


def test_what_is_starting_is_not_charged_with_a_whole_start_again() -> None:
    policy, wide = law(), replace(ONE_SLOT, max_workers=60)
    seen = replace(IDLE, service_time=0.2)
    first = policy.decide(wide, backlog(100, seen)).want
    wanted = [first]
    for now in (1.0, 2.0):
        # The one that is there runs five tasks a second.
        left = backlog(100 - round(5 * now), replace(seen, now=now, age=now, busy=1))
        starting = replace(left, starting=first - 1, start_left=(3.0 - now,) * (first - 1))
        wanted.append(policy.decide(wide, starting).want)

    assert wanted == [first] * 3


def test_what_came_just_now_has_longer_than_what_came_first() -> None:
    waiting = backlog(40, replace(IDLE, ready=4, age=5.0, service_time=0.5))
    wide = replace(ONE_SLOT, max_workers=60)

    at_once = law().decide(wide, waiting)
    in_turn = law().decide(wide, replace(waiting, parts=((5.0, 4), (2.0, 18), (0.5, 18))))

    assert in_turn.want < at_once.want


def test_few_starts_at_a_time_make_more_of_them() -> None:
    waiting = backlog(300, replace(IDLE, service_time=0.2, startup=1.0))
    wide = replace(ONE_SLOT, max_workers=60)

    wanted = [law().decide(wide, replace(waiting, starts_at_once=starts)).want for starts in (None, 4, 2)]

    assert wanted == sorted(wanted)
    assert wanted[0] < wanted[-1]


@pytest.mark.parametrize("service", [0.02, 300.0])
def test_a_task_behind_a_long_one_gets_a_slot_in_time(service: float) -> None:
    behind = backlog(1, replace(IDLE, busy=1, busy_workers=1, service_time=service))

    # Two looks and a start before ten seconds are over.
    assert law().decide(ONE_SLOT, replace(behind, age=5.5)).want == 2
    if service < 1:
        assert law().decide(ONE_SLOT, replace(behind, age=1.0)).want == 1


def test_tasks_that_come_due_together_have_their_slots_ready() -> None:
    wave = replace(IDLE, ready=1, due=130, next_eta=3.0, service_time=0.5, future=500)

    decision = law().decide(replace(ONE_SLOT, max_workers=60), wave)

    # 65 s of work in 6.5 s.
    assert decision.want == 10
    assert decision.reason == "130 tasks come due in 3 s; a start takes 3 s"


def test_more_workers_than_are_of_use_are_given_up_but_for_long_tasks() -> None:
    busy = replace(IDLE, ready=12, busy=12, busy_workers=12, service_time=1.3, age=15.0, tried_slots=12)
    full = backlog(900, replace(busy, useful_slots=8))

    decision = law().decide(replace(ONE_SLOT, max_workers=12), full)
    long = law().decide(replace(ONE_SLOT, max_workers=12), replace(full, long=10))

    assert (decision.want, decision.limit) == (8, "throughput")
    assert decision.reason.endswith("More workers finish no more tasks (12 → 8)")
    assert long.want == 10


def test_an_idle_group_shrinks_to_its_minimum_after_the_window_and_not_before() -> None:
    policy = law()
    busy = replace(IDLE, ready=8, busy=8, arrival_fast=8.0, arrival_slow=8.0, service_time=1.0)
    hold(policy, busy, 0, 20)
    idle = replace(IDLE, ready=8, service_time=1.0)

    just_before = hold(policy, idle, 21, 20 + STABILISATION)
    at_last = hold(policy, idle, 21 + STABILISATION, 30 + STABILISATION)

    assert (just_before.want, just_before.limit) == (8, "stabilisation")
    assert "workers were needed within the last 60 s" in just_before.reason
    assert (at_last.want, at_last.limit) == (1, "min_workers")
    assert at_last.reason.endswith("No tasks waiting, none running. Limited by min_workers = 1")


def test_the_last_worker_of_an_idle_group_does_not_wait_for_slow_averages() -> None:
    policy = law()
    hold(policy, replace(IDLE, ready=3, busy=1, arrival_fast=0.1, arrival_slow=0.1), 0, 20, TO_ZERO)
    still_remembered = replace(IDLE, ready=3, arrival_slow=0.01)

    assert hold(policy, still_remembered, 21, 25 + STABILISATION, TO_ZERO).want == 0


def test_what_slow_averages_still_ask_for_is_kept_for_one_window_more() -> None:
    policy = law()
    hold(policy, replace(IDLE, ready=10, busy=10, arrival_fast=10.0, arrival_slow=10.0), 0, 20)
    still_remembered = replace(IDLE, ready=10, arrival_slow=5.0)

    assert hold(policy, still_remembered, 21, 20 + 2 * STABILISATION + 5).want == 1


def test_at_most_a_quarter_goes_in_one_tick() -> None:
    policy = law()
    policy.decide(ONE_SLOT, replace(IDLE, ready=10))

    decision = policy.decide(ONE_SLOT, replace(IDLE, ready=10, now=STABILISATION + 1))

    assert decision.want == 7
    assert decision.reason.startswith("No worker has been needed for 60 s. ")


def test_what_a_new_supervisor_finds_is_kept_for_the_window() -> None:
    policy = law()

    assert policy.decide(ONE_SLOT, replace(IDLE, ready=8)).want == 8
    assert policy.decide(ONE_SLOT, replace(IDLE, ready=8, now=STABILISATION)).want == 8
    assert policy.decide(ONE_SLOT, replace(IDLE, ready=8, now=STABILISATION + 1)).want == 6


def test_workers_that_run_tasks_are_not_given_up() -> None:
    policy = law()
    long_tasks = replace(IDLE, ready=8, busy=5, service_time=600.0)

    assert hold(policy, long_tasks, 0, 10 * STABILISATION).want == 5


def test_without_a_window_workers_go_at_once() -> None:
    policy = GroupPolicy(stabilisation=0.0)
    policy.decide(ONE_SLOT, replace(IDLE, ready=4))

    assert policy.decide(ONE_SLOT, replace(IDLE, ready=4, now=1.0)).want == 3


def test_nothing_is_given_up_for_the_window_after_the_target_wait_was_missed() -> None:
    policy = law()
    late = backlog(1, replace(IDLE, ready=8, age=11.0, service_time=0.01))
    policy.decide(ONE_SLOT, replace(late, now=0.0))
    policy.decide(ONE_SLOT, replace(late, now=40.0))

    decision = policy.decide(ONE_SLOT, backlog(1, replace(IDLE, ready=8, service_time=0.01, now=99.0)))

    assert (decision.want, decision.limit) == (8, "stabilisation")
    assert "It was urgent within the last 60 s" in decision.reason


def test_a_minimum_of_zero_is_reached_and_left_with_the_first_message() -> None:
    policy = law()

    assert hold(policy, IDLE, 0, STABILISATION, TO_ZERO).want == 1
    assert hold(policy, IDLE, STABILISATION + 1, STABILISATION + 3, TO_ZERO).want == 0
    assert policy.decide(TO_ZERO, backlog(1, replace(IDLE, ready=0, now=70.0))).want == 1


@pytest.mark.parametrize(
    ("startup", "kept", "window"), [(30.0, True, "within the last 180 s"), (1.0, False, "")]
)
def test_an_idle_worker_is_kept_for_the_next_task_where_a_start_takes_too_long(
    startup: float, kept: bool, window: str
) -> None:
    policy, wanted, ready, reason = law(), 0, 1, ""
    for now in range(520):
        busy = int(now % 120 == 0 and now < 400)
        seen = replace(IDLE, now=float(now), ready=ready, busy=busy, startup=startup)
        decision = policy.decide(TO_ZERO, seen)
        ready, wanted, reason = max(decision.want, busy), decision.want, decision.reason

    # 160 s after the last task; they came each 120 s.
    assert wanted == int(kept)
    assert window in reason


def test_tasks_for_later_wake_nobody_until_a_start_before_their_time() -> None:
    policy = law()
    future = replace(IDLE, ready=0, future=50, startup=5.0)

    wanted = [
        policy.decide(TO_ZERO, replace(future, now=100.0 - eta, next_eta=eta)) for eta in (100.0, 7.0, 5.0)
    ]

    assert [decision.want for decision in wanted] == [0, 0, 1]
    assert "50 for later" in wanted[0].reason
    assert wanted[2].reason == "A task comes due in 5 s; a start takes 5 s"


def test_a_worker_that_holds_tasks_for_later_is_started_and_stopped_once() -> None:
    policy, ready, wanted = law(), 1, []
    for now in range(400):
        eta = 300.0 - now
        seen = replace(IDLE, now=float(now), ready=ready, startup=5.0, next_eta=eta if eta > 0 else None)
        ready = policy.decide(TO_ZERO, replace(seen, busy=int(300 <= now < 302))).want
        wanted.append(ready)

    changes = [(now, b) for now, (a, b) in enumerate(pairwise(wanted), 1) if a != b]
    assert [number for _, number in changes] == [0, 1, 0]
    stopped, woken, stopped_again = (now for now, _ in changes)
    assert stopped <= STABILISATION + 2
    assert 290 <= woken <= 295
    assert 301 + STABILISATION <= stopped_again <= 304 + STABILISATION


def test_a_worker_whose_task_is_due_soon_is_kept() -> None:
    policy = law()
    seen = replace(IDLE, next_eta=30.0)

    assert hold(policy, seen, 0, 3 * STABILISATION, TO_ZERO).want == 1


def test_a_long_queue_grows_its_group_by_one_at_a_time_though_the_target_wait_is_met() -> None:
    policy = law()
    long = backlog(THRESHOLD + 1, replace(IDLE, ready=2, service_time=0.0105))

    first = policy.decide(ONE_SLOT, long)
    starting = policy.decide(ONE_SLOT, replace(long, now=1.0, starting=1))
    for now in (2.0, 3.0, 4.0):
        policy.decide(ONE_SLOT, replace(long, now=now, ready=3))
    longer = replace(long, now=5.0, ready=3, backlog=1500, longest=1500)
    again = policy.decide(ONE_SLOT, longer)

    assert [first.want, starting.want, again.want] == [3, 3, 4]
    assert first.reason == (
        "1001 messages in queue celery are more than the threshold of 1000. "
        "1001 tasks waiting, about 5.3 s of work for 2 slots. Target wait 10 s; "
        "3 workers clear the queue in about 3.5 s"
    )
    assert not first.emergency


def test_at_its_threshold_a_queue_is_not_yet_long() -> None:
    decision = law().decide(ONE_SLOT, backlog(THRESHOLD, replace(IDLE, ready=2, service_time=0.001)))

    assert decision.want == 2


def test_what_a_long_queue_has_started_stays_for_the_window() -> None:
    policy = law()
    policy.decide(ONE_SLOT, backlog(THRESHOLD + 1, replace(IDLE, ready=2, service_time=0.0105)))
    short = replace(IDLE, ready=3, service_time=0.001, now=STABILISATION - 1)
    decision = policy.decide(ONE_SLOT, backlog(THRESHOLD, short))

    assert (decision.want, decision.limit) == (3, "stabilisation")


def test_twice_the_threshold_is_an_emergency_up_to_the_maximum() -> None:
    policy = law()
    flood = backlog(2 * THRESHOLD + 1, replace(IDLE, ready=2, age=11.0, service_time=0.001))

    decision = policy.decide(ONE_SLOT, flood)

    assert decision.emergency
    assert (decision.want, decision.limit) == (10, "max_workers")
    assert decision.reason == (
        "EMERGENCY: 2001 messages in queue celery are more than twice the threshold of 1000. "
        "2001 tasks waiting, oldest 11.0 s, about 1.0 s of work for 2 slots. Target wait 10 s; "
        "10 workers clear the queue in about 0.2 s. Limited by max_workers = 10"
    )


def test_many_messages_that_are_little_work_are_no_emergency_while_none_is_late() -> None:
    tiny = replace(IDLE, ready=8, service_time=0.015)

    decision = law().decide(ONE_SLOT, backlog(2 * THRESHOLD + 1, tiny))
    one = law().decide(replace(ONE_SLOT, max_workers=60), backlog(2500, replace(tiny, ready=1)))

    assert (decision.want, decision.emergency) == (8, False)
    # What the work needs, not a worker for each message.
    assert one.emergency
    assert one.want < 20


def test_nothing_is_given_up_for_the_window_after_an_emergency() -> None:
    policy = law()
    policy.decide(ONE_SLOT, backlog(2 * THRESHOLD + 1))
    policy.decide(ONE_SLOT, backlog(2 * THRESHOLD + 1, replace(IDLE, now=50.0)))
    after_it = replace(IDLE, ready=10, busy=1, service_time=0.001)

    assert policy.decide(ONE_SLOT, replace(after_it, now=50.0 + STABILISATION - 1)).want == 10


def test_even_an_emergency_has_a_task_for_each_slot() -> None:
    policy = GroupPolicy(queue_threshold=1)
    late = backlog(3, replace(IDLE, age=11.0, service_time=0.01))

    assert policy.decide(replace(ONE_SLOT, concurrency=2), late).want == 2


def test_an_emergency_gives_no_worker_up() -> None:
    flood = backlog(2 * THRESHOLD + 1, replace(IDLE, ready=10))

    assert law().decide(replace(ONE_SLOT, concurrency=1000), flood).want == 10


def test_a_low_threshold_starts_no_worker_without_a_task() -> None:
    policy = GroupPolicy(queue_threshold=1)
    two = backlog(2, replace(IDLE, ready=1, service_time=0.001))

    assert policy.decide(replace(ONE_SLOT, concurrency=2), two).want == 1


def test_a_pause_holds_and_says_who_wanted_it() -> None:
    seen = backlog(5000, replace(IDLE, ready=2, starting=1))

    decision = law().decide(ONE_SLOT, seen, Override(paused=True, by="ann"))

    assert (decision.want, decision.limit) == (3, "paused")
    assert decision.reason == "paused by ann; nothing is started or stopped"


def test_what_happens_during_a_pause_is_remembered() -> None:
    policy = law()
    busy = replace(IDLE, ready=6, busy=6, arrival_fast=6.0, arrival_slow=6.0, service_time=1.0)
    for now in range(200):
        policy.decide(ONE_SLOT, replace(busy, now=float(now)), Override(paused=True))

    assert policy.decide(ONE_SLOT, replace(IDLE, ready=6, now=201.0)).want == 6


def test_other_bounds_win_over_the_settings() -> None:
    flood = backlog(5000, replace(IDLE, ready=3))

    assert law().decide(ONE_SLOT, flood, Override(max_workers=20)).want == 20
    assert law().decide(ONE_SLOT, flood, Override(max_workers=2)).want == 2
    assert law().decide(ONE_SLOT, IDLE, Override(min_workers=5)).want == 5


def test_a_minimum_over_the_maximum_ends_there() -> None:
    assert bounds(ONE_SLOT, Override(min_workers=50)) == (10, 10)
    assert bounds(replace(ONE_SLOT, min_workers=4), Override(max_workers=1)) == (1, 1)
