"""The control law in simulated hours: what it promises is kept, and costs less than what others do.

Figures are waits in seconds and hours of workers. The bounds leave room for chance; ``make bench-law`` prints
the figures themselves, beside the laws of others.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import median

import pytest
from celery_autoscaler.supervisor.policy.law import GroupPolicy
from support.scaling_traces import (
    GROUP,
    HOUR,
    LOADS,
    MAXIMUM,
    TARGET,
    Fixed,
    airflow,
    burst,
    exponential,
    keda,
    our_law,
)
from support.simulated_fleet import SimulatedGroup, SimulatedHost, Simulation, simulate
from support.simulated_load import Task, Trace, as_tasks, even, poisson, repeatable

WINDOW = 60.0
SETTLED = 2 * WINDOW
BY_NAME = {load.name: load for load in LOADS}


def traces(name: str, seeds: tuple[int, ...]) -> list[Trace]:
    """Let our law meet a load with several seeds."""
    return [BY_NAME[name].run(our_law(), seed) for seed in seeds]


# --- The target and the cost --------------------------------------------------------------------------


@pytest.mark.parametrize("name", [load.name for load in LOADS if load.allowed])
def test_99_of_100_tasks_start_within_the_target_wait_where_it_can_be_kept(name: str) -> None:
    [trace] = traces(name, (1,))

    assert trace.wait(0.99) < TARGET


@pytest.mark.parametrize(
    ("name", "p99", "hours"),
    [
        ("burst", 8.5, 14.0),
        ("spiky", 4.0, 24.0),
        ("diurnal", 0.5, 17.5),
        ("step", 2.2, 13.5),
        ("on-off", 4.5, 22.0),
        ("tiny tasks", 6.5, 8.0),
        ("ETA waves", 6.5, 9.0),
        ("long task", 9.0, 2.0),
    ],
)
def test_a_load_costs_no_more_than_it_has_to(name: str, p99: float, hours: float) -> None:
    [trace] = traces(name, (2,))

    assert trace.wait(0.99) < p99
    assert trace.hours < hours


@pytest.mark.parametrize("name", ["burst", "spiky", "ETA waves"])
def test_tasks_wait_less_than_with_the_laws_of_others(name: str) -> None:
    load, [ours] = BY_NAME[name], traces(name, (1,))

    for law in (keda(), airflow()):
        assert ours.wait(0.99) < 0.6 * load.run(law, 1, braked=False).wait(0.99)


# --- Services behind the tasks -------------------------------------------------------------------------


def test_a_saturated_service_is_found_and_gets_what_it_bears() -> None:
    load, found = BY_NAME["overloaded"], traces("overloaded", (1, 2))
    ours = median(trace.wait(0.95) for trace in found)
    # It bears 20 at a time.
    best = median(load.run(Fixed(20), seed).wait(0.95) for seed in (1, 2))

    assert ours < 1.5 * best
    reasons = [tick.decision.reason for tick in found[0].ticks]
    assert any("More workers finish no more tasks (" in reason for reason in reasons)


@pytest.mark.parametrize("name", ["heavy tail", "heavy bursts", "bimodal"])
def test_what_is_not_saturated_is_not_held_back(name: str) -> None:
    [trace] = traces(name, (2,))

    held_back = sum(tick.decision.limit == "throughput" for tick in trace.ticks)
    assert held_back < 0.01 * len(trace.ticks)


# --- A task that holds up others, hosts that start few at a time ---------------------------------------


@pytest.mark.parametrize("short", [0.02, 0.5])
def test_a_task_behind_a_long_one_gets_a_worker_of_its_own_in_time(short: float) -> None:
    chance = repeatable(3)
    quick = [Task(at, short, "quick") for at in poisson(0.5, 1800, chance)]
    tasks = [*quick, Task(900.0, 300.0, "long")]

    trace = simulate(GROUP, our_law(), tasks, 1800)

    assert trace.wait(0.999) < TARGET
    assert trace.hours < 1.2


def test_starts_that_wait_for_other_things_than_a_cpu_do_not_wait_for_each_other() -> None:
    tasks = as_tasks(even(900.0, 1 / 3, 60.0), [1.0] * 300)
    busy, patient = (
        simulate(GROUP, our_law(), tasks, 300, startup=30.0, hosts=[SimulatedHost(start_cpu=cpu)])
        for cpu in (0.5, 0.02)
    )

    assert patient.wait(1.0) < 0.8 * busy.wait(1.0)


def test_two_groups_on_a_host_do_not_keep_each_other_waiting() -> None:
    chance, urgent = repeatable(2), replace(GROUP, name="urgent", min_workers=0)
    heavy = SimulatedGroup(GROUP, our_law(), exponential(even(900.0, 1.0, 60.0), chance))
    light = SimulatedGroup(urgent, our_law(), [Task(61.0, 0.1)])

    traces = Simulation([heavy, light], [SimulatedHost()]).run(300)

    assert traces[1].waits[0] < 5.0
    assert traces[0].wait(1.0) < 120.0


# --- Down to zero --------------------------------------------------------------------------------------


def test_a_worker_is_kept_for_the_next_task_where_a_start_takes_longer_than_the_target() -> None:
    for trace in traces("rare from 0, 30 s", (1, 2)):
        late = sum(wait > TARGET for wait in trace.waits) / len(trace.waits)
        assert late < 0.25
        assert trace.turns(0.0) <= 12
        assert trace.hours < 1.2


def test_a_quick_start_keeps_no_worker_for_the_next_task() -> None:
    load = replace(BY_NAME["rare from 0, 30 s"], startup=1.0)

    trace = load.run(our_law(), 1)

    assert trace.wait(0.99) < TARGET
    assert trace.hours < 0.8


# --- Steadiness ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0.2, 1.0, 5.0])
def test_a_constant_load_is_served_by_a_constant_number(size: float) -> None:
    arrivals = even(5.0 / size, 900)

    trace = simulate(GROUP, our_law(), as_tasks(arrivals, [size] * len(arrivals)), 900)

    settled = [tick.have for tick in trace.ticks if tick.seen.now > 2 * SETTLED]
    assert trace.turns(SETTLED) == 0
    assert max(settled) - min(settled) <= 1
    assert 5 <= settled[-1] <= 9


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_random_load_of_constant_rate_turns_the_number_rarely(concurrency: int) -> None:
    chance = repeatable(1)
    tasks = exponential(poisson(5.0, HOUR, chance), chance)

    trace = simulate(replace(GROUP, concurrency=concurrency), our_law(), tasks, HOUR)

    assert trace.quickest_regret() >= WINDOW
    assert trace.turns(SETTLED) <= HOUR / WINDOW
    # The spare slots are for this.
    assert trace.wait(0.95) < 0.15


def test_a_longer_window_costs_hours_and_turns_less_often() -> None:
    short, long = (BY_NAME["burst"].run(GroupPolicy(window), 2) for window in (30.0, 300.0))

    assert long.hours > 1.5 * short.hours
    assert long.turns(SETTLED) < short.turns(SETTLED)


def test_looking_each_second_keeps_what_looking_each_half_minute_breaks() -> None:
    tasks = burst(repeatable(2))
    often, rarely = (simulate(GROUP, our_law(), tasks, HOUR, tick=tick) for tick in (1.0, 30.0))

    assert often.wait(0.99) < TARGET < rarely.wait(0.99)


def test_an_idle_group_is_at_its_minimum_soon_after_the_window() -> None:
    arrivals = even(20.0, 300)

    trace = simulate(GROUP, our_law(), as_tasks(arrivals, [1.0] * len(arrivals)), 500)

    first = next(tick.seen.now for tick in trace.ticks if tick.seen.now > 300 and tick.have == 1)
    assert 300 + WINDOW <= first <= 330 + 2 * WINDOW


def test_bursts_cost_a_fraction_of_a_fixed_maximum() -> None:
    [trace] = traces("burst", (3,))

    assert trace.hours < MAXIMUM / 3
    assert max(tick.have for tick in trace.ticks) > 30
    assert trace.ticks[-1].have < 15


def test_a_queue_around_its_threshold_makes_no_worker_come_and_go() -> None:
    # Each quarter of a minute 150 tasks of 50 ms at once, where 100 are many.
    arrivals = [at for begin in range(0, 600, 15) for at in even(3000.0, 0.05, begin + 0.9)]

    trace = simulate(GROUP, GroupPolicy(queue_threshold=100), as_tasks(arrivals, [0.05] * len(arrivals)), 700)

    assert max(tick.have for tick in trace.ticks) > 1
    assert trace.quickest_regret() >= WINDOW
