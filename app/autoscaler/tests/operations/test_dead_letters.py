"""A message that kills each worker that takes it is put aside after three redeliveries; the rest goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest
from celery_autoscaler.protocol.broker import Broker
from celery_autoscaler.protocol.keys import Keys
from celery_autoscaler.protocol.recovery import give_back
from redis import Redis
from support.processes.counted_tasks import SEPARATOR, Fleet
from support.processes.process import clean_environment
from support.processes.services import wait_for

KEYS = Keys()
VICTIM = "victim@here:1"


def command(fleet: Fleet, *arguments: str) -> str:
    """Run `celery-autoscaler` and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-m", "celery_autoscaler.cli", "-A", "single", *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=fleet.folder,
        env=clean_environment() | {"BROKER": fleet.broker_url},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def letter(fleet: Fleet, queue: str = "celery") -> dict[str, Any]:
    """Return the dead letter of a queue as soon as there is one."""

    def newest() -> Any:
        return fleet.tasks.redis.lindex(f"dead_letter:{queue}", 0)

    found: dict[str, Any] = json.loads(wait_for(newest, f"no dead letter of {queue}", within=60))
    return found


def put_aside(fleet: Fleet) -> None:
    """Let the message that waits come back four times, without a worker."""
    with Redis.from_url(fleet.broker_url) as client:
        for _ in range(4):
            message: Any = client.rpop("celery")
            client.hset(KEYS.unacked(VICTIM), "1.000", b"celery\n" + message)
            give_back(Broker(client, KEYS, SEPARATOR), VICTIM, ["1.000"], died="the test")


def test_a_task_that_kills_its_process_becomes_a_dead_letter(fleet: Fleet) -> None:
    fleet.start(name="victim")
    poison = fleet.tasks.send(1, name="die")
    others = fleet.tasks.send(50)

    found = letter(fleet)

    assert json.loads(found["message"])["headers"]["id"] == poison[0]
    assert found["queue"] == "celery"
    assert found["worker"] == "victim@here"
    assert found["redeliveries"] == 3
    assert "WorkerLostError" in found["reason"]
    assert found["when"].endswith("+00:00")
    assert fleet.tasks.settle(others, patience=5).exactly_once
    assert fleet.tasks.started()[poison[0]] == 4
    assert fleet.tasks.left() == {"dead_letter:celery": 1}


def test_a_task_that_kills_its_worker_becomes_a_dead_letter(fleet: Fleet) -> None:
    fleet.start("-Q", "other", name="rescuer")
    poison = fleet.tasks.send(1, name="kill_worker", queue="poison")
    for attempt in range(1, 5):
        candidate = fleet.start("-Q", "poison", name=f"victim{attempt}", concurrency=1, ready=False)
        candidate.wait()
        others = fleet.tasks.send(5, queue="other")
        assert fleet.tasks.settle(others, patience=2).lost == []
        # The first lease runs out by itself.
        if attempt > 1:
            fleet.tasks.rescue(f"victim{attempt}")
        wait_for(lambda: not fleet.tasks.redis.keys("fleet:unacked:*"), "nothing was given back")

    found = letter(fleet, "poison")

    assert json.loads(found["message"])["headers"]["id"] == poison[0]
    assert found["worker"] == "victim4@here"
    assert found["redeliveries"] == 3
    assert found["reason"] == "its worker died"
    assert fleet.tasks.started()[poison[0]] == 4


def test_dead_letters_are_listed_replayed_and_purged(fleet: Fleet) -> None:
    (task_id,) = fleet.tasks.send(1)
    put_aside(fleet)

    (line,) = command(fleet, "dead-letter", "list").splitlines()
    assert "  celery  " in line
    assert f"single.count[{task_id}]" in line
    assert "victim@here" in line
    assert "came back 3 times: the test" in line

    assert command(fleet, "dead-letter", "replay", "celery") == "celery: 1 messages sent again\n"
    assert fleet.tasks.left() == {"celery": 1}
    # It has its three redeliveries again.
    assert "redelivery_count" not in str(fleet.tasks.redis.lindex("celery", 0))
    fleet.start()
    assert fleet.tasks.settle([task_id]).exactly_once
    fleet.workers[0].stop()

    fleet.tasks.send(1)
    put_aside(fleet)
    assert command(fleet, "dead-letter", "purge", "--yes", "celery") == "celery: 1 messages deleted\n"
    assert command(fleet, "dead-letter", "list") == "No dead letters.\n"
    assert fleet.tasks.left() == {}


def test_a_task_that_asks_to_go_back_never_becomes_a_dead_letter(fleet: Fleet) -> None:
    fleet.start()
    ids = fleet.tasks.send(1, 10, name="refuse")

    fleet.tasks.wait_until_ended(ids)

    assert fleet.tasks.started()[ids[0]] == 11
    wait_for(lambda: fleet.tasks.left() == {}, "something is left")


@pytest.mark.parametrize("raw", ["no JSON", "[1, 2]", '{"body": "", "headers": {}}'])
def test_what_is_no_message_is_put_aside(fleet: Fleet, raw: str) -> None:
    worker = fleet.start()
    fleet.tasks.redis.lpush("celery", raw)
    ids = fleet.tasks.send(3)

    assert letter(fleet)["message"] == raw
    assert fleet.tasks.settle(ids, patience=5).exactly_once
    assert "?" in command(fleet, "dead-letter", "list")
    assert worker.process.poll() is None
