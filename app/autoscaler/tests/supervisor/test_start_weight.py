"""How much of a host a start takes: measured, bounded, and known only after some."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace

import pytest
from celery import Celery
from celery_autoscaler.protocol.description import describe
from celery_autoscaler.protocol.worker_seen import WorkerSeen
from celery_autoscaler.settings import Group, Settings
from celery_autoscaler.supervisor.host_workers import cpu_seconds_needed
from celery_autoscaler.supervisor.launchers import State
from celery_autoscaler.supervisor.local import LocalWorker
from celery_autoscaler.supervisor.loop import Supervisor
from celery_autoscaler.supervisor.observation import FleetSeen
from celery_autoscaler.supervisor.policy.limits import HostSeen, StartNeed, start_turns
from celery_autoscaler.supervisor.policy.start_weight import ENOUGH, LIGHTEST, STARTS, StartWeight
from celery_autoscaler.supervisor.tick import Tick
from hypothesis import given, settings
from hypothesis import strategies as st
from support.processes.services import wait_for
from support.scaling_traces import Load, burst, our_law
from support.simulated_fleet import SimulatedHost

properties = settings(deadline=None, max_examples=100, derandomize=True)


def weight_of(*starts: tuple[float, float]) -> float:
    """Return the weight after some starts: seconds of CPU, seconds in all."""
    weight = StartWeight()
    for needed, seconds in starts:
        weight.add(needed, seconds)
    return weight.value


@pytest.mark.parametrize(
    ("starts", "weight"),
    [
        ([], 1.0),
        ([(0.0, 30.0)], 1.0),  # one alone proves nothing
        ([(0.3, 30.0)] * 2, LIGHTEST),
        ([(1.0, 5.0)] * 2, pytest.approx(0.4)),
        ([(3.0, 3.0)] * 2, 1.0),
        ([(0.3, 30.0), (9.0, 30.0)], pytest.approx(0.6)),  # the heaviest counts
        ([(0.4, -0.5)] * 2, 1.0),  # quicker than a tick: nothing is known of it
    ],
)
def test_a_start_weighs_what_the_heaviest_of_those_before_it_did(
    starts: list[tuple[float, float]], weight: float
) -> None:
    assert weight_of(*starts) == weight


def test_a_start_that_was_heavy_is_forgotten_after_some_that_were_not() -> None:
    heavy, light = (30.0, 30.0), (0.3, 30.0)

    assert weight_of(heavy, *[light] * (STARTS - 1)) == 1.0
    assert weight_of(heavy, *[light] * STARTS) == LIGHTEST


@properties
@given(st.lists(st.tuples(st.floats(), st.floats()), max_size=10))
def test_whatever_was_measured_the_weight_is_bounded(starts: list[tuple[float, float]]) -> None:
    weight = weight_of(*starts)

    assert LIGHTEST <= weight <= 1.0
    assert len(starts) >= ENOUGH or weight == 1.0


# --- Turns ---------------------------------------------------------------------------------------------


def test_starts_that_wait_leave_room_for_more_of_them() -> None:
    assert start_turns([StartNeed("web", 30, weight=LIGHTEST)], 4) == {"web": 20}
    assert start_turns([StartNeed("web", 30, starting=20, weight=LIGHTEST)], 4) == {"web": 0}


def test_starts_that_wait_keep_no_place_from_those_that_need_a_cpu_and_vice_versa() -> None:
    waits, needs = StartNeed("waits", 30, starting=5, weight=LIGHTEST), StartNeed("needs", 30, starting=0)
    assert start_turns([waits, needs], 4)["needs"] == 3

    # What is too little for a heavy start still bears light ones.
    waits, needs = replace(waits, starting=1, missing=3), replace(needs, starting=3)
    assert start_turns([waits, needs], 4) == {"waits": 3, "needs": 0}


@properties
@given(
    st.lists(
        st.builds(
            StartNeed,
            group=st.sampled_from(["a", "b", "c"]),
            missing=st.integers(-3, 60),
            starting=st.integers(0, 10),
            weight=st.floats(LIGHTEST, 1.0),
            overdue=st.floats(0, 100),
        ),
        unique_by=lambda need: need.group,
    ),
    st.floats(-5, 20),
)
def test_no_more_weight_starts_than_the_host_bears_but_for_the_first_of_a_group(
    wanted: list[StartNeed], at_once: float
) -> None:
    turns = start_turns(wanted, at_once)

    beyond_first = sum(
        need.weight * (need.starting + turns[need.group] - 1) for need in wanted if turns[need.group]
    )
    assert beyond_first <= max(0.0, at_once) + 1e-6
    assert all(0 <= turns[need.group] <= max(0, need.missing) for need in wanted)


@pytest.mark.parametrize(
    ("startup", "start_cpu", "most"),
    [(3.0, 0.05, 9.0), (8.0, 0.05, 15.0), (3.0, 0.5, 15.0), (3.0, 1.0, 15.0)],
)
def test_a_burst_is_met_sooner_by_starts_that_wait_and_as_before_by_those_that_need_a_cpu(
    startup: float, start_cpu: float, most: float
) -> None:
    host = SimulatedHost("host", 2.0, start_cpu=start_cpu)
    trace = Load("burst", burst, startup=startup, hosts=(host,)).run(our_law(), 1)

    assert trace.wait(0.95) < most


# --- Measuring -----------------------------------------------------------------------------------------

WORKS = "import time\nwhile time.process_time() < 0.6: pass\nprint('done', flush=True)\ntime.sleep(600)"


def test_the_work_of_a_process_is_counted_and_its_waiting_is_not() -> None:
    begin = time.monotonic()
    with subprocess.Popen([sys.executable, "-c", WORKS], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            worked = time.monotonic() - begin
            wait_for(lambda: time.monotonic() - begin > worked + 1.5, "time does not pass")
            needed = cpu_seconds_needed(process.pid)
            assert needed is not None
            assert 0.55 <= needed < worked + 0.5
        finally:
            process.kill()
    assert cpu_seconds_needed(process.pid) is None


def test_workers_that_become_ready_tell_what_their_starts_took(redis_url: str) -> None:
    group = Group(name="web", queues=("web",))
    with (
        Celery("proj", broker=redis_url, set_as_current=False) as app,
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) as process,
    ):
        supervisor = Supervisor(
            describe(app, "proj"), Settings(groups={"web": group}, hostname="here", launcher="systemd")
        )
        [state] = supervisor.groups.values()
        try:
            for number in range(1, ENOUGH + 1):
                name = f"web-{number}"
                supervisor.local[name] = LocalWorker(name, "web", since=0.0)
                seen = WorkerSeen(
                    id=f"{name}@here:1", host="here", group="web", state="running", pid=process.pid
                )
                fleet = FleetSeen(
                    time=0.0, lists=[], dead_letters={}, workers=[seen], expired=[], draining=frozenset(),
                    replaced=frozenset(), leaving={}, peers=[], overrides={}, claims={}, short="",
                )  # fmt: skip
                assert state.start_weight.value == 1.0
                states = dict.fromkeys(supervisor.local, State.RUNNING)
                supervisor.workers.see(Tick(600.0, fleet, HostSeen(), states, 0.0))
        finally:
            process.kill()

        assert state.start_weight.value == LIGHTEST
