"""Hosts of the release before are upgraded to this one, as docs/how-to/upgrades.md says."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from uuid import uuid4

from support.hosts.deployed_app import Batch, send
from support.hosts.fleet_workers import load, outcome
from support.hosts.releases import PLAYBOOKS, Rollouts
from support.hosts.scenario import Scenario

testinfra_hosts = ["ansible://worker1"]
units = ["celery-autoscaler", "celery-worker@general-1"]

logger = logging.getLogger(__name__)

SCENARIO = Scenario("upgrade_toolkit")
LONG = 20.0  # seconds
# Tasks of each queue run, wait for their time, and come all the while.
BATCHES = (
    Batch("tasks.io_intensive.wait", 10, {"seconds": LONG}),
    Batch("tasks.io_intensive.wait", 2, {"seconds": LONG}, {"queue": "default"}),
    Batch("tasks.cpu_intensive.burn", 4, {"seconds": 1}),
    Batch("tasks.default.echo", 20, {}, {"countdown": 60}),
    Batch("tasks.default.echo", 20, {}, {"countdown": 180}),
)


def play(name: str) -> str:
    """Run one of the playbooks; what it printed."""
    begin = time.monotonic()
    try:
        return SCENARIO.play(playbook=f"{PLAYBOOKS}/{name}.yml")
    finally:
        logger.info("%s.yml took %.0f s", name, time.monotonic() - begin)


@contextmanager
def mixed_load(trace: str) -> Iterator[list[str]]:
    """Send short tasks until the block ends, and some of all kinds before."""
    traced = [replace(batch, kwargs={**batch.kwargs, "trace_key": trace}) for batch in BATCHES]
    first = send(f"{trace}-first", *traced)
    with load(trace, rate=10) as ids:
        yield ids
    ids.extend(first)


def test_the_upgrade_loses_and_repeats_no_task() -> None:
    rollouts = Rollouts(SCENARIO)
    before = rollouts.running()
    trace = f"test-{uuid4()}"

    with mixed_load(trace) as ids:
        play("site")
    found = outcome(trace, ids, within=300.0)

    assert found.exactly_once, found
    [release] = set(rollouts.current().values())
    assert rollouts.running() == {release} != before
    logger.info("%d tasks were sent meanwhile, each ran once", len(ids))


def test_the_site_is_well_and_stays_as_it_is_afterwards() -> None:
    play("verify")
    printed = play("site")

    assert printed.count("changed=0 ") == printed.count("changed="), printed
