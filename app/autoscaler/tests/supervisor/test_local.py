"""A worker of this host from its start to its end: what it does, what it would cost to stop, what is sent."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
from celery_autoscaler.protocol.worker_seen import WorkerSeen
from celery_autoscaler.supervisor.launchers import StopSignal
from celery_autoscaler.supervisor.local import (
    GIVING_BACK_SECONDS,
    HANGING_SECONDS,
    STALLED_SECONDS,
    TERM_TO_QUIT_SECONDS,
    LocalWorker,
)
from celery_autoscaler.supervisor.policy.shares import Candidate

DRAIN = 60.0
SOFT = 10.0
IDLE = WorkerSeen(
    id="default-1@here:1", alive=True, state="running", concurrency=2, processed=5, release="r2"
)
BUSY = replace(IDLE, active=1, running=[("mail", 990.0)])


def worker(seen: WorkerSeen | None = IDLE) -> LocalWorker:
    """Return a worker that was started at 0 and consumed at 3."""
    made = LocalWorker("default-1", "default", 0.0, soft_shutdown=SOFT)
    made.look(3.0, seen)
    return made


def signals(stopped: LocalWorker, until: float) -> list[tuple[float, StopSignal]]:
    """Return what is sent and when, looking twice a second."""
    sent = []
    for half in range(int(2 * until)):
        how = stopped.next_signal(half / 2)
        if how is not None:
            sent.append((half / 2, how))
            stopped.send_signal(half / 2, how, lambda *_: None)
    return sent


# --- What it does --------------------------------------------------------------------------------------


def test_it_is_ready_when_it_consumes_and_tells_once_how_long_that_took() -> None:
    starting = LocalWorker("default-1", "default", 10.0)

    assert starting.look(11.0, None) is None
    assert starting.look(12.0, replace(IDLE, state="")) is None
    assert starting.state == "starting"
    assert starting.look(13.5, IDLE) == 3.5
    assert starting.look(14.5, IDLE) is None
    assert starting.state == "ready"


def test_starting_ready_draining_and_stopping_are_told_apart() -> None:
    found = worker()
    states = [found.state]
    found.stop(4.0, "enough", DRAIN)
    states.append(found.state)
    found.undo_stop()
    states.append(found.state)
    found.stop(5.0, "enough", DRAIN)
    found.send_signal(6.0, StopSignal.TERM, lambda *_: None)
    states.append(found.state)

    assert states == ["ready", "draining", "ready", "stopping"]


# --- A stop --------------------------------------------------------------------------------------------


def test_nothing_is_sent_to_a_worker_that_shall_stay() -> None:
    assert signals(worker(), 100.0) == []


def test_a_drained_worker_is_asked_to_end_at_once() -> None:
    drained = worker()
    drained.stop(4.0, "enough", DRAIN)
    drained.seen = replace(IDLE, state="drained")

    assert drained.next_signal(4.5) is StopSignal.TERM


def test_a_worker_that_runs_a_task_is_left_alone_until_the_drain_time_is_over() -> None:
    busy = worker(BUSY)
    busy.stop(0.0, "enough", DRAIN)
    busy.seen = replace(BUSY, state="draining")

    assert signals(busy, 200.0)[:3] == [
        (DRAIN, StopSignal.TERM),
        (DRAIN + TERM_TO_QUIT_SECONDS, StopSignal.QUIT),
        (DRAIN + TERM_TO_QUIT_SECONDS + SOFT + GIVING_BACK_SECONDS, StopSignal.KILL),
    ]


def test_a_kill_is_repeated_each_second_until_it_is_gone() -> None:
    busy = worker(BUSY)
    busy.stop(0.0, "enough", 0.0)

    kills = [at for at, how in signals(busy, 30.0) if how is StopSignal.KILL]

    assert len(kills) > 3
    assert {b - a for a, b in pairwise(kills)} == {1.0}


def test_a_worker_that_ended_its_work_and_hangs_is_signalled_long_before_the_drain_time_is_over() -> None:
    hangs = worker()
    hangs.stop(0.0, "enough", 3600.0)
    hangs.seen = replace(IDLE, state="drained")

    assert signals(hangs, 30.0) == [(0.0, StopSignal.TERM), (HANGING_SECONDS, StopSignal.QUIT)]


def test_a_worker_that_got_another_task_before_it_was_asked_may_finish_it() -> None:
    busy = worker()
    busy.stop(0.0, "enough", 3600.0)
    busy.seen = replace(IDLE, state="drained")
    assert busy.next_signal(0.0) is StopSignal.TERM
    busy.send_signal(0.0, StopSignal.TERM, lambda *_: None)
    busy.seen = BUSY

    assert busy.next_signal(10 * HANGING_SECONDS) is None


@pytest.mark.parametrize("seen", [None, replace(IDLE, state="fenced")])
def test_a_worker_without_a_lease_of_its_own_need_not_drain(seen: WorkerSeen | None) -> None:
    fenced = worker()
    fenced.stop(4.0, "enough", DRAIN)
    fenced.seen = seen

    assert fenced.next_signal(4.0) is StopSignal.TERM


def test_a_worker_that_does_not_consume_yet_need_not_drain() -> None:
    starting = LocalWorker("default-1", "default", 0.0)
    starting.look(1.0, replace(IDLE, state=""))
    starting.stop(1.0, "enough", DRAIN)

    assert starting.next_signal(1.0) is StopSignal.TERM


# --- What a stop would cost ----------------------------------------------------------------------------


def test_what_an_idle_worker_costs_is_nothing() -> None:
    assert worker().candidate(1000.0, {"": 30.0}) == Candidate(outdated=False, busy=0, remaining=0.0)


def test_what_is_left_of_a_task_is_its_usual_time_less_what_it_has_run() -> None:
    busy = worker(replace(BUSY, reserved=1))

    assert busy.candidate(1000.0, {"": 20.0, "mail": 30.0}) == Candidate(
        # 20 of 30 s are left, and a task of 20 s for two slots.
        outdated=False, busy=2, remaining=20.0 + 10.0,
    )  # fmt: skip


def test_a_task_that_takes_longer_than_usual_may_end_at_any_moment() -> None:
    assert worker(BUSY).candidate(2000.0, {"": 20.0}).remaining == 0.0


def test_a_worker_in_whose_place_another_one_comes_goes_first() -> None:
    outdated = worker()
    outdated.outdated = True

    assert outdated.candidate(1000.0, {}).outdated


# --- A worker that takes nothing -----------------------------------------------------------------------


def last_look(found: LocalWorker, seen: WorkerSeen, seconds: float, waiting: int = 5) -> bool:
    """Let the same be seen for so long; return whether the worker is given up."""
    result = False
    for second in range(int(seconds) + 1):
        found.look(3.0 + second, seen)
        result = found.is_stalled(3.0 + second, waiting)
    return result


def test_a_worker_that_takes_nothing_while_messages_wait_is_given_up() -> None:
    assert not last_look(worker(), IDLE, STALLED_SECONDS)
    assert last_look(worker(), IDLE, STALLED_SECONDS + 2)


@pytest.mark.parametrize(
    ("seen", "waiting"),
    [
        (IDLE, 0),
        (replace(IDLE, active=2), 5),
        (replace(IDLE, active=1, reserved=1), 5),
    ],
)
def test_a_worker_without_room_or_without_messages_is_not_given_up(seen: WorkerSeen, waiting: int) -> None:
    assert not last_look(worker(), seen, 10 * STALLED_SECONDS, waiting)


def test_a_worker_that_takes_one_now_and_then_is_not_given_up() -> None:
    found = worker()
    for taken in range(20):
        assert not last_look(found, replace(IDLE, taken={"celery": taken}), STALLED_SECONDS)
