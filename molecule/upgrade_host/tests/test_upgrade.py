"""A worker host gets the next Debian in place, as docs/how-to/upgrades.md says, and loses no task."""

import logging
import time
from uuid import uuid4

import docker
from support.hosts.fleet_workers import load, outcome
from support.hosts.releases import PLAYBOOKS
from support.hosts.scenario import Scenario
from support.hosts.supervised_fleet import by_host, wait_for_workers
from support.processes.services import wait_for

testinfra_hosts = ["ansible://worker1"]
units = ["celery-autoscaler"]

logger = logging.getLogger(__name__)

SCENARIO = Scenario("upgrade_host")
CONTAINER = "celery-fleet-upgrade-host-worker1"
# In this order; what an operator types.
UPGRADE = (
    "sed -i s/bookworm/trixie/g /etc/apt/sources.list",
    "apt-get update -q",
    "DEBIAN_FRONTEND=noninteractive apt-get -qy -o Dpkg::Options::=--force-confold full-upgrade",
    "DEBIAN_FRONTEND=noninteractive apt-get -qy autoremove",
)
BOOTS_WITHIN = 180.0  # seconds


def play(name: str, **variables: object) -> str:
    """Run one of the playbooks; what it printed."""
    begin = time.monotonic()
    try:
        return SCENARIO.play(playbook=f"{PLAYBOOKS}/{name}.yml", **variables)
    finally:
        logger.info("%s.yml took %.0f s", name, time.monotonic() - begin)


def reboot() -> None:
    """Restart the host and wait until it has booted."""
    container = docker.from_env().containers.get(CONTAINER)
    container.restart()
    booted = ["systemctl", "is-system-running"]

    def has_booted() -> bool:
        printed = container.exec_run(booted).output
        return isinstance(printed, bytes) and printed.decode().strip() in {"running", "degraded"}

    wait_for(has_booted, "the host does not boot", BOOTS_WITHIN)


def test_a_host_gets_the_next_debian_while_the_others_do_its_work() -> None:
    host = SCENARIO.hosts("workers")["worker1"]
    trace = f"test-{uuid4()}"
    before = host.check_output("/opt/celery/current/venv/bin/python --version")

    with load(trace, rate=10) as ids:
        play("drain", host="worker1")
        drained = by_host()
        begin = time.monotonic()
        for command in UPGRADE:
            host.check_output(command)
        logger.info("the packages took %.0f s", time.monotonic() - begin)
        reboot()
        shown = play("site")
        play("resume", host="worker1")
        wait_for_workers(lambda numbers: bool(numbers["worker1"]), "worker on the host that came back", 180.0)
    found = outcome(trace, ids)

    assert found.exactly_once, found
    assert drained["worker1"] == 0
    assert host.check_output("cat /etc/debian_version").startswith("13")
    after = host.check_output("/opt/celery/current/venv/bin/python --version")
    assert (before.split(".")[1], after.split(".")[1]) == ("11", "13"), shown
    logger.info("%d tasks were sent meanwhile, each ran once", len(ids))


def test_the_site_is_well_and_stays_as_it_is_afterwards() -> None:
    play("verify")
    printed = play("site")

    assert printed.count("changed=0 ") == printed.count("changed="), printed
