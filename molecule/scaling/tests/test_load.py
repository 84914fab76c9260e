"""Workers follow the load: up within seconds, down when it is over, and each task is executed once."""

import json
import time

import pytest
from support.hosts.deployed_app import send, started
from support.hosts.fleet_workers import load, waits
from support.hosts.supervised_fleet import (
    MAXIMUM,
    SUPERVISOR,
    SupervisedHost,
    all_once,
    decisions,
    full_load,
    wait_for_workers,
    watched,
)
from support.processes.services import wait_for

testinfra_hosts = ["ansible://worker1"]
units = [SUPERVISOR]

THRESHOLD = 100  # messages in a queue, as the inventory says
# Seconds until a second worker consumes: 3 on an idle machine; these hosts share two cores with the tests.
SECOND_WORKER = 10.0


@pytest.mark.usefixtures("idle")
def test_a_burst_is_met_by_all_workers_of_both_hosts(hosts: dict[str, SupervisedHost], trace: str) -> None:
    since = time.time()
    with watched() as numbers:
        ids = send(trace, waits(1, count=90))

        assert wait_for_workers(lambda seen: seen.total() > 1, "a second worker") < SECOND_WORKER
        wait_for_workers(lambda seen: seen == dict.fromkeys(hosts, MAXIMUM // 2), "the maximum")
        assert all_once(trace, ids)
        wait_for_workers(lambda seen: seen.total() == 1, "back to the minimum", 180.0)

    assert max(numbers) == MAXIMUM
    assert min(numbers) == 1
    grown = [entry for entry in decisions(since) if int(entry["here"]) > 0]
    assert {entry["host"] for entry in grown} == set(hosts)
    assert "tasks wait" in grown[0]["reason"]


def test_shrinking_under_load_interrupts_nothing(trace: str) -> None:
    with full_load(trace) as ids:
        wait_for_workers(lambda seen: seen.total() == MAXIMUM, "the maximum")
    with load(f"{trace}-less", rate=4, seconds=0.2) as fewer:
        # How long tasks take is known from those before as well, whose weight fades within minutes.
        wait_for_workers(lambda seen: seen.total() < MAXIMUM, "fewer workers under a small load", 240.0)

    assert all_once(trace, ids)
    assert all_once(f"{trace}-less", fewer)


def test_a_queue_twice_over_its_threshold_is_an_emergency(
    hosts: dict[str, SupervisedHost], trace: str
) -> None:
    since = time.time()

    ids = send(trace, waits(0.2, count=4 * THRESHOLD))

    wait_for_workers(lambda seen: seen.total() == MAXIMUM, "the maximum")
    emergency = wait_for(
        lambda: [entry for entry in decisions(since) if int(entry["emergency"])] or None,
        "no emergency is recorded",
    )
    assert json.loads(emergency[0]["seen"])["longest"] > 2 * THRESHOLD
    assert f"more than twice the threshold of {THRESHOLD}" in emergency[0]["reason"]
    for host in hosts.values():
        host.wait_for_words("EMERGENCY: ", since)
    assert all_once(trace, ids)
    assert len(started(trace)) == len(ids)
