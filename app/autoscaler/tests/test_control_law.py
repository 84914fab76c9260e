"""The control law in a simulated hour: what it promises is kept, and costs less than a fixed number.

Figures are waits in seconds and hours of workers. Tasks take a second in the mean, a start three.
"""

from __future__ import annotations

import pytest
from celery_autoscaler.policy import GroupPolicy
from celery_autoscaler.settings import Group
from simulated_fleet import Simulation, Trace, even, poisson, repeatable

HOUR = 3600.0
PROMISE = 10.0
MAXIMUM = 60
WINDOW = 60.0
SETTLED = 2 * WINDOW


def group(concurrency: int = 1) -> Group:
    """Return a group whose promise is ten seconds."""
    return Group(
        name="default", queues=("celery",), promise=PROMISE, max_workers=MAXIMUM, concurrency=concurrency
    )


def run(
    arrivals: list[float], until: float, *, seed: int = 1, startup: float = 3.0, mean: float = 1.0
) -> Trace:
    """Let tasks of very different sizes arrive; return what happened."""
    chance = repeatable(seed)
    sizes = [chance.expovariate(1 / mean) for _ in arrivals]
    # Bursts of hundreds are no emergency here: the law alone is looked at.
    return Simulation(group(), GroupPolicy(queue_threshold=100_000), arrivals, sizes, startup=startup).run(
        until
    )


def bursts(seed: int) -> list[float]:
    """Return an hour of three tasks a second, and every ten minutes 300 more within a third of a second."""
    calm = poisson(3.0, HOUR, repeatable(seed))
    return sorted(calm + [at for begin in range(300, 3600, 600) for at in even(900.0, 1 / 3, float(begin))])


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_bursts_keep_the_promise_for_a_fraction_of_a_fixed_maximum(seed: int) -> None:
    trace = run(bursts(seed), HOUR, seed=seed)

    assert trace.wait(0.95) < PROMISE
    assert trace.wait(0.99) < PROMISE
    assert trace.worker_seconds < MAXIMUM * HOUR / 3
    assert max(tick.have for tick in trace.ticks) > 30
    assert trace.ticks[-1].have < 15


def test_a_step_of_the_load_is_followed_before_anyone_waits_long() -> None:
    chance = repeatable(4)
    step = sorted(poisson(3.0, 1200, chance) + poisson(25.0, 600, chance, 300.0))

    trace = run(step, 1200)

    assert trace.wait(0.99) < PROMISE / 5
    during = [tick.have for tick in trace.ticks if 400 < tick.seen.now < 900]
    assert 25 <= sum(during) / len(during) <= 45


@pytest.mark.parametrize("size", [0.2, 1.0, 5.0])
def test_a_constant_load_is_served_by_a_constant_number(size: float) -> None:
    arrivals = even(5.0 / size, 900)

    trace = Simulation(group(), GroupPolicy(), arrivals, [size] * len(arrivals)).run(900)

    settled = [tick.have for tick in trace.ticks if tick.seen.now > 2 * SETTLED]
    assert trace.turns(SETTLED) == 0
    assert max(settled) - min(settled) <= 1
    assert 5 <= settled[-1] <= 9


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("seed", [1, 2])
def test_a_random_load_of_constant_rate_turns_the_number_rarely(concurrency: int, seed: int) -> None:
    chance = repeatable(seed)
    arrivals = poisson(5.0, HOUR, chance)
    sizes = [chance.expovariate(1.0) for _ in arrivals]

    trace = Simulation(group(concurrency=concurrency), GroupPolicy(), arrivals, sizes).run(HOUR)

    assert trace.quickest_regret() >= WINDOW
    assert trace.turns(SETTLED) <= HOUR / WINDOW
    # The spare slots are for this.
    assert trace.wait(0.95) < 0.15


def test_a_slow_start_is_reckoned_with() -> None:
    prompt, slow = run(bursts(5), HOUR, startup=3.0), run(bursts(5), HOUR, startup=30.0)

    assert slow.wait(0.99) < 30.0 + PROMISE
    assert slow.worker_seconds < 1.5 * prompt.worker_seconds


def test_a_longer_window_costs_hours_and_turns_less_often() -> None:
    sizes = [1.0] * len(bursts(6))
    short, long = (
        Simulation(group(), GroupPolicy(window, 100_000), bursts(6), sizes).run(HOUR)
        for window in (30.0, 300.0)
    )

    assert long.worker_seconds > 1.5 * short.worker_seconds
    assert long.turns(SETTLED) < short.turns(SETTLED)


def test_looking_each_second_keeps_what_looking_each_half_minute_breaks() -> None:
    sizes = [1.0] * len(bursts(7))
    often, rarely = (
        Simulation(group(), GroupPolicy(queue_threshold=100_000), bursts(7), sizes, tick=tick).run(HOUR)
        for tick in (1.0, 30.0)
    )

    assert often.wait(0.99) < PROMISE < rarely.wait(0.99)


def test_an_idle_group_is_at_its_minimum_soon_after_the_window() -> None:
    trace = run(even(20.0, 300), 500)

    first = next(tick.seen.now for tick in trace.ticks if tick.seen.now > 300 and tick.have == 1)
    assert 300 + WINDOW <= first <= 300 + 2 * WINDOW


def test_a_queue_around_its_threshold_makes_no_worker_come_and_go() -> None:
    # Each quarter of a minute 150 tasks of 10 ms at once, where 100 are many.
    arrivals = [at for begin in range(0, 600, 15) for at in even(3000.0, 0.05, begin + 0.9)]

    trace = Simulation(group(), GroupPolicy(queue_threshold=100), arrivals, [0.01] * len(arrivals)).run(700)

    assert max(tick.have for tick in trace.ticks) > 1
    assert trace.quickest_regret() >= WINDOW
