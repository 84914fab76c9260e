"""What workers and supervisors of the release before write is understood: a rolling deploy crosses releases.

``recorded_before.json`` holds what a supervisor of that release and its three workers wrote under a burst.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery_autoscaler.protocol.broker import Broker, connect
from celery_autoscaler.protocol.former import FORMER_NAMES
from celery_autoscaler.protocol.heartbeat import Heartbeat
from celery_autoscaler.protocol.overrides import Override
from celery_autoscaler.protocol.reading import Refusal
from celery_autoscaler.protocol.status import (
    GroupStatus,
    QueueStatus,
    RunningTask,
    SupervisorStatus,
    WorkerStatus,
)
from celery_autoscaler.protocol.tallies import Tallies
from celery_autoscaler.settings import Group
from celery_autoscaler.supervisor.fleet_status import decisions, fleet_status
from celery_autoscaler.supervisor.observation import Observer
from redis import Redis

RECORDED: dict[str, Any] = json.loads(Path(__file__).with_name("recorded_before.json").read_text())
GROUP = Group(name="default", queues=("celery",))


@pytest.fixture
def broker(redis_url: str) -> Broker:
    """Return a broker that holds what was recorded, with leases that live."""
    client = Redis.from_url(redis_url)
    lease = (client.time()[0] + 60) * 1000
    for key, value in RECORDED.items():
        match key.split(":")[1]:
            case "workers" | "supervisors":
                client.zadd(key, {member: lease for member, _ in value})
            case "decisions" | "history":
                for entry_id, fields in value:
                    client.xadd(key, fields, id=entry_id)
            case _:
                client.hset(key, mapping=value)
    return connect(Celery(broker=redis_url))


def test_its_workers_are_seen_as_they_are(broker: Broker) -> None:
    seen = Observer(broker, [GROUP]).look()

    assert [refusal for refusal in seen.refusals if refusal.name != "general"] == []
    assert {
        worker.instance: (worker.state, worker.concurrency, worker.processed) for worker in seen.workers
    } == {
        "default-1": ("running", 2, 68),
        "default-2": ("running", 2, 40),
        "default-3": ("running", 2, 42),
    }
    assert all(
        worker.alive and worker.tasks["single.count"][0] == worker.processed for worker in seen.workers
    )
    assert [(peer.host, peer.weight) for peer in seen.peers] == [("here", 2.0)]


def test_its_status_and_decisions_have_the_names_of_this_release(broker: Broker) -> None:
    status = fleet_status(broker)

    assert status.unreadable == []
    group = status.groups["default"]
    assert (group.target_wait, group.min_workers, group.max_workers) == (2.0, 1, 3)
    assert [(record.here, record.want) for record in decisions(broker, 10)] == [(2, 3), (1, 1)]


def test_what_an_operator_has_set_stays(broker: Broker) -> None:
    seen = Observer(broker, [GROUP, Group(name="general", queues=("mail",))]).look()

    assert seen.overrides == {"general": Override(max_workers=4, by="ann")}
    assert not any(isinstance(refusal, Refusal) for refusal in seen.refusals)


def test_its_counts_of_tasks_are_taken_over() -> None:
    told = RECORDED["fleet:task_counts:here"]

    assert sum(Tallies.load(text)["single.count", "celery"].outcomes.total() for text in told.values()) == 121


def test_its_supervisors_find_all_that_they_know_in_a_status_of_this_release() -> None:
    former = json.loads(RECORDED["fleet:supervisor:here"]["status"])
    group = former["groups"]["default"]
    made = SupervisorStatus(
        groups={"default": GroupStatus(queues={"celery": QueueStatus()})},
        workers=[WorkerStatus(running=[RunningTask()])],
    ).as_dict()

    assert former.keys() <= made.keys()
    assert group.keys() - made["groups"]["default"].keys() == {*FORMER_NAMES}
    assert group["queues"]["celery"].keys() == made["groups"]["default"]["queues"]["celery"].keys()
    assert former["workers"][0].keys() == made["workers"][0].keys()
    assert former["workers"][0]["running"][0].keys() == made["workers"][0]["running"][0].keys()


def test_its_supervisors_find_all_that_they_know_in_a_heartbeat_of_this_release() -> None:
    former = RECORDED["fleet:worker:default-1@here:18ec16ab5b38d1e7"]

    # The session is the channel's; the counts of tasks that have begun are followed by their run times.
    assert former.keys() - {"session", "tasks"} <= {*Heartbeat().dump()[::2]}
