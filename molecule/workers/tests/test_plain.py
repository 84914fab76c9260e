"""The switch to plain Celery workers and back, one host at a time."""

from collections.abc import Callable, Iterator

import pytest
from support.hosts.deployed_app import results, send
from support.hosts.fleet_workers import UNIT, Worker, load, outcome, waits
from support.hosts.scenario import Scenario

testinfra_hosts = ["ansible://worker1"]
units = [UNIT]


def play(plain: bool) -> None:
    """Deploy to the first host once more."""
    Scenario("workers").play("--limit=worker1", celery_app_plain_workers=plain)


@pytest.fixture
def switch_to_plain() -> Iterator[Callable[[], None]]:
    """Return a function that makes the first host's worker a plain one until the test ends."""
    yield lambda: play(plain=True)
    play(plain=False)


def test_plain_workers_beside_ours_execute_each_task_once(
    switch_to_plain: Callable[[], None], worker1: Worker, worker2: Worker, trace: str
) -> None:
    with load(trace, rate=20) as ids:
        switch_to_plain()
    more = send(f"{trace}-more", waits(0.05, 400, trace_key=trace))

    assert outcome(trace, ids + more).exactly_once
    assert {result["worker"] for result in results(more).values()} == {worker1.name, worker2.name}
    assert worker1.living() == []
    assert worker2.living() != []
    assert worker1.property("WatchdogUSec") == "0"
