"""Whether more slots finish more tasks: seen behind a service of limited capacity, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from celery_autoscaler.protocol.ended import Ended
from celery_autoscaler.supervisor.policy.throughput import FIRST_PAUSE_SECONDS, Throughput
from hypothesis import given, settings
from hypothesis import strategies as st

# The machine may be busy, and each run is the same.
properties = settings(deadline=None, max_examples=50, derandomize=True)

Seconds = Callable[[int, str], float]
"""Seconds that a task of a kind takes while a number of them run."""


class Service:
    """Slots that are always busy, and tasks whose run time depends on how many there are."""

    def __init__(self, seconds: Seconds, mix: Mapping[str, float] | None = None) -> None:
        self.seconds = seconds
        self.mix = mix or {"task": 1.0}
        self.watch = Throughput()
        self.totals: dict[str, Ended] = {}
        self.now = 0.0
        self.finished = 0.0
        self.starved = False
        self.held_back = 0
        """Seconds with fewer slots than were wanted."""

    def run(self, seconds: float, wanted: int, *, waiting: int = 100, lateness: float = 2.0) -> int:
        """Let a number of slots be wanted for a while; return how many there are in the end."""
        slots = wanted
        for _ in range(round(seconds)):
            self.now += 1.0
            mean: float = sum(part * self.seconds(slots, kind) for kind, part in self.mix.items())
            for kind, part in self.mix.items():
                each, count = self.seconds(slots, kind), slots / mean * part
                one = Ended(count, count * each, count * each**2)
                self.totals[kind] = self.totals.get(kind, Ended()).plus(one)
            self.finished += slots / mean
            useful = self.watch.update(
                self.now,
                dict(self.totals),
                busy=slots,
                waiting=waiting,
                lateness=lateness,
                starved=self.starved,
            )
            slots = wanted if useful.slots is None else min(wanted, useful.slots)
            self.held_back += slots < wanted
        return slots


def collapses(slots: int, _kind: str) -> float:
    """Bear eight at a time; with more of them fewer are finished."""
    crowd: float = max(1.0, slots / 8) ** 1.7
    return 0.2 * crowd


def as_ever(_slots: int, kind: str) -> float:
    """Take as long however many run."""
    return {"task": 0.2, "quick": 0.1, "slow": 5.0}[kind]


def test_a_service_that_collapses_gets_about_what_it_bears() -> None:
    service = Service(collapses)
    service.run(60, 4, lateness=0.0)

    assert 6 <= service.run(120, 40) <= 11
    assert service.watch.useful.tried == 40


def test_nothing_is_held_back_while_a_host_is_short_of_cpu() -> None:
    service = Service(collapses)
    service.run(60, 4, lateness=0.0)
    service.starved = True

    assert service.run(120, 40) == 40
    assert service.held_back == 0


def test_a_trial_ends_when_a_host_becomes_short_of_cpu() -> None:
    service = Service(collapses)
    service.run(60, 4, lateness=0.0)
    while service.run(1, 40) == 40:
        assert service.now < 200, "fewer slots are never tried"
    service.starved = True

    service.run(1, 40)
    assert service.watch.useful.slots is None


def test_it_finishes_nearly_as_much_as_with_the_best_number() -> None:
    service = Service(collapses)
    service.run(60, 4, lateness=0.0)
    service.finished = 0.0
    service.run(600, 40)

    assert service.finished > 0.8 * 600 * 8 / 0.2


def test_a_service_that_bears_more_later_gets_more() -> None:
    service = Service(collapses)
    service.run(60, 4, lateness=0.0)
    service.run(120, 40)
    service.seconds = as_ever

    assert service.run(1800, 40) == 40


@pytest.mark.parametrize("mix", [{"task": 1.0}, {"quick": 0.9, "slow": 0.1}])
def test_tasks_that_take_as_long_as_ever_hold_nothing_back(mix: dict[str, float]) -> None:
    service = Service(as_ever, mix)
    service.run(60, 4, lateness=0.0)

    assert service.run(300, 60) == 60


def test_another_mix_of_kinds_holds_nothing_back() -> None:
    service = Service(as_ever, {"quick": 0.95, "slow": 0.05})
    service.run(120, 8, lateness=0.0)
    service.mix = {"quick": 0.2, "slow": 0.8}

    assert service.run(300, 40) == 40


def test_fewer_arrivals_hold_nothing_back() -> None:
    service = Service(as_ever)
    service.run(60, 40)
    service.run(120, 5, waiting=0, lateness=0.0)

    assert service.run(60, 40) == 40


def test_tasks_that_just_take_longer_today_get_their_slots_back() -> None:
    service = Service(as_ever)
    service.run(60, 4, lateness=0.0)
    service.seconds = lambda _slots, _kind: 0.8
    service.run(600, 40)

    assert service.held_back < 60


def test_a_limit_that_is_not_in_the_way_is_forgotten() -> None:
    service = Service(collapses)
    service.run(60, 4, lateness=0.0)
    service.run(120, 40)
    assert service.watch.useful.slots is not None
    service.run(1200, 2, waiting=0, lateness=0.0)

    assert service.watch.useful.slots is None


@properties
@given(
    st.lists(
        st.tuples(
            st.floats(0, 1000),
            st.dictionaries(
                st.sampled_from("ab"),
                st.builds(Ended, st.integers(0, 1000), st.floats(0, 1e6), st.floats(0, 1e12)),
            ),
            st.integers(0, 100),
            st.integers(0, 1000),
            st.floats(0, 100),
        ),
        max_size=20,
    )
)
def test_whatever_is_seen_some_slots_are_of_use(
    looks: list[tuple[float, dict[str, Ended], int, int, float]],
) -> None:
    watch, now = Throughput(), 0.0
    for step, totals, busy, waiting, lateness in looks:
        now += step
        useful = watch.update(now, totals, busy=busy, waiting=waiting, lateness=lateness)
        assert useful.slots is None or useful.slots >= 1


def test_the_first_pause_is_short() -> None:
    assert FIRST_PAUSE_SECONDS <= 30
