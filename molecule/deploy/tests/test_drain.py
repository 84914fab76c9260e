"""A host is emptied and comes back under load; one that dies is missed by nobody."""

from deployed_app import redis
from fleet_workers import enlisted, load, outcome
from releases import PLAYBOOKS, sampled
from scenario import Scenario
from services import wait_for
from supervised_fleet import SupervisedHost, by_host, consuming, wait_for_workers

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
