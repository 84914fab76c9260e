"""Workers and hosts that die: their tasks are back at once, and others take over."""

import time

from support.hosts.deployed_app import ended, redis, send, started
from support.hosts.fleet_workers import held, interrupted, outcome, rescued, waits
from support.hosts.lost_hosts import without_power
from support.hosts.supervised_fleet import (
    MAXIMUM,
    SUPERVISOR,
    SupervisedHost,
    a_busy_worker,
    full_load,
    logger,
    wait_for_workers,
)
from support.processes.services import wait_for

testinfra_hosts = ["ansible://worker1"]
units = [SUPERVISOR]

CONTAINER = "celery-fleet-scaling-worker2"


def test_the_tasks_of_a_killed_worker_are_back_at_once(hosts: dict[str, SupervisedHost], trace: str) -> None:
    ids = send(trace, waits(8, count=2))
    started(trace, 2)
    name, victim = a_busy_worker()
    instance, _, host_name = name.partition("@")
    host = hosts[host_name]
    running = interrupted(trace, victim)
    since = time.time()

    host.host.check_output(f"systemctl kill --signal=KILL --kill-whom=all celery-worker@{instance}.service")
    killed = time.monotonic()
    wait_for(lambda: not held(victim), "its tasks are not given back")
    took = time.monotonic() - killed
    logger.info("%s: %d were running, given back after %.1f s", victim, len(running), took)

    assert running
    # Nobody waited for its lease to run out.
    host.wait_for_words(f"of the dead worker {victim}: its processes are gone", since)
    counted = outcome(trace, ids)
    assert counted.lost == []
    assert set(counted.started_again) == running


def test_a_host_that_loses_its_power_is_replaced_and_comes_back(
    hosts: dict[str, SupervisedHost], trace: str
) -> None:
    with full_load(trace) as ids:
        wait_for_workers(lambda seen: seen == dict.fromkeys(hosts, MAXIMUM // 2), "two workers on each host")
        _, victim = a_busy_worker("worker2")
        with without_power(CONTAINER):
            running = rescued(trace, victim, time.monotonic())
            wait_for_workers(lambda seen: seen == {"worker1": MAXIMUM}, "all workers on the other host")
        wait_for(lambda: redis().zcard("fleet:supervisors") == len(hosts), "its supervisor is not back")
        wait_for_workers(lambda seen: seen["worker2"] > 0, "a worker on the host that came back")

    counted = outcome(trace, ids)
    assert counted.lost == []
    assert set(counted.started_again) <= running | set(ended(trace))
