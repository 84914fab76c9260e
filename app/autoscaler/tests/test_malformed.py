"""A message that is no task's ends no worker."""

from __future__ import annotations

import json

import pytest
from celery import Celery
from counted_tasks import Fleet


def publish(broker_url: str, body: str) -> None:
    headers = {"task": "single.count", "id": "malformed", "lang": "py"}
    with (
        Celery(broker=broker_url).connection_for_write() as connection,
        connection.SimpleQueue("celery") as queue,
    ):
        queue.put(body.encode(), headers=headers, content_type="application/json", content_encoding="utf-8")


@pytest.mark.parametrize("body", ["[[], {}, {}, 1]", "[[], {}]", '{"a": 1}', "1", "null", '"x"', "{not json"])
def test_a_body_of_the_wrong_shape_is_refused_and_the_worker_lives_on(fleet: Fleet, body: str) -> None:
    worker = fleet.start(concurrency=1)
    publish(fleet.tasks.broker_url, body)

    assert fleet.tasks.settle(fleet.tasks.send(3)).exactly_once
    assert worker.process.poll() is None
    assert fleet.tasks.left() == {}


def test_what_is_no_message_at_all_is_put_aside(fleet: Fleet) -> None:
    worker = fleet.start(concurrency=1)
    fleet.tasks.redis.lpush("celery", "no message of Celery's")

    assert fleet.tasks.settle(fleet.tasks.send(3)).exactly_once
    assert worker.process.poll() is None
    (letter,) = fleet.tasks.redis.lrange("dead_letter:celery", 0, -1)
    assert json.loads(letter)["message"] == "no message of Celery's"
