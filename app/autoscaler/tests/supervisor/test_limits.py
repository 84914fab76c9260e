"""What a host can bear: its limits, and whose turn it is to start a worker."""

from __future__ import annotations

from dataclasses import replace

import pytest
from celery_autoscaler.supervisor.policy.limits import (
    SETTLE_SECONDS,
    HostLimits,
    HostSeen,
    StartNeed,
    start_turns,
)
from hypothesis import given, settings
from hypothesis import strategies as st

# The machine may be busy, and each run is the same.
properties = settings(deadline=None, max_examples=70, derandomize=True)

# --- HostLimits --------------------------------------------------------------------------------------------

GIB = 2**30
CALM = HostSeen(cpus=2.0, cpu=20.0, memory=30.0, memory_limit=4 * GIB)


def against(host: HostSeen, *, slowing: bool = False, worker_memory: int = 0, starting: int = 0) -> str:
    """Return what thresholds of 90 % CPU and 85 % memory say against a start."""
    host_limits = HostLimits(cpu_threshold=90.0, memory_threshold=85.0)
    return host_limits.against_starts(host, slowing=slowing, worker_memory=worker_memory, starting=starting)


def test_a_calm_host_starts_workers() -> None:
    assert against(CALM, worker_memory=GIB) == ""
    assert HostLimits(90.0, 85.0).for_a_stop(0.0, CALM, slowing=True) == ""


def test_host_adds_as_many_children_as_its_memory_bears_and_none_while_it_is_short() -> None:
    limits = HostLimits(cpu_threshold=90.0, memory_threshold=85.0)

    def children(host: HostSeen, memory: int = GIB // 10) -> int:
        return limits.children(host, slowing=False, child_memory=memory)

    # 55 % of 4 GiB are left.
    assert children(CALM) == 22
    assert children(CALM, memory=0) > 1000
    for short in ({"memory": 86.0}, {"cpu": 95.0}, {"memory_pressure": 20.0}):
        assert children(replace(CALM, **short)) == 0  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "words"),
    [
        (replace(CALM, memory=86.0), "memory usage is 86 %, above 85 %"),
        (replace(CALM, cpu=91.0), "CPU usage is 91 %, above 90 %"),
        (
            replace(CALM, memory_pressure=11.0),
            "memory is under pressure: something waited for it 11 % of 10 s",
        ),
    ],
)
def test_a_host_that_is_short_starts_nothing_and_says_of_what(host: HostSeen, words: str) -> None:
    assert against(host) == words


def test_thresholds_themselves_are_allowed() -> None:
    assert against(replace(CALM, memory=85.0, cpu=90.0, memory_pressure=10.0)) == ""


def test_pressure_on_the_cpus_matters_only_if_tasks_get_slower() -> None:
    pressed = replace(CALM, cpu_pressure=61.0)

    assert against(pressed) == ""
    assert against(pressed, slowing=True) == (
        "CPU is under pressure (61 %) and tasks take longer than before"
    )


def test_memory_is_kept_for_workers_that_are_still_starting() -> None:
    # 55 % of 4 GiB are left below the threshold.
    assert against(CALM, worker_memory=GIB, starting=1) == ""
    assert against(CALM, worker_memory=GIB, starting=2) == (
        "a worker takes 1024 MiB, 2253 MiB are left below 85 % of memory"
    )


@pytest.mark.parametrize(("cpus", "starts"), [(0.5, 2), (1.0, 2), (2.0, 4), (2.5, 5)])
def test_as_many_workers_start_at_once_as_the_cpus_can_bear(cpus: float, starts: int) -> None:
    assert HostLimits.starts_at_once(replace(CALM, cpus=cpus)) == starts


