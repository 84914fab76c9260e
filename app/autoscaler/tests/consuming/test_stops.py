"""Workers that are asked to end, or to take nothing new, lose nothing and run nothing twice.

The runs are as long as the environment says: STOPS and STOP_KILLS.
"""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

import pytest
from support.processes.counted_tasks import SHORT_LEASE, Fleet
from support.processes.hard_times import kill_while_stopping, stop_and_start
from support.processes.services import wait_for


def children(pid: int) -> list[int]:
    """Return the child processes of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def unread(pid: int) -> bool:
    """Whether a process that stands still has been written something that it has not read."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        flags = Path(f"/proc/{pid}/fdinfo/{link.name}").read_text().split("flags:")[1].split()[0]
        if str(link.readlink()).startswith("pipe:") and int(flags, 8) & os.O_ACCMODE == os.O_RDONLY:
            pipe = os.open(link, os.O_RDONLY | os.O_NONBLOCK)
            try:
                if select.select([pipe], [], [], 0)[0]:
                    return True
            finally:
                os.close(pipe)
    return False


def test_every_task_runs_exactly_once_while_workers_stop_and_start(fleet: Fleet) -> None:
    outcome = stop_and_start(fleet, cycles=int(os.environ.get("STOPS", "5")))

    print(outcome)  # noqa: T201
    assert outcome.exactly_once, outcome
    assert outcome.sent > 0
    assert fleet.tasks.left() == {}


def test_a_worker_killed_while_it_stops_loses_nothing(fleet: Fleet) -> None:
    outcome, delays = kill_while_stopping(fleet, times=int(os.environ.get("STOP_KILLS", "3")))

    print(outcome, "given back after", [f"{delay:.1f} s" for delay in delays])  # noqa: T201
    assert not outcome.lost
    # The lease, a beat of the rescuer's; three times that for a busy machine.
    assert max(delays) < 3 * (SHORT_LEASE + 2)
    assert fleet.tasks.left() == {}


@pytest.mark.parametrize("pool", ["prefork", "threads"])
@pytest.mark.versions
def test_a_worker_that_stops_gives_back_at_once_what_it_has_not_begun(fleet: Fleet, pool: str) -> None:
    worker = fleet.start("-P", pool, concurrency=1, settings={"worker_prefetch_multiplier": 4})
    ids = fleet.tasks.send(4, 2.0)
    fleet.tasks.wait_until_started(ids[:1])

    assert worker.stop() == 0

    assert fleet.tasks.outcome(ids[:1]).exactly_once
    assert fleet.tasks.waiting("celery") == ids[1:]
    assert fleet.tasks.left() == {"celery": 3}


@pytest.mark.versions
def test_a_stop_hears_of_a_task_that_its_process_has_just_been_given(fleet: Fleet) -> None:
    worker = fleet.start(name="stopping", concurrency=1)
    # A process is given nothing before it has said that it is up, and that its last task has ended.
    fleet.tasks.settle(fleet.tasks.send())
    (process,) = children(worker.process.pid)
    os.kill(process, signal.SIGSTOP)
    ids = fleet.tasks.send(1, 0.0)
    wait_for(lambda: unread(process), "the process is given nothing")

    worker.terminate()
    wait_for(lambda: not fleet.tasks.app.control.ping(timeout=0.5), "the worker does not begin to stop")
    os.kill(process, signal.SIGCONT)

    assert worker.wait(10) == 0
    assert fleet.tasks.outcome(ids).exactly_once
    assert fleet.tasks.left() == {}


@pytest.mark.parametrize("pool", ["solo", "gevent"])
def test_a_worker_whose_pool_is_its_main_loop_may_end_more_but_nothing_twice(fleet: Fleet, pool: str) -> None:
    worker = fleet.start("-P", pool, concurrency=1, settings={"worker_prefetch_multiplier": 2})
    ids = fleet.tasks.send(6, 1.0)
    fleet.tasks.wait_until_started(ids[:1])

    assert worker.stop() == 0

    waiting = fleet.tasks.waiting("celery")
    assert waiting == ids[-len(waiting) :]
    assert fleet.tasks.outcome(ids[: -len(waiting)]).exactly_once
    assert fleet.tasks.left() == {"celery": len(waiting)}


def test_eta_tasks_are_given_back_when_their_worker_stops(fleet: Fleet) -> None:
    worker = fleet.start()
    ids = fleet.tasks.send(3, countdown=600)
    wait_for(lambda: sorted(fleet.tasks.held("w1")) == ids, "the worker has not taken the tasks")

    assert worker.stop() == 0

    assert fleet.tasks.left() == {"celery": 3}
    assert fleet.tasks.waiting("celery") == ids


def test_a_draining_worker_ends_its_tasks_and_takes_nothing_new(fleet: Fleet) -> None:
    worker = fleet.start(name="drained", concurrency=1)
    running = fleet.tasks.send(1, 3.0)
    fleet.tasks.wait_until_started(running)

    fleet.tasks.redis.sadd("fleet:drain", "drained@here")
    worker.wait_for_output("Draining: fetching nothing new")
    waiting = fleet.tasks.send(3)
    fleet.tasks.wait_until_ended(running)
    state = wait_for(
        lambda: next(
            (
                fleet.tasks.redis.hget(key, "state")
                for key in fleet.tasks.redis.scan_iter(match="fleet:worker:drained@here:*")
                if fleet.tasks.redis.hget(key, "state") == "drained"
            ),
            None,
        ),
        "the worker does not say that it is drained",
    )

    assert state == "drained"
    assert fleet.tasks.waiting("celery") == waiting

    fleet.tasks.redis.srem("fleet:drain", "drained@here")
    assert fleet.tasks.settle(running + waiting).exactly_once


@pytest.mark.parametrize("pool", ["prefork", "solo", "gevent"])
@pytest.mark.versions
def test_task_that_runs_when_the_time_of_a_stop_is_over_is_given_back(fleet: Fleet, pool: str) -> None:
    worker = fleet.start("-P", pool, concurrency=1, settings={"worker_soft_shutdown_timeout": 1.0})
    ids = fleet.tasks.send(1, 600.0)
    fleet.tasks.wait_until_started(ids)

    worker.process.send_signal(signal.SIGQUIT)
    worker.wait()

    assert fleet.tasks.waiting("celery") == ids
    assert fleet.tasks.left() == {"celery": 1}


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
@pytest.mark.versions
def test_early_acknowledged_task_is_settled_while_it_runs(fleet: Fleet, pool: str) -> None:
    fleet.start("-P", pool, concurrency=1, settings={"task_acks_late": False})

    fleet.tasks.wait_until_started(fleet.tasks.send(1, 600.0))

    wait_for(lambda: not fleet.tasks.left(), lambda: f"{fleet.tasks.left()}")
