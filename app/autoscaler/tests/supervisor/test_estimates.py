"""What is estimated comes near the truth, and nobody's coming or going passes for load."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import count

import pytest
from celery_autoscaler.settings import Group
from celery_autoscaler.supervisor.policy.estimates import (
    FIRST_START_SECONDS,
    Age,
    Average,
    Meter,
    SlowdownDetector,
    StartUp,
    WorkerCounters,
)
from celery_autoscaler.supervisor.policy.law import GroupPolicy
from support.simulated_fleet import simulate
from support.simulated_load import as_tasks, poisson, repeatable

# --- Age -----------------------------------------------------------------------------------------------


class Queue:
    """A FIFO list whose messages know when they were sent, and the estimate beside it."""

    def __init__(self) -> None:
        self.age = Age()
        self.sent: deque[float] = deque()
        self.taken = 0

    def send(self, now: float, messages: int = 1) -> None:
        """Put messages in."""
        self.sent.extend([now] * messages)

    def take(self, messages: int) -> list[float]:
        """Let our workers take messages; return when they were sent."""
        self.taken += min(messages, len(self.sent))
        return self.steal(messages)

    def steal(self, messages: int) -> list[float]:
        """Let another consumer, without a heartbeat, take messages."""
        return [self.sent.popleft() for _ in range(min(messages, len(self.sent)))]

    def put_back(self, sent: list[float]) -> None:
        """Give messages back as a rescue does: they are the next to be taken."""
        self.sent.extendleft(reversed(sent))

    def look(self, now: float) -> tuple[float, float]:
        """Return the estimate and the truth."""
        return self.age.update(now, len(self.sent), self.taken), now - self.sent[0] if self.sent else 0.0


@pytest.mark.parametrize(("poll", "bound"), [(0.5, 0.1), (1.0, 0.15), (5.0, 0.5)])
def test_the_age_is_right_to_a_fraction_of_a_look(poll: float, bound: float) -> None:
    chance, queue, errors, oldest = repeatable(5), Queue(), [], 0.0
    arrivals = deque(
        sorted(poisson(8.0, 600, chance) + poisson(30.0, 60, chance, 100) + poisson(30.0, 30, chance, 350))
    )
    looks, departures = count(1), 0.0
    due = poll
    while due < 600:
        # One after the other, at most 12 a second.
        departures += 1 / 12
        while arrivals and arrivals[0] <= departures:
            queue.send(arrivals.popleft())
        while due <= departures:
            guess, truth = queue.look(departures)
            errors.append(abs(guess - truth))
            oldest = max(oldest, truth)
            due = next(looks) * poll
        queue.take(1)

    assert oldest > 30
    assert sum(errors) / len(errors) < bound


def test_an_empty_list_has_no_age() -> None:
    age = Age()

    assert age.update(0.0, 0, 0) == 0.0
    assert age.update(10.0, 5, 0) == pytest.approx(8.0)  # five in ten seconds, the first after two
    assert age.update(11.0, 0, 5) == 0.0
    assert age.update(12.0, 0, 5) == 0.0


def test_what_was_there_at_the_first_look_ages_from_then() -> None:
    age = Age()

    assert age.update(100.0, 50, 1234) == 0.0
    assert age.update(130.0, 50, 1234) == 30.0


def test_nothing_taken_means_as_old_as_the_time_that_passed() -> None:
    queue = Queue()
    queue.look(0.0)
    queue.send(0.5)

    ages = [queue.look(float(now))[0] for now in (1, 5, 100)]

    assert ages == pytest.approx([0.5, 4.5, 99.5], abs=0.5)


def test_messages_taken_by_somebody_else_do_not_confuse_the_age_for_good() -> None:
    queue = Queue()
    for now in range(60):
        queue.send(now, 10)
        queue.look(now + 0.5)
    queue.steal(400)

    guess, truth = queue.look(60.0)
    assert guess >= truth  # on the safe side
    for now in range(60, 100):
        queue.take(20)
        queue.send(now, 10)
        guess, truth = queue.look(now + 0.5)
    assert guess == pytest.approx(truth, abs=1.0)


def test_a_list_emptied_by_somebody_else_has_no_age() -> None:
    queue = Queue()
    queue.look(0.0)
    queue.send(1.0, 100)
    queue.look(30.0)
    queue.steal(100)

    assert queue.look(31.0)[0] == 0.0


def test_messages_put_back_make_the_age_wrong_by_little_and_not_for_long() -> None:
    queue = Queue()
    for now in range(30):
        queue.send(now, 10)
        held = queue.take(5)
        queue.look(now + 0.5)

    before, _ = queue.look(30.0)
    queue.put_back(held)
    after, truth = queue.look(30.1)

    assert after == pytest.approx(before, abs=0.2)
    assert after == pytest.approx(truth, abs=1.0)


def test_a_count_that_vanishes_with_its_worker_is_no_news() -> None:
    age = Age()
    age.update(0.0, 0, 0)
    age.update(1.0, 20, 0)
    before = age.update(2.0, 20, 10)

    # One of two workers is gone, the other goes on; ten more arrive.
    assert age.update(3.0, 30, 4) == pytest.approx(before + 1.0)
    assert age.update(4.0, 25, 9) == pytest.approx(4.0 - 16 / 20)


# --- Arrival rate and service time ---------------------------------------------------------------------


def counters(processed: int = 0, held: int = 0, busy: float = 0.0, running: int = 0) -> WorkerCounters:
    """Return what a worker with two slots has done."""
    return WorkerCounters(processed, held, busy, running, slots=2)


def steady() -> Meter:
    """Return a meter that has seen two idle workers with a past for a while."""
    meter = Meter()
    for now in range(5):
        meter.update(float(now), 0, {"a": counters(1000, busy=500.0), "b": counters(1000, busy=500.0)})
    return meter


@pytest.mark.parametrize(("rate", "mean"), [(0.5, 10.0), (5.0, 1.0), (40.0, 0.05)])
def test_arrival_rate_and_service_time_converge_on_a_known_load(rate: float, mean: float) -> None:
    chance = repeatable(3)
    arrivals = poisson(rate, 600, chance)
    sizes = [chance.uniform(0.5 * mean, 1.5 * mean) for _ in arrivals]
    group = Group(name="default", queues=("celery",), max_workers=60)
    seen = [tick.seen for tick in simulate(group, GroupPolicy(), as_tasks(arrivals, sizes), 600).ticks[300:]]

    rates = [one.arrival_slow for one in seen]
    assert sum(rates) / len(rates) == pytest.approx(rate, rel=0.15)
    assert seen[-1].service_time == pytest.approx(mean, rel=0.15)
    assert sum(one.arrival_fast for one in seen) / len(seen) == pytest.approx(rate, rel=0.15)


def test_a_burst_shows_within_seconds_in_the_fast_rate() -> None:
    meter = Meter()
    meter.update(0.0, 0, {})
    for now in range(1, 4):
        meter.update(float(now), 20 * now, {})

    assert meter.fast.value > 10
    assert meter.slow.value < 3


def test_there_is_no_service_time_before_the_first_task() -> None:
    meter = Meter()
    assert meter.service_time is None
    meter.update(0.0, 5, {"a": counters()})
    meter.update(1.0, 5, {"a": counters()})

    assert meter.service_time is None


def test_tasks_too_short_to_be_seen_running_are_taken_to_be_short() -> None:
    meter = Meter()
    meter.update(0.0, 0, {"a": counters()})
    meter.update(1.0, 0, {"a": counters(processed=99)})

    assert meter.service_time is not None
    assert meter.service_time < 0.02


def test_a_long_history_tells_how_long_tasks_take_but_not_that_they_arrive() -> None:
    meter = steady()

    assert meter.service_time == pytest.approx(0.5)
    assert meter.fast.value == meter.slow.value == 0.0


def test_history_gives_way_to_what_happens_now() -> None:
    meter = steady()
    for now in range(5, 65):
        worked = float(now - 4)
        meter.update(float(now), 0, {"a": counters(1000 + now - 4, busy=500.0 + 2 * worked)})

    assert meter.service_time == pytest.approx(2.0, rel=0.15)


def test_messages_that_a_worker_takes_do_not_arrive_again() -> None:
    meter = Meter()
    meter.update(0.0, 10, {"a": counters()})
    meter.update(1.0, 6, {"a": counters(2, held=2, running=2)})
    meter.update(2.0, 4, {"a": counters(4, held=2, running=2, busy=2.0)})

    assert meter.fast.value == 0.0


@pytest.mark.parametrize("ticks", [1, 3, 6])
def test_tasks_of_a_worker_that_has_died_do_not_arrive_again(ticks: int) -> None:
    meter, now = steady(), 5.0
    idle = {"b": counters(1000, busy=500.0)}
    meter.update(now, 0, idle | {"a": counters(1002, held=2, busy=500.0, running=2)})
    before = meter.slow.value
    for _ in range(ticks):
        now += 1.0
        meter.update(now, 0, idle)
    meter.update(now + 1.0, 4, idle)

    assert before > 0.0
    assert meter.slow.value < before + 0.02


def test_a_worker_that_was_away_brings_nothing() -> None:
    meter, now = steady(), 5.0
    idle = {"b": counters(1000, busy=500.0)}
    for _ in range(20):
        meter.update(now, 0, idle)
        now += 1.0
    meter.update(now, 0, idle | {"a": counters(1000, busy=500.0)})

    assert meter.slow.value == 0.0
    assert meter.service_time == pytest.approx(0.5)


def test_a_worker_seen_late_brings_no_past() -> None:
    meter = steady()
    meter.update(5.0, 0, {"late": counters(50_000, held=3, busy=9000.0)})

    assert meter.slow.value == 0.0
    assert meter.service_time == pytest.approx(0.5)


def test_what_a_new_worker_does_at_once_counts() -> None:
    meter = Meter()
    meter.update(0.0, 0, {})
    meter.update(1.0, 0, {"new": counters(10, busy=1.5)})

    assert meter.fast.value > 2
    assert meter.service_time == pytest.approx(0.15)


def test_a_worker_that_starts_again_brings_nothing() -> None:
    meter = steady()
    meter.update(5.0, 0, {"a-again": counters(), "b": counters(1000, busy=500.0)})

    assert meter.slow.value == 0.0


def test_tasks_for_later_that_are_given_back_do_not_arrive_again() -> None:
    meter = Meter()
    meter.update(0.0, 50, {})
    # A worker takes them all, waits for their time, and gives them back when it ends.
    meter.update(1.0, 0, {"a": counters(held=50)})
    for now in range(2, 10):
        meter.update(float(now), 0, {"a": counters(held=50)})
    meter.update(10.0, 50, {})

    assert meter.slow.value == 0.0


def test_arrivals_go_on_to_count_after_a_worker_has_gone() -> None:
    meter = steady()
    meter.update(5.0, 0, {"a": counters(1002, held=2, busy=500.0, running=2)})
    # Its four tasks had ended before; five a second arrive.
    for now in range(6, 90):
        meter.update(float(now), 5 * (now - 5), {})

    assert meter.fast.value == pytest.approx(5.0, rel=0.05)


def slowdown(*seconds: float, kinds: Sequence[str] = ("task",)) -> SlowdownDetector:
    """A look at each task of such seconds, one a second; their kinds take turns."""
    found, done = SlowdownDetector(), dict.fromkeys(kinds, (0, 0.0))
    for now, took in enumerate(seconds):
        kind = kinds[now % len(kinds)]
        done[kind] = done[kind][0] + 1, done[kind][1] + took
        found.update(float(now), done)
    return found


def test_tasks_that_get_slower_are_told_from_tasks_that_are_slow() -> None:
    assert not SlowdownDetector().is_slowing
    assert not slowdown(*[5.0] * 120).is_slowing
    assert slowdown(*[1.0] * 90, *[3.0] * 30).is_slowing
    assert not slowdown(*[3.0] * 90, *[1.0] * 30).is_slowing


def test_a_burst_of_longer_tasks_makes_no_host_slow() -> None:
    found = slowdown(*[0.1] * 100)
    for more in range(1, 20):
        found.update(100.0 + more, {"task": (100, 10.0), "longer": (10 * more, 20.0 * more)})
    assert not found.is_slowing

    # Both take longer than they did.
    assert slowdown(*[0.1, 2.0] * 150, *[0.2, 4.0] * 20, kinds=("task", "longer")).is_slowing


def test_an_average_is_two_thirds_there_after_its_constant_whatever_the_steps() -> None:
    one, many = Average(10.0), Average(10.0)
    one.update(1.0, 10.0)
    for _ in range(100):
        many.update(1.0, 0.1)

    assert one.value == pytest.approx(many.value) == pytest.approx(0.632, abs=0.001)


# --- Start-up time -------------------------------------------------------------------------------------


def test_a_start_is_guessed_until_one_was_measured() -> None:
    startup = StartUp()
    assert startup.seconds == FIRST_START_SECONDS

    startup.add(1.2)
    assert startup.seconds == 1.2


def test_nine_of_ten_starts_are_faster_and_only_the_last_count() -> None:
    startup = StartUp()
    for measured in (60.0, 9.0, *map(float, range(1, 9)), 2.0):
        startup.add(measured)

    # 60 is forgotten; 9 is the one of ten that may take longer.
    assert startup.seconds == 8.0