def test_a_shortage_of_memory_stops_one_worker_each_time_it_has_settled() -> None:
    host_limits, full = HostLimits(90.0, 85.0), replace(CALM, memory=93.0)

    stops = [now for now in range(36) if host_limits.for_a_stop(float(now), full, slowing=False)]

    assert stops == [SETTLE_SECONDS, 2 * SETTLE_SECONDS, 3 * SETTLE_SECONDS]
    assert host_limits.for_a_stop(40.0, full, slowing=False) == "memory stays at 93 %, over 85 %"


def test_a_shortage_that_goes_away_stops_nothing() -> None:
    host_limits, full = HostLimits(90.0, 85.0), replace(CALM, memory=93.0)

    asked = [
        host_limits.for_a_stop(float(now), CALM if now % 9 == 8 else full, slowing=False) for now in range(60)
    ]

    assert not any(asked)


def test_busy_cpus_stop_a_worker_only_if_tasks_get_slower() -> None:
    busy = replace(CALM, cpu=99.0)
    useful, useless = HostLimits(90.0, 85.0), HostLimits(90.0, 85.0)

    assert not any(useful.for_a_stop(float(now), busy, slowing=False) for now in range(30))
    useless.for_a_stop(0.0, busy, slowing=True)
    assert useless.for_a_stop(SETTLE_SECONDS, busy, slowing=True) == (
        "CPU stays at 99 % and more workers only make tasks slower"
    )


# --- Turns ---------------------------------------------------------------------------------------------

needs = st.lists(
    st.builds(
        StartNeed,
        group=st.sampled_from(["a", "b", "c", "d"]),
        missing=st.integers(-3, 30),
        starting=st.integers(0, 10),
        below_minimum=st.booleans(),
        overdue=st.floats(0, 100),
    ),
    unique_by=lambda need: need.group,
)


@properties
@given(needs, st.integers(-5, 20))
def test_no_more_start_than_the_host_bears_but_for_the_first_of_a_group(
    wanted: list[StartNeed], at_once: int
) -> None:
    turns = start_turns(wanted, at_once)

    beyond_first = sum(need.starting + turns[need.group] - 1 for need in wanted if turns[need.group])
    assert beyond_first <= max(0, at_once)
    for need in wanted:
        assert 0 <= turns[need.group] <= max(0, need.missing)
        assert turns[need.group] or need.missing <= 0 or need.starting


@properties
@given(needs, st.integers(0, 20))
def test_no_start_is_left_unused_while_a_group_wants_it(wanted: list[StartNeed], at_once: int) -> None:
    turns = start_turns(wanted, at_once)

    starting = sum(need.starting + turns[need.group] for need in wanted)
    assert starting >= at_once or all(turns[need.group] == max(0, need.missing) for need in wanted)


def test_a_burst_of_one_group_leaves_the_other_its_turn() -> None:
    burst, urgent = StartNeed("burst", 100, overdue=0.1), StartNeed("urgent", 1, overdue=2.0)

    assert start_turns([burst, urgent], 4) == {"burst": 3, "urgent": 1}
    assert start_turns([urgent, burst], 4) == {"burst": 3, "urgent": 1}
    assert start_turns([StartNeed("burst", 100, starting=4), urgent], 4) == {"burst": 0, "urgent": 1}


def test_groups_take_turns_and_the_most_overdue_begins() -> None:
    calm, late = StartNeed("calm", 9, overdue=0.5), StartNeed("late", 9, overdue=1.5)

    assert start_turns([calm, late], 5) == {"calm": 2, "late": 3}


def test_a_group_below_its_minimum_begins() -> None:
    late = StartNeed("late", 9, starting=1, overdue=9.0)
    low = StartNeed("low", 9, starting=1, below_minimum=True)

    assert start_turns([late, low], 3) == {"late": 0, "low": 1}


def test_a_group_that_hangs_at_its_start_keeps_no_other_from_its_first_worker() -> None:
    hanging, other = StartNeed("hanging", 6, starting=4), StartNeed("other", 1, below_minimum=True)

    assert start_turns([hanging, other], 4) == {"hanging": 0, "other": 1}
