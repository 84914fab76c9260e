"""Newer packages come under load: replicas first, the primary last, and no task is lost or executed twice."""

from __future__ import annotations

import logging
import re
import time
from typing import Any

import pytest
from support.hosts.logged_tasks import WORKERS, Load
from support.hosts.replicated_redis import Servers
from support.hosts.scenario import Scenario
from support.hosts.supervised_fleet import SUPERVISOR, SupervisedHost
from support.processes.services import wait_for

SCENARIO = Scenario("upgrade_redis")
SERVERS = Servers(SCENARIO)
UPGRADE = "../../playbooks/upgrade_redis.yml"
FAILOVER = "../../playbooks/failover_redis.yml"
PACKAGES = ("redis-server", "redis-sentinel", "redis-tools")

testinfra_hosts = ["ansible://worker1"]
units = [WORKERS, SUPERVISOR]

logger = logging.getLogger(__name__)


def installed() -> dict[str, str]:
    """Return the version that each host has, the same of all packages."""
    found = {}
    for name, host in SERVERS.hosts.items():
        (found[name],) = {host.package(package).version for package in PACKAGES}
    return found


def candidate() -> str:
    """Return the version that apt would install."""
    policy = SERVERS.hosts["data1"].check_output("LC_ALL=C apt-cache policy redis-server")
    return str(re.findall(r"Candidate: (\S+)", policy)[0])


def changes(printed: str) -> dict[str, int]:
    """Return how much a play changed on each host."""
    found = re.findall(r"^(\S+) +: ok=\d+ +changed=(\d+)", printed, re.MULTILINE)
    return {name: int(changed) for name, changed in found}


def program_started(name: str) -> int:
    """Return when a host's server was started, by the clock that all containers have in common."""
    command = "systemctl show --property=ExecMainStartTimestampMonotonic --value redis-server"
    return int(SERVERS.hosts[name].check_output(command))


# Each takes the host, for else pytest would run it after those that do.
@pytest.mark.usefixtures("host")
def test_check_mode_tells_what_would_be_upgraded_and_changes_nothing() -> None:
    before, newer = installed(), candidate()
    assert set(before.values()) != {newer}
    primary = SERVERS.primary()

    printed = SCENARIO.play("--check", playbook=UPGRADE)

    assert printed.count(f"{before['data1']} is upgraded to {newer}") == len(before)
    assert installed() == before
    assert SERVERS.primary() == primary


@pytest.mark.usefixtures("host")
def test_a_version_that_cannot_be_had_is_refused() -> None:
    before = installed()

    with pytest.raises(AssertionError, match="the apt sources offer no redis-server 5:99; they offer 5:"):
        SCENARIO.play(playbook=UPGRADE, redis_version="5:99")

    assert installed() == before


@pytest.mark.usefixtures("host")
def test_a_set_that_is_not_well_is_refused() -> None:
    before = installed()
    replica = next(name for name in SERVERS.hosts if name != SERVERS.primary())
    SERVERS.hosts[replica].check_output("systemctl stop redis-server")
    try:
        wait_for(lambda: not SERVERS.info(replica), "it does not stop")
        with pytest.raises(AssertionError, match="1 of 2 replicas follow it"):
            SCENARIO.play(playbook=UPGRADE)
    finally:
        SERVERS.hosts[replica].check_output("systemctl start redis-server")

    assert installed() == before
    SERVERS.primary()


def test_a_primary_that_works_hands_over_under_load_and_no_task_is_lost_or_doubled(host: Any) -> None:
    primary = SERVERS.primary()
    load = Load()

    with load.running():
        printed = SCENARIO.play(playbook=FAILOVER)
        sent = len(load.sent)
        wait_for(lambda: len(load.sent) > sent + 10, "nothing is accepted")

    counted = load.outcome(host)
    (held_back,) = re.findall(r"writes were held back for ([0-9.]+) s", printed)
    logger.info("writes held back for %s s; %d refused; %s", held_back, load.refused, counted)
    assert SERVERS.primary() != primary
    assert counted.exactly_once, counted


def test_the_servers_are_upgraded_under_load_and_no_task_is_lost_or_doubled(host: Any) -> None:
    before, newer = installed(), candidate()
    if "only" in before["data1"]:
        logger.warning("the sources offer %s alone: it is installed again", newer)
    primary = SERVERS.primary()
    load = Load()
    supervised = SupervisedHost("worker1", host)

    begin = time.time()
    with load.running():
        printed = SCENARIO.play(playbook=UPGRADE)
        sent = len(load.sent)
        wait_for(lambda: len(load.sent) > sent + 10, "nothing is accepted")

    counted = load.outcome(host)
    held_back = re.findall(r"writes were held back for ([0-9.]+) s", printed)
    logger.info(
        "%s to %s, writes held back for %s s; %d refused; %s",
        before["data1"],
        newer,
        held_back,
        load.refused,
        counted,
    )
    assert set(installed().values()) == {newer}
    assert SERVERS.primary() != primary
    started = {name: program_started(name) for name in SERVERS.hosts}
    assert max(started, key=lambda name: started[name]) == primary
    assert counted.exactly_once, counted
    # Workers come and go with the load; none falls.
    assert supervised.workers()
    assert " died" not in supervised.journal(begin)


@pytest.mark.usefixtures("host")
def test_a_second_run_and_the_site_change_nothing() -> None:
    primary = SERVERS.primary()

    again = SCENARIO.play(playbook=UPGRADE)
    site = SCENARIO.play("--diff")

    assert again.count("nothing newer is offered") == len(SERVERS.hosts)
    for printed in (again, site):
        assert set(changes(printed).values()) == {0}
    assert SERVERS.primary() == primary
