"""Releases come and go under load: each task runs once, and each group always has a worker."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from support.hosts.deployed_app import Batch, send
from support.hosts.fleet_workers import load, outcome
from support.hosts.releases import Rollouts, Source, sampled
from support.processes.services import wait_for

testinfra_hosts = ["ansible://worker1"]
units = ["celery-autoscaler", "celery-worker@general-1", "celery-worker@slow-1"]

logger = logging.getLogger(__name__)

RATE = 50.0  # tasks a second
LONG = 10.0  # seconds of some of them
GROUPS = ("general", "slow")
LOOKS_BEFORE = 100  # for a quarter of a minute or so


@contextmanager
def mixed_load(trace: str) -> Iterator[list[str]]:
    """Send many short tasks and a few long ones until the block ends."""
    long = send(
        f"{trace}-long",
        Batch("tasks.io_intensive.wait", 8, {"seconds": LONG, "trace_key": trace}),
    )
    with load(trace, rate=RATE, seconds=0.1) as ids:
        yield ids
    ids.extend(long)


def test_two_deploys_and_a_rollback_lose_and_repeat_no_task(
    rollouts: Rollouts, source: Source, trace: str
) -> None:
    releases: list[str] = []
    with mixed_load(trace) as ids, sampled(*GROUPS) as samples:
        wait_for(lambda: samples.looks >= LOOKS_BEFORE, "nobody looks")
        waited_before = dict(samples.longest)
        for number, hosts_at_a_time in ((1, 1), (2, 2)):
            source.append(f"# Release {number}.")
            ids.extend(more_long_tasks(trace, number))
            rollouts.deploy(source, rollout_serial=hosts_at_a_time, rollout_verify=False)
            [release] = set(rollouts.current().values())
            releases.append(release)
        rollouts.rollback(rollout_serial=2)
    found = outcome(trace, ids)

    assert found.exactly_once, found
    assert min(samples.least.values()) >= 1, samples.least
    assert set(releases) <= samples.releases
    assert set(rollouts.current().values()) == rollouts.running() == {releases[0]}
    logger.info("least workers that took tasks in %d looks: %s", samples.looks, samples.least)
    logger.info("longest wait of a task before: %s, and after: %s", waited_before, samples.longest)


def more_long_tasks(trace: str, number: int) -> list[str]:
    """Send some long tasks that run while a release is replaced."""
    batch = Batch("tasks.io_intensive.wait", 4, {"seconds": LONG, "trace_key": trace})
    return send(f"{trace}-long-{number}", batch)


def test_the_same_again_changes_nothing_and_builds_nothing(rollouts: Rollouts, source: Source) -> None:
    source.append("# Release 1.")

    printed = rollouts.deploy(source)

    assert printed.count("changed=0 ") == printed.count("changed="), printed
