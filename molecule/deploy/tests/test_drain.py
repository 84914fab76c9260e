"""A host is emptied and comes back under load; one that dies is missed by nobody."""

from collections.abc import Iterator

import pytest
from support.hosts.deployed_app import redis
from support.hosts.fleet_workers import enlisted, load, outcome
from support.hosts.lost_hosts import without_power
from support.hosts.releases import PLAYBOOKS, Rollouts, sampled
from support.hosts.scenario import Scenario
from support.hosts.supervised_fleet import SupervisedHost, by_host, consuming, wait_for_workers
from support.processes.services import wait_for

testinfra_hosts = ["ansible://worker1"]
units = ["celery-autoscaler"]


def play(name: str, **variables: object) -> str:
    """Run one of the playbooks; what it printed."""
    return Scenario("deploy").play(playbook=f"{PLAYBOOKS}/{name}.yml", **variables)


def test_a_host_is_emptied_and_comes_back_without_a_task_lost_or_repeated(
    hosts: dict[str, SupervisedHost], trace: str
) -> None:
    with load(trace, rate=15) as ids, sampled("general", "slow") as samples:
        play("drain", host="worker1")
        drained = by_host()
        living = hosts["worker1"].living()
        play("resume", host="worker1")
        wait_for_workers(lambda numbers: bool(numbers["worker1"]), "worker on the host that came back", 180.0)
    found = outcome(trace, ids)

    assert found.exactly_once, found
    assert drained["worker1"] == living == 0
    assert drained["worker2"] >= 2
    assert samples.least["general"] >= 1


def test_a_host_that_dies_and_comes_back_costs_no_task(hosts: dict[str, SupervisedHost], trace: str) -> None:
    worker2 = hosts["worker2"]
    with load(trace, rate=15) as ids:
        wait_for_workers(lambda numbers: bool(numbers["worker2"]), "worker on the host")
        dead = {worker_id for name, worker_id in consuming().items() if name.endswith("@worker2")}
        worker2.host.check_output("systemctl kill --signal=KILL 'celery-*'")
        wait_for(lambda: not dead & set(enlisted()), "the dead workers are not given up")
        wait_for(lambda: redis().zcard("fleet:supervisors") == len(hosts), "a supervisor is missing")
        wait_for_workers(lambda numbers: bool(numbers["worker2"]), "worker on the host that came back", 120.0)
    found = outcome(trace, ids)

    assert not found.lost, found


def test_the_state_of_the_fleet_is_on_one_screen() -> None:
    shown = play("status")

    for words in ("KEEPING UP", "worker2", "celery-autoscaler", "general", "data1 Redis", "No warnings."):
        assert words in shown, shown


def test_hosts_are_told_apart_that_call_themselves_the_same(hosts: dict[str, SupervisedHost]) -> None:
    names = {host.host.check_output("hostname") for host in hosts.values()}

    shown = play("verify")

    assert len(hosts) > len(names) == 1
    executed = [line.split("│") for line in shown.splitlines() if line.startswith("│ worker")]
    assert [cells[1].strip() for cells in executed] == sorted(hosts)
    assert all(int(cells[4]) > 0 for cells in executed), shown


# --- The first worker host is dead. The last tests here: what they do with releases is not undone ---------


@pytest.fixture(scope="module")
def dead_host() -> Iterator[str]:
    """Return the first worker host, which has no power until these tests end."""
    with without_power("celery-fleet-deploy-worker1"):
        yield "worker1"


def refused(name: str, *options: str, **variables: object) -> str:
    """Run a playbook that must fail; what it printed."""
    try:
        printed = Scenario("deploy").play(*options, playbook=f"{PLAYBOOKS}/{name}.yml", **variables)
    except AssertionError as error:
        return str(error)
    raise AssertionError(f"{name}.yml succeeded:\n{printed}")


def test_status_names_a_dead_host_first_and_asks_the_others(dead_host: str) -> None:
    shown = play("status")

    warnings = [line for line in shown.splitlines() if line.startswith("Warning")]
    assert warnings[0].split() == ["Warning", dead_host, "does", "not", "answer"]
    assert "No supervisor answers" not in shown
    for words in ("worker2", "general", "data1 Redis", "data1 PostgreSQL"):
        assert words in shown, shown


def test_verify_names_a_dead_host_and_judges_the_others(dead_host: str) -> None:
    shown = refused("verify")

    assert f"{dead_host}: does not answer" in shown
    [line] = [line for line in shown.splitlines() if line.startswith("│ worker2")]
    assert int(line.split("│")[4]) > 0, shown  # tasks were executed
    assert shown.index("report | Note what they answered") < shown.index(f"{dead_host}: does not answer")
    assert shown.count("fatal:") - shown.count("UNREACHABLE") == 1, shown


@pytest.mark.usefixtures("dead_host")
def test_any_living_host_tells_the_supervisors() -> None:
    play("scale", group="general", minimum=1, maximum=3)
    assert redis().hget("fleet:overrides", "general")
    play("pause", group="slow")
    assert redis().hget("fleet:overrides", "slow")
    play("pause", group="slow", undo=True)
    play("scale", group="general", reset=True)


def test_a_dead_host_is_neither_emptied_nor_deployed_to(dead_host: str) -> None:
    assert f"{dead_host} was not emptied" in refused("drain", host=dead_host)
    assert f"{dead_host} does not answer; nothing was changed" in refused("deploy")


def test_a_release_is_taken_back_from_the_hosts_that_live(dead_host: str, rollouts: Rollouts) -> None:
    host = Scenario("deploy").hosts("workers")["worker2"]
    current, previous = (
        host.check_output(f"basename $(readlink /opt/celery/{link})") for link in ("current", "previous")
    )

    assert "there are: " in refused("rollback", release="0123456789ab")
    shown = rollouts.rollback()

    assert f"release {previous} runs on worker2; before it: {current}; not on {dead_host}" in shown
    assert host.check_output("basename $(readlink /opt/celery/current)") == previous
