"""Workers that fail are tried later each time, and in a loop hardly at all."""

from __future__ import annotations

import pytest
from celery_autoscaler.supervisor.policy.crashes import (
    LONGEST_PAUSE_SECONDS,
    LOOP_FAILURES,
    WITHIN_SECONDS,
    Backoff,
)


def pause_after(failures: int, apart: float = WITHIN_SECONDS) -> tuple[float, float]:
    """Return the bounds within which the pause after a number of failures in a row lies, of many tries."""
    pauses = []
    for _ in range(30):
        backoff, now = Backoff(), 1000.0
        for _ in range(failures):
            now += apart
            backoff.failed(now)
        # Found by trying each tenth of a second.
        pauses.append(next(n / 10 for n in range(1000) if backoff.allowed(now + n / 10, 0)))
    return min(pauses), max(pauses)


def test_who_never_failed_may_start_at_once() -> None:
    backoff = Backoff()

    assert backoff.allowed(0.0, 0) > 1000
    assert backoff.explain(0.0) == ""


@pytest.mark.parametrize(
    ("failures", "seconds"), [(1, 1), (2, 2), (3, 4), (4, 8), (6, 32), (7, 60), (20, 60)]
)
def test_each_failure_doubles_the_pause_up_to_a_minute(failures: int, seconds: float) -> None:
    shortest, longest = pause_after(failures)

    assert 0.8 * seconds <= shortest <= longest <= seconds + 0.1


def test_hosts_do_not_try_at_the_same_moment() -> None:
    shortest, longest = pause_after(6)

    assert longest - shortest > 1.0


def test_five_failures_in_two_minutes_are_a_loop() -> None:
    backoff = Backoff()
    for second in range(LOOP_FAILURES - 1):
        backoff.failed(100.0 + second)
    assert not backoff.is_loop(104.0)

    backoff.failed(104.0)

    assert backoff.is_loop(104.0)
    assert backoff.allowed(104.0 + 0.79 * LONGEST_PAUSE_SECONDS, 0) == 0
    assert backoff.explain(104.0).startswith(
        "crash loop: 5 workers failed within 120 s; the next try comes in "
    )


def test_failures_long_apart_are_no_loop() -> None:
    backoff = Backoff()
    for number in range(10):
        backoff.failed(WITHIN_SECONDS / 3 * number)

    assert not backoff.is_loop(WITHIN_SECONDS / 3 * 9)


def test_after_a_failure_one_worker_at_a_time_is_tried() -> None:
    backoff = Backoff()
    backoff.failed(0.0)

    assert backoff.allowed(0.5, 0) == 0
    assert backoff.explain(0.5).startswith("1 in a row failed; the next try comes in ")
    assert backoff.allowed(1.0, 0) == 1
    assert backoff.allowed(1.0, 1) == 0
    assert backoff.explain(1.0) == ""


def test_a_worker_that_lasts_ends_the_pause() -> None:
    backoff = Backoff()
    for second in range(LOOP_FAILURES):
        backoff.failed(float(second))

    backoff.lasted()

    assert not backoff.is_loop(5.0)
    assert backoff.allowed(5.0, 3) > 1000
