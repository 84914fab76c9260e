"""A host is emptied and comes back under load; one that dies is missed by nobody."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from uuid import uuid4

import docker
import pytest
from support.hosts.deployed_app import redis
from support.hosts.fleet_workers import enlisted, load, outcome
from support.hosts.lost_hosts import without_power, without_route
from support.hosts.releases import PLAYBOOKS, Rollouts, Source, sampled
from support.hosts.scenario import Scenario, address
from support.hosts.supervised_fleet import SupervisedHost, by_host, consuming, wait_for_workers
from support.processes.counted_tasks import Outcome
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


def test_a_host_that_is_cut_off_from_redis_keeps_nobody_from_the_supervisors(
    hosts: dict[str, SupervisedHost],
) -> None:
    assert next(iter(hosts)) == "worker1"
    with without_route(hosts["worker1"].host, address(Scenario("deploy").hosts()["data1"])):
        paused = play("pause", group="slow")
        assert redis().hget("fleet:overrides", "slow")
        shown = play("status")
    play("pause", group="slow", undo=True)

    assert '"msg": "slow: paused"' in paused
    assert "worker1 -> worker2" in paused
    assert "PAUSED  slow: paused by" in shown, shown
    assert "worker1: its supervisor runs but does not report" in shown, shown
    wait_for(lambda: redis().zcard("fleet:supervisors") == len(hosts), "a supervisor is missing", 180.0)
    wait_for_workers(lambda numbers: bool(numbers["worker1"]), "worker on the host that came back", 180.0)


# --- The first worker host dies while it is deployed. The last tests here: they leave other releases --------


@dataclass(frozen=True)
class Loss:
    """A host that died in the middle of a deploy."""

    host: str
    outcome: Outcome
    """Of the tasks that were sent meanwhile."""
    printed: str
    release: str
    """The one that was deployed."""


@pytest.fixture(scope="module")
def loss(rollouts: Rollouts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loss]:
    """Let the first worker host lose its power while its workers are replaced, until these tests end."""
    source = Source.copy(tmp_path_factory.mktemp("loss") / "tasks")
    source.append("# The release in the middle of which a host dies.")
    before = rollouts.current()["worker1"]
    trace = f"test-{uuid4()}"
    with (
        ThreadPoolExecutor(max_workers=1) as executor,
        load(trace, rate=15) as ids,
        ExitStack() as dead,
    ):
        deploy = executor.submit(rollouts.refused, source)
        host = Scenario("deploy").hosts("workers")["worker1"]
        link = "basename $(readlink /opt/celery/current)"
        wait_for(lambda: deploy.done() or host.check_output(link) != before, "nothing is deployed", 180.0)
        dead.enter_context(without_power("celery-fleet-deploy-worker1"))
        printed = deploy.result()
        off = dead.pop_all()
    with off:
        current = Scenario("deploy").hosts("workers")["worker2"].check_output(link)
        yield Loss("worker1", outcome(trace, ids), printed, current)


@pytest.fixture
def dead_host(loss: Loss) -> str:
    """Return the first worker host, which has no power."""
    return loss.host


def refused(name: str, *options: str, **variables: object) -> str:
    """Run a playbook that must fail; what it printed."""
    try:
        printed = Scenario("deploy").play(*options, playbook=f"{PLAYBOOKS}/{name}.yml", **variables)
    except AssertionError as error:
        return str(error)
    raise AssertionError(f"{name}.yml succeeded:\n{printed}")


def test_a_host_that_dies_in_a_deploy_keeps_the_release_from_no_other(loss: Loss) -> None:
    says = f"{loss.host} does not answer any more"
    assert says in loss.printed, loss.printed
    assert f"Release {loss.release} runs on worker2." in loss.printed
    assert "put back" not in loss.printed
    # The report of verify.yml.
    report = loss.printed[loss.printed.index("PLAY RECAP") :].splitlines()
    assert next(line for line in report if line and ":" not in line and "*" not in line) == (
        f"{loss.host} does not answer"
    )
    assert not loss.outcome.lost, loss.outcome


def test_status_names_a_dead_host_first_and_asks_the_others(dead_host: str) -> None:
    shown = play("status")

    screen = shown[shown.index("PLAY RECAP") :].split("\n\n", 1)[1].strip()
    assert screen.startswith(f"{dead_host} does not answer\n"), screen
    assert "No supervisor answers" not in shown
    for words in ("worker2", "general", "data1 Redis", "data1 PostgreSQL"):
        assert words in shown, shown


def test_verify_names_a_dead_host_and_judges_the_others(dead_host: str) -> None:
    shown = refused("verify")

    assert f"{dead_host}: does not answer" in shown
    [line] = [line for line in shown.splitlines() if line.startswith("│ worker2")]
    assert int(line.split("│")[4]) > 0, shown  # tasks were executed
    assert shown.index("report | Note their answers") < shown.index(f"{dead_host}: does not answer")
    assert shown.count("fatal:") - shown.count("UNREACHABLE") == 1, shown


@pytest.mark.usefixtures("dead_host")
def test_any_living_host_tells_the_supervisors() -> None:
    play("scale", group="general", min_workers=1, max_workers=3)
    assert redis().hget("fleet:overrides", "general")
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


def test_a_host_that_is_back_gets_the_release_with_the_next_deploy(
    loss: Loss, hosts: dict[str, SupervisedHost], rollouts: Rollouts, source: Source
) -> None:
    docker.from_env().containers.get(f"celery-fleet-deploy-{loss.host}").start()
    wait_for(lambda: redis().zcard("fleet:supervisors") == len(hosts), "a supervisor is missing", 180.0)

    rollouts.deploy(source, rollout_verify=False)

    assert len(set(rollouts.current().values())) == 1
    assert rollouts.running() == set(rollouts.current().values())
