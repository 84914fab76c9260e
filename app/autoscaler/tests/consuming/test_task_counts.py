"""Tasks counted by name and queue, from real workers to the supervisor of their host."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise

import pytest
from celery_autoscaler.consuming.task_counts import TaskCounts
from celery_autoscaler.protocol.description import describe
from celery_autoscaler.protocol.tallies import BUCKETS, MOST, OTHERS, PUBLISHED, Tallies
from celery_autoscaler.settings import Settings
from celery_autoscaler.supervisor.host_counts import HostCounts
from celery_autoscaler.supervisor.loop import Supervisor
from celery_autoscaler.web.metrics import registry
from support.processes.counted_tasks import Fleet
from support.processes.services import wait_for

COUNT = ("single.count", "celery")
# Seconds until the supervisor has what a worker counted: both do it every five.
WITHIN = 20.0


@pytest.fixture
def new_supervisor(fleet: Fleet) -> Iterator[Callable[[str], Supervisor]]:
    """Return a function that makes a supervisor of a host, which starts no workers and has looked once."""
    with ExitStack() as stack:

        def make(host: str) -> Supervisor:
            made = Supervisor(describe(fleet.tasks.app, "single"), Settings(groups={}, hostname=host))
            stack.callback(made.launcher.close)
            made.tick()
            return made

        yield make


def samples(supervisor: Supervisor) -> dict[tuple[str, ...], float]:
    """Return the metrics of tasks by name and labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for metric in registry(supervisor).collect()
        if metric.name.startswith("celery_task")
        for sample in metric.samples
    }


def wait_for_outcome(supervisor: Supervisor, count: int, kind: tuple[str, str], outcome: str) -> None:
    """Tick until that number of tasks is counted."""

    def counted() -> bool:
        supervisor.tick()
        return samples(supervisor).get(("celery_tasks_total", *kind, outcome), 0) >= count

    wait_for(counted, f"not {count} {kind} {outcome}: {samples(supervisor)}", WITHIN)


def test_counts_equal_the_tasks_of_a_run(fleet: Fleet, new_supervisor: Callable[[str], Supervisor]) -> None:
    here, elsewhere = new_supervisor("here"), new_supervisor("elsewhere")
    ids = fleet.tasks.send(40, 0.02, headers={PUBLISHED: time.time() - 20.0})
    ids += fleet.tasks.send(3, 1, name="refuse")
    fleet.tasks.send(4, "a", 1, name="add")
    fleet.tasks.send(2, 1, name="fail_at_first")
    worker = fleet.start("-Q", "celery")

    # What has ended when a worker is stopped is counted, however short ago it told its counts.
    fleet.tasks.wait_until_ended(ids)
    wait_for(lambda: not fleet.tasks.left(), "messages are left")
    assert worker.stop() == 0
    wait_for_outcome(here, 40, COUNT, "succeeded")
    wait_for_outcome(here, 4, ("single.add", "celery"), "failed")
    found = samples(here)

    assert {key[1:]: value for key, value in found.items() if key[0] == "celery_tasks_total"} == {
        (*COUNT, "succeeded"): 40,
        ("single.refuse", "celery", "rejected"): 3,
        ("single.refuse", "celery", "succeeded"): 3,
        ("single.add", "celery", "failed"): 4,
        ("single.fail_at_first", "celery", "retried"): 2,
        ("single.fail_at_first", "celery", "succeeded"): 2,
    }
    for name, least, most in (("runtime", 0.02, 1.0), ("wait", 20.0, 60.0)):
        metric = f"celery_task_{name}_seconds"
        buckets = [found[f"{metric}_bucket", *COUNT, f"{end:g}"] for end in BUCKETS]
        assert all(smaller <= larger for smaller, larger in pairwise(buckets))
        assert found[f"{metric}_count", *COUNT] == found[f"{metric}_bucket", *COUNT, "+Inf"] == 40
        assert 40 * least <= found[f"{metric}_sum", *COUNT] <= 40 * most
        assert found[f"{metric}_bucket", *COUNT, "0.01"] == 0
    assert here.status.failures == {"single.add": 4}
    elsewhere.tick()
    assert samples(elsewhere) == {}


def test_what_a_killed_worker_has_told_stays_counted(
    fleet: Fleet, new_supervisor: Callable[[str], Supervisor]
) -> None:
    supervisor = new_supervisor("here")
    first = fleet.start()
    fleet.tasks.wait_until_ended(fleet.tasks.send(10))
    wait_for_outcome(supervisor, 10, COUNT, "succeeded")
    first.kill()
    second = fleet.start()
    fleet.tasks.wait_until_ended(fleet.tasks.send(5))
    assert second.stop() == 0
    wait_for_outcome(supervisor, 15, COUNT, "succeeded")

    def forgotten() -> bool:
        supervisor.tick()
        return not fleet.tasks.redis.exists("fleet:task_counts:here")

    wait_for(forgotten, "the counts of workers that are gone stay", 40.0)
    supervisor.tick()
    assert samples(supervisor)["celery_tasks_total", *COUNT, "succeeded"] == 15


def test_a_supervisor_that_starts_again_counts_from_zero() -> None:
    counts, host = TaskCounts(), HostCounts()
    told: list[Tallies] = []
    counts.ended(COUNT, "failed", 1.0)
    counts.tell(lambda text: told.append(Tallies.load(text)))
    host.update(0.0, {"worker": told[-1]})
    counts.ended(COUNT, "failed", 1.0)
    counts.tell(lambda text: told.append(Tallies.load(text)))
    for _ in range(2):
        host.update(60.0, {"worker": told[-1]})

    assert host.tallies[COUNT].outcomes == {"failed": 1}
    assert host.failures() == {"single.count": 1}
    host.update(60.0 + 3600.0, {})
    assert host.failures() == {}
    assert host.tallies[COUNT].outcomes == {"failed": 1}


def test_counts_that_were_not_heard_are_told_again() -> None:
    counts = TaskCounts()
    counts.ended(COUNT, "succeeded", 0.1)

    def refuse(text: str) -> None:
        raise ConnectionError(text)

    with pytest.raises(ConnectionError):
        counts.tell(refuse)
    told: list[str] = []
    counts.tell(told.append)
    counts.tell(told.append)

    assert [Tallies.load(text)[COUNT].outcomes["succeeded"] for text in told] == [1]


def test_names_are_bounded() -> None:
    counts, told = TaskCounts(), list[Tallies]()
    for number in range(10 * MOST):
        counts.ended((f"task-{number}", "celery"), "succeeded", None)
    counts.tell(lambda text: told.append(Tallies.load(text)))

    assert len(told[0]) == MOST + 1
    assert told[0][OTHERS, OTHERS].outcomes == {"succeeded": 9 * MOST}
