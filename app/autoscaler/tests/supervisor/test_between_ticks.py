"""Looks between two ticks: they start workers, and the ticks see and decide as if there had been none."""

from __future__ import annotations

from dataclasses import replace

import pytest
from celery import Celery
from celery_autoscaler.protocol.description import describe
from celery_autoscaler.protocol.ended import Ended
from celery_autoscaler.protocol.peers import PeerSeen
from celery_autoscaler.protocol.worker_seen import WorkerSeen
from celery_autoscaler.settings import Group, Settings
from celery_autoscaler.supervisor.group_state import GroupState, see_group
from celery_autoscaler.supervisor.local import LocalWorker
from celery_autoscaler.supervisor.loop import Supervisor
from celery_autoscaler.supervisor.observation import FleetSeen, ListSeen
from celery_autoscaler.supervisor.policy.law import Decision, GroupPolicy, GroupSeen
from celery_autoscaler.supervisor.policy.limits import HostSeen
from celery_autoscaler.supervisor.tick import Tick
from hypothesis import given, settings
from hypothesis import strategies as st

GROUP = Group(name="web", queues=("mail", "pics"), max_workers=8)
NOW = 1_700_000_000.0
EMPTY = FleetSeen(
    time=NOW, lists=[], dead_letters={"mail": 0, "pics": 0}, workers=[], expired=[], draining=frozenset(),
    replaced=frozenset(), leaving={}, peers=[], overrides={}, claims={}, short="",
)  # fmt: skip
WORKER = WorkerSeen(id="web-1@here:1", host="here", group="web", state="running", concurrency=2)


@st.composite
def looks(draw: st.DrawFn) -> tuple[float, bool, FleetSeen]:
    """Anything that a look may show, the seconds since the one before, and whether it is no tick."""
    workers = []
    for number in range(draw(st.integers(0, 3))):
        begun, took = draw(st.integers(0, 300)), draw(st.floats(0, 300))
        workers.append(
            replace(
                WORKER,
                id=f"web-{number}@here:{number}",
                processed=begun,
                active=draw(st.integers(0, 2)),
                reserved=draw(st.integers(0, 5)),
                busy_seconds=took,
                taken={"mail": draw(st.integers(0, 300))},
                run_times={"task": Ended(begun, took, took)},
            )
        )
    lists = [ListSeen(queue, queue, draw(st.integers(0, 500))) for queue in GROUP.queues]
    claims = {"web": [f"web-{number}@here" for number in range(draw(st.integers(0, 3)))]}
    fleet = replace(EMPTY, lists=lists, workers=workers, claims=claims)
    return draw(st.floats(0.01, 2.0)), draw(st.booleans()), fleet


def play(seen: list[tuple[float, bool, FleetSeen]], *, woken: bool) -> list[tuple[GroupSeen, Decision]]:
    """Return what the ticks see and decide, with the looks between them or without."""
    state, now, found = GroupState(GROUP, GroupPolicy()), 0.0, []
    for seconds, between, fleet in seen:
        now += seconds
        look = replace(fleet, time=NOW + now)
        if not between:
            state.seen = see_group(now, state, look)
            state.decision = state.law.decide(GROUP, state.seen)
            found.append((state.seen, state.decision))
        elif woken:
            state.seen = see_group(now, state, look, between=True)
            state.decision = state.law.between_ticks(now).decide(GROUP, state.seen)
    return found


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.lists(looks(), max_size=12))
def test_ticks_see_and_decide_as_if_there_were_no_looks_between_them(
    seen: list[tuple[float, bool, FleetSeen]],
) -> None:
    without_starts = [(seconds, between, replace(fleet, claims={})) for seconds, between, fleet in seen]

    assert play(without_starts, woken=True) == play(without_starts, woken=False)
    # What a start still takes is the one thing that looks between ticks may tell them.
    for (one, _), (other, _) in zip(play(seen, woken=True), play(seen, woken=False), strict=True):
        assert replace(one, start_left=()) == replace(other, start_left=())


def idle_then_burst(messages: int, at: float, *, between: bool) -> tuple[GroupState, Decision]:
    """Return a group that was idle for a minute, and the decision about a burst after the last tick."""
    state = GroupState(GROUP, GroupPolicy())
    idle = replace(EMPTY, lists=[ListSeen("mail", "mail", 0), ListSeen("pics", "pics", 0)], workers=[WORKER])
    for now in range(60):
        state.seen = see_group(float(now), state, replace(idle, time=NOW + now))
        state.decision = state.law.decide(GROUP, state.seen)
    burst = replace(idle, time=NOW + at, lists=[ListSeen("mail", "mail", messages), *idle.lists[1:]])
    seen = see_group(at, state, burst, between=between)
    law = state.law.between_ticks(at) if between else state.law
    return state, law.decide(GROUP, seen)


@pytest.mark.parametrize("messages", [3, 20, 200])
@pytest.mark.parametrize("after", [0.05, 0.5, 0.95])
def test_a_burst_between_two_ticks_gets_what_it_would_get_at_the_next(messages: int, after: float) -> None:
    _, early = idle_then_burst(messages, 59.0 + after, between=True)
    _, late = idle_then_burst(messages, 60.0, between=False)

    assert abs(early.want - late.want) <= 1
    assert early.want > 1


def test_a_look_between_two_ticks_tells_of_starts_since_it() -> None:
    state = GroupState(GROUP, GroupPolicy())
    see_group(0.0, state, replace(EMPTY, claims={"web": []}))
    see_group(0.5, state, replace(EMPTY, claims={"web": ["web-1@here"]}), between=True)

    seen = see_group(1.0, state, replace(EMPTY, claims={"web": ["web-1@here"]}))

    assert seen.start_left == (state.startup.seconds - 0.5,)


def test_nothing_is_stopped_between_two_ticks(redis_url: str) -> None:
    with Celery("proj", broker=redis_url, set_as_current=False) as app:
        configured = Settings(groups={"web": GROUP}, hostname="here", launcher="systemd")
        supervisor = Supervisor(describe(app, "proj"), configured)
        workers = [replace(WORKER, id=f"web-{number}@here:1") for number in (1, 2, 3)]
        for worker in workers:
            supervisor.local[worker.instance] = LocalWorker(
                worker.instance, "web", 0.0, ready_at=0.0, seen=worker
            )
        fleet = replace(EMPTY, workers=workers, peers=[PeerSeen("here", 2.0, {"web": None})])
        [state] = supervisor.groups.values()
        state.seen, state.decision = GroupSeen(now=100.0, ready=3), Decision(1, "fewer are enough")
        tick = Tick(100.0, fleet, HostSeen(), {}, 0.0)

        supervisor.scaling.act(tick, [state], only_start=True)
        assert supervisor.broker.client.smembers("fleet:drain") == set()

        supervisor.scaling.act(tick, [state])
        assert len(supervisor.broker.client.smembers("fleet:drain")) == 2
