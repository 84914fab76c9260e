"""Workers that are killed with all their processes lose no message.

The runs are as long as the environment says: KILLS, KILL_TASKS and IDLE_KILLS.
"""

from __future__ import annotations

import os
import time

import pytest
from support.processes.counted_tasks import Fleet
from support.processes.hard_times import CONCURRENCY, kill_idle_workers, kill_workers


@pytest.mark.versions
def test_workers_killed_at_work_lose_nothing_and_repeat_only_what_was_running(fleet: Fleet) -> None:
    kills = int(os.environ.get("KILLS", "8"))
    total = int(os.environ.get("KILL_TASKS", "2000"))

    outcome = kill_workers(fleet, kills=kills, total=total)

    print(outcome)  # noqa: T201
    assert not outcome.lost
    assert len(outcome.started_again) <= kills * CONCURRENCY
    assert fleet.tasks.left() == {}


def test_workers_killed_while_they_wait_lose_nothing(fleet: Fleet) -> None:
    outcome = kill_idle_workers(fleet, kills=int(os.environ.get("IDLE_KILLS", "9")))

    print(outcome)  # noqa: T201
    assert not outcome.lost
    assert fleet.tasks.left() == {}


@pytest.mark.versions
def test_tasks_of_a_process_that_takes_a_moment_to_die_run_again_at_once(fleet: Fleet) -> None:
    fleet.start(concurrency=1)
    seconds: list[float] = []

    for _ in range(3):
        begin = time.monotonic()
        fleet.tasks.wait_until_ended(fleet.tasks.send(name="die_slowly"))
        seconds.append(time.monotonic() - begin)

    # Celery looks for dead processes every 5 s, and the first one may die just before that.
    assert min(seconds[1:]) < 3, seconds
    assert set(fleet.tasks.started().values()) == {2}
