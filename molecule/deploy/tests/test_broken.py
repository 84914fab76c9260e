"""A release that cannot work is refused or put back by itself; the one before never stops serving."""

from dataclasses import dataclass

import pytest
from support.hosts.fleet_workers import load, outcome
from support.hosts.releases import Rollouts, Source, sampled

testinfra_hosts = ["ansible://worker1"]
units = ["celery-autoscaler", "celery-worker@general-1"]

CRASHES = """
from celery.signals import celeryd_init

@celeryd_init.connect
def _crash(**_):
    raise SystemExit("no such bucket: pictures")
"""
FAILS = """
wait.run = lambda *_, **__: 1 / 0
"""


def test_a_release_that_does_not_import_reaches_nothing(rollouts: Rollouts, source: Source) -> None:
    before = rollouts.current()
    source.append("raise RuntimeError('no such setting: COLOUR')", module="default")

    printed = rollouts.refused(source)

    assert "no such setting: COLOUR" in printed
    assert rollouts.current() == before
    assert rollouts.running() == set(before.values())


@dataclass(frozen=True)
class Fault:
    """What is wrong with a release."""

    code: str
    module: str
    cause: str
    """What the message names."""


@pytest.mark.parametrize(
    "fault",
    [
        # What a worker prints may be a secret: the message says where it stands.
        Fault(CRASHES, "celery", "; see journalctl --unit celery-worker@"),
        Fault(FAILS, "io_intensive", "tasks failed in release"),
    ],
    ids=["crashes", "fails"],
)
def test_a_release_that_proves_bad_is_put_back(
    rollouts: Rollouts, source: Source, trace: str, fault: Fault
) -> None:
    before = rollouts.current()
    source.append(fault.code, module=fault.module)

    with load(trace, rate=15) as ids, sampled("general", "slow") as samples:
        printed = rollouts.refused(source)
    if fault.code == CRASHES:
        found = outcome(trace, ids)
        assert found.exactly_once, found

    assert fault.cause in printed, printed
    assert "worker1 put back to release" in printed
    assert min(samples.least.values()) >= 1, samples.least
    assert rollouts.current() == before
    assert rollouts.running() == set(before.values())
