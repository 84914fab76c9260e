"""Messages go back once, however many give them back at the same time."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from celery_autoscaler.protocol.broker import Broker
from celery_autoscaler.protocol.keys import Keys
from celery_autoscaler.protocol.recovery import give_back, recover
from redis import Redis
from support.processes.counted_tasks import SEPARATOR

WORKER = "dead@here:1"
KEYS = Keys()
MANY = 10_000


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


def message(number: int) -> str:
    """Return a message as kombu writes it."""
    return json.dumps(
        {
            "body": "",
            "headers": {"id": f"{number:05}", "task": "t"},
            "properties": {"delivery_info": {"exchange": "", "routing_key": "one"}},
        }
    )


def record(client: Redis, number: int) -> list[str]:
    """Record a number of messages as the worker's; return their tokens."""
    records: dict[Any, Any] = {f"{token:012}.000": f"one\n{message(token)}" for token in range(number)}
    client.hset(KEYS.unacked(WORKER), mapping=records)
    client.zadd(KEYS.workers, {WORKER: 0})
    return list(records)


def ids(client: Redis, queue: str) -> list[str]:
    """Return the ids of the messages in a list, the next to be taken first."""
    found = client.lrange(queue, 0, -1)
    assert isinstance(found, list)
    return [json.loads(text)["headers"]["id"] for text in reversed(found)]


def test_two_rescuers_at_once_move_each_message_once(redis_url: str, client: Redis) -> None:
    record(client, MANY)
    moved: list[int | None] = []

    def rescue() -> None:
        with Redis.from_url(redis_url) as own:
            moved.append(recover(Broker(own, KEYS, SEPARATOR), WORKER))

    rescuers = [threading.Thread(target=rescue) for _ in range(2)]
    begin = time.monotonic()
    for rescuer in rescuers:
        rescuer.start()
    for rescuer in rescuers:
        rescuer.join()
    seconds = time.monotonic() - begin

    print(f"{MANY} messages in {seconds:.2f} s, by rescuer {moved}")  # noqa: T201
    assert sum(count or 0 for count in moved) == MANY
    assert sorted(ids(client, "one")) == [f"{number:05}" for number in range(MANY)]
    assert client.hlen(KEYS.unacked(WORKER)) == 0
    assert seconds < 10


def test_messages_come_back_in_their_order_before_those_that_wait(client: Redis) -> None:
    tokens = record(client, 1200)
    client.lpush("one", message(99_999))

    give_back(Broker(client, KEYS, SEPARATOR), WORKER, tokens)

    assert ids(client, "one") == [*(f"{number:05}" for number in range(1200)), "99999"]


def test_nobody_is_rescued_while_its_lease_lives(client: Redis) -> None:
    record(client, 3)
    client.hset(KEYS.worker(WORKER), "session", "1")

    assert recover(Broker(client, KEYS, SEPARATOR), WORKER) is None

    assert client.hlen(KEYS.unacked(WORKER)) == 3
    assert client.llen("one") == 0


def test_a_rescued_worker_is_forgotten(client: Redis) -> None:
    record(client, 3)

    assert recover(Broker(client, KEYS, SEPARATOR), WORKER) == 3

    assert client.zcard(KEYS.workers) == 0


def test_a_message_given_back_is_marked_as_redelivered(client: Redis) -> None:
    record(client, 1)

    recover(Broker(client, KEYS, SEPARATOR), WORKER)

    text = client.lindex("one", 0)
    assert isinstance(text, bytes)
    assert json.loads(text)["properties"]["delivery_info"]["redelivered"] is True
    assert json.loads(text)["headers"]["redelivered"] is True
