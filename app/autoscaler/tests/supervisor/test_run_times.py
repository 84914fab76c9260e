"""Run times by name: exact, mixed by what waits, remembered, and read whatever stands in Redis."""

from __future__ import annotations

import math

import pytest
from celery_autoscaler.protocol.ended import Ended
from celery_autoscaler.supervisor.policy.run_times import NAMES, REMEMBERED_SECONDS, RunTimes, parse
from hypothesis import given, settings
from hypothesis import strategies as st

# The machine may be busy, and each run is the same.
properties = settings(deadline=None, max_examples=100, derandomize=True)


def ended(tasks: int, each: float) -> Ended:
    """Return tasks that took as long as each other."""
    return Ended(tasks, tasks * each, tasks * each**2)


def after(now: float, **tasks: Ended) -> RunTimes:
    """Return what is known after a worker was seen to finish tasks."""
    times = RunTimes()
    times.update(now - 1, {"w": {}})
    times.update(now, {"w": tasks})
    return times


@pytest.mark.parametrize("each", [0.005, 0.05, 3.0])
def test_the_mean_is_exact(each: float) -> None:
    assert after(100.0, add=ended(40, each)).mean(100.0, {}) == pytest.approx(each)


def test_nothing_is_known_before_the_first_task() -> None:
    assert RunTimes().mean(0.0, {"add": 5}) is None


def test_the_mean_goes_by_what_waits() -> None:
    times = after(100.0, quick=ended(50, 0.02), slow=ended(50, 10.0))

    assert times.mean(100.0, {}) == pytest.approx(5.01)
    assert times.mean(100.0, {"quick": 10_000}) == pytest.approx(0.02, rel=5)
    assert times.mean(4000.0, {"quick": 100}) == pytest.approx(0.02)
    assert times.mean(4000.0, {"slow": 100}) == pytest.approx(10.0)


def test_one_waiting_task_does_not_stand_for_all() -> None:
    times = after(100.0, quick=ended(500, 0.1), slow=ended(1, 300.0))

    mean = times.mean(100.0, {"slow": 1})
    assert mean is not None
    assert mean < 2.0


def test_run_times_are_followed_and_never_forgotten_within_a_week() -> None:
    times = after(0.0, job=ended(100, 1.0))
    times.update(3600.0, {"w": {"job": ended(100, 1.0).plus(ended(100, 3.0))}})

    changed = times.mean(3600.0, {})
    assert changed is not None
    assert 2.5 < changed < 3.0
    assert times.mean(3600.0 + 0.9 * REMEMBERED_SECONDS, {"job": 1}) == pytest.approx(changed)


def test_workers_come_and_go_and_nothing_is_counted_twice() -> None:
    times = RunTimes()
    times.update(0.0, {"a": {"job": ended(10, 1.0)}})
    times.update(1.0, {"a": {"job": ended(10, 1.0)}, "b": {"job": ended(5, 1.0)}})
    times.update(2.0, {"b": {"job": ended(7, 1.0)}})

    # What the first look found was done before.
    assert times.totals["job"].tasks == 7


def test_what_is_dumped_is_loaded() -> None:
    times = after(1000.0, job=ended(100, 0.25))
    other = RunTimes()

    assert other.load(2000.0, times.dump(times.changed_since(0.0))) == []
    assert other.mean(2000.0, {"job": 1}) == pytest.approx(0.25)


def test_too_old_records_and_odd_ones_are_of_no_use() -> None:
    times = RunTimes()
    odd = {
        "old": "[5, 5.0, 1000.0]",
        "future": "[5, 5.0, 1e12]",
        "nan": "[5, NaN, 1e6]",
        "text": "hello",
        "deep": "[" * 100_000,
        "none": "[0, 0, 1e6]",
        "good": "[5, 5.0, 1000000.0]",
    }

    useless = times.load(1_000_000.0, odd)

    assert set(useless) == set(odd) - {"good"}
    assert times.by_name() == {"good": 1.0}


@properties
@given(st.text() | st.binary())
def test_any_record_is_read_or_refused(text: str | bytes) -> None:
    record = parse(text)

    assert record is None or math.isfinite(record.mean)


@properties
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["a", "b"]),
            st.dictionaries(
                st.sampled_from(["x", "y", "z"]),
                st.builds(Ended, st.integers(0, 10**6), st.floats(0, 1e9), st.floats(0, 1e18)),
            ),
        ),
        max_size=6,
    ),
    st.dictionaries(st.sampled_from(["x", "y", "q"]), st.floats(0, 1e6)),
)
def test_whatever_is_told_the_mean_is_a_number_or_none(
    looks: list[dict[str, dict[str, Ended]]], waiting: dict[str, float]
) -> None:
    times = RunTimes()
    for now, workers in enumerate(looks):
        times.update(float(now), workers)

    mean = times.mean(float(len(looks)), waiting)
    assert mean is None or (math.isfinite(mean) and mean >= 0)


def test_names_are_bounded() -> None:
    times = RunTimes()
    for now in range(3 * NAMES):
        times.update(float(now), {"w": {f"task-{now}": ended(1, 1.0)}})

    assert len(times.by_name()) <= NAMES
