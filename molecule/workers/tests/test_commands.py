"""The operator's commands, with the rights of the deployed app."""

import pytest
from support.hosts.deployed_app import ended, redis, send, started, waiting
from support.hosts.fleet_workers import UNIT, Worker, dead_letters, held, left, outcome, waits
from support.processes.services import wait_for
from testinfra.host import Host

testinfra_hosts = ["ansible://worker1"]
units = [UNIT]

EXECUTIONS = 4  # three redeliveries
AUTOSCALER = "celery-app celery-autoscaler -A tasks"


@pytest.fixture
def one_worker(worker1: Worker, worker2: Worker) -> Worker:
    """Return the only worker that runs."""
    worker2.stop()
    return worker1


def kill_until_dead_letter(worker: Worker, trace: str, before: int = 0) -> None:
    """Kill the process of a task each time it begins once more, until its message is put aside."""
    for execution in range(1, EXECUTIONS + 1):
        started(trace, before + execution)
        worker.kill_child()
    wait_for(lambda: bool(dead_letters("default")), "no dead letter")


def test_recover_gives_back_what_dead_workers_held(host: Host, one_worker: Worker, trace: str) -> None:
    victim = one_worker.id()
    assert "its lease is valid" in host.check_output(f"{AUTOSCALER} recover {one_worker.name}")

    ids = send(trace, waits(3, count=2))
    started(trace, 2)
    one_worker.signal("KILL")
    one_worker.stop()  # so that nobody is left to rescue
    assert sorted(held(victim)) == ids
    wait_for(lambda: not one_worker.living(), "the lease does not end")
    recovered = host.check_output(f"{AUTOSCALER} recover")

    assert recovered == f"{one_worker.name}: 2 messages given back"
    assert sorted(message["id"] for messages in waiting().values() for message in messages) == ids
    assert "no dead workers" in host.check_output(f"{AUTOSCALER} recover")
    one_worker.start()
    counted = outcome(trace, ids)
    assert (counted.lost, counted.started_again, counted.ended_again) == ([], ids, [])


def test_a_message_that_kills_is_put_aside_listed_and_replayed(
    host: Host, one_worker: Worker, trace: str
) -> None:
    [poison] = send(trace, waits(3))

    kill_until_dead_letter(one_worker, trace)

    assert started(trace) == [poison] * EXECUTIONS
    assert left() == 0
    [line] = host.check_output(f"{AUTOSCALER} dead-letter list").splitlines()
    for shown in (
        f"tasks.io_intensive.wait[{poison}]",
        one_worker.name,
        "came back 3 times",
        "WorkerLostError",
    ):
        assert shown in line
    assert host.check_output(f"{AUTOSCALER} dead-letter replay default") == "default: 1 messages sent again"
    assert outcome(trace, [poison]).lost == []  # this time nobody kills it
    assert started(trace) == [poison] * (EXECUTIONS + 1)
    assert dead_letters("default") == []


def test_a_replayed_message_may_die_as_often_again_and_be_purged(
    host: Host, one_worker: Worker, trace: str
) -> None:
    [poison] = send(trace, waits(3))
    kill_until_dead_letter(one_worker, trace)
    host.check_output(f"{AUTOSCALER} dead-letter replay default")

    kill_until_dead_letter(one_worker, trace, before=EXECUTIONS)

    assert started(trace) == [poison] * 2 * EXECUTIONS
    assert host.check_output(f"{AUTOSCALER} dead-letter purge --yes default") == "default: 1 messages deleted"
    assert host.check_output(f"{AUTOSCALER} dead-letter list") == "No dead letters."
    assert (ended(trace), left(), redis().exists("dead_letter:default")) == ([], 0, 0)
