"""A message costs at most itself, whatever is wrong with it and whichever consumer takes it."""

from __future__ import annotations

import base64
import json
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery
from support.processes.counted_tasks import Fleet, NewFleet
from support.processes.services import RedisServerFactory, wait_for

DEEP = 100_000


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
    assert fleet.tasks.left() == {"dead_letter:celery": 1}


Change = Callable[[dict[str, Any]], object]


def put(*path: str, value: object) -> Change:
    """Return a change that puts a value into a message."""

    def change(message: dict[str, Any]) -> None:
        target: Any = message
        for name in path[:-1]:
            target = target[name]
        target[path[-1]] = value

    return change


def body(value: str) -> Change:
    return put("body", value=base64.b64encode(value.encode()).decode())


WRONG: dict[str, Change] = {
    "a body that is not base64": put("body", value="abc"),
    "a body that is a number": put("body", value=7),
    "a body that is a list": put("body", value=[1]),
    "a body of invalid UTF-8": put("body", value=base64.b64encode(b"\xff\xfe[").decode()),
    "a body of another shape": body('{"a": 1}'),
    "no body": lambda message: message.pop("body"),
    "a deep body": body("[" * DEEP + "]" * DEEP),
    "headers that are a list": put("headers", value=[1, 2]),
    "headers that are text": put("headers", value="headers"),
    "no headers": put("headers", value={}),
    "an unknown task": put("headers", "task", value="single.nobody"),
    "an unknown task without an id": lambda message: message.update(headers={"task": "single.nobody"}),
    "a task that is a list": put("headers", "task", value=["single.count"]),
    "a task that is an object": put("headers", "task", value={}),
    "a task that is a number": put("headers", "task", value=1),
    "a task that is nothing": put("headers", "task", value=None),
    "a task with a lone surrogate": put("headers", "task", value="\ud800"),
    "a long task": put("headers", "task", value="t" * 100_000),
    "no id": lambda message: message["headers"].pop("id"),
    "an id that is a list": put("headers", "id", value=["id"]),
    "an id with a lone surrogate": put("headers", "id", value="\ud800"),
    "an id that is an object": put("headers", "id", value={"a": 1}),
    "properties that are nothing": put("properties", value=None),
    "properties that are text": put("properties", value="x"),
    "delivery_info that is text": put("properties", "delivery_info", value="x"),
    "delivery_info that is a list": put("properties", "delivery_info", value=[1]),
    "an unknown body encoding": put("properties", "body_encoding", value="rot13"),
    "a body encoding that is a number": put("properties", "body_encoding", value=1),
    "an unknown content type": put("content-type", value="application/x-nothing"),
    "a content type that is a list": put("content-type", value=["x"]),
    "a content type that is not allowed": put("content-type", value="application/x-python-serialize"),
    "an unknown compression": put("headers", "compression", value="application/x-nothing"),
    "a compression that fails": put("headers", "compression", value="application/x-gzip"),
    "a compression that is a list": put("headers", "compression", value=[1]),
    "an ETA that is no time": put("headers", "eta", value="tomorrow"),
    "an ETA that is an object": put("headers", "eta", value={}),
    "an ETA that is huge": put("headers", "eta", value=10**400),
    "an ETA before the first year": put("headers", "eta", value="0001-01-01T00:00:00+00:00"),
    "an expiry that is no time": put("headers", "expires", value="never"),
    "an expiry that is a list": put("headers", "expires", value=[1]),
    "a time limit that is a number": put("headers", "timelimit", value=3),
    "time limits that are text": put("headers", "timelimit", value="ab"),
    "one time limit": put("headers", "timelimit", value=[1]),
    "a negative time limit": put("headers", "timelimit", value=[-1, None]),
    "three time limits": put("headers", "timelimit", value=[1, 2, 3]),
    "a time limit that is no number": put("headers", "timelimit", value=[float("nan"), None]),
    "a soft time limit that is huge": put("headers", "timelimit", value=[None, 10**400]),
}
# Time zones in which the first year has not begun everywhere.
WEST = """
import os, time
os.environ["TZ"] = "America/New_York"
time.tzset()
"""
# Plain text instead of a message.
RAW: dict[str, bytes] = {
    "text": b"no message of Celery's",
    "a list": b"[1, 2]",
    "nothing": b"null",
    "a number": b"1",
    "no properties": b'{"body": "", "headers": {}}',
    "invalid UTF-8": b"\xff\xfe\xfd",
    "deep JSON": b'{"a": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "a number too long for Python": b'{"properties": ' + b"9" * 5000 + b"}",
    "bytes that look like UTF-16": "{}".encode("utf-16"),
    "an empty text": b"",
}


def altered(fleet: Fleet, change: Change) -> str:
    """Send a task, and change its message in the list."""
    fleet.tasks.send(1)
    message = json.loads(str(fleet.tasks.redis.lpop("celery")))
    message["headers"]["id"] = "malformed"
    change(message)
    text = json.dumps(message)
    fleet.tasks.redis.lpush("celery", text)
    return text


def reasons(fleet: Fleet, queue: str = "celery") -> list[str]:
    """Return the reasons of the dead letters of a queue."""
    found: Any = fleet.tasks.redis.lrange(f"dead_letter:{queue}", 0, -1)
    return [json.loads(text)["reason"] for text in found]


@pytest.mark.parametrize("prefetch", [1, 50])
@pytest.mark.versions
def test_messages_that_are_wrong_in_any_way_cost_only_themselves(new_fleet: NewFleet, prefetch: int) -> None:
    fleet = new_fleet({"worker_prefetch_multiplier": prefetch})
    good, texts = [], {}
    for name, change in WRONG.items():
        texts[altered(fleet, change)] = name
        good += fleet.tasks.send(1)
    for raw in RAW.values():
        fleet.tasks.redis.lpush("celery", raw)
        good += fleet.tasks.send(1)

    worker = fleet.start(concurrency=1, settings=extend(fleet, WEST))
    outcome = fleet.tasks.settle(good)

    assert outcome.exactly_once, outcome
    assert worker.process.poll() is None
    wrong = len(WRONG) + len(RAW)

    def not_put_aside() -> set[str]:
        letters: Any = fleet.tasks.redis.lrange("dead_letter:celery", 0, -1)
        aside = {json.loads(letter)["message"] for letter in letters}
        return {name for text, name in texts.items() if text not in aside}

    wait_for(lambda: len(reasons(fleet)) == wrong, lambda: f"not put aside: {not_put_aside()}", 15)
    assert not_put_aside() == set()
    assert all(reasons(fleet))
    # Nothing is held, and all the room is there again.
    assert fleet.tasks.settle(fleet.tasks.send(2 * prefetch)).exactly_once
    assert fleet.tasks.left() == {"dead_letter:celery": wrong}


def extend(fleet: Fleet, code: str) -> dict[str, Any]:
    """Give the app more code; return the settings that import it."""
    (fleet.folder / "more.py").write_text(code)
    return {"imports": ["more"]}


CONSUMER = """
from celery import bootsteps
from kombu import Consumer, Queue
from single import app, counts

class Weird(Exception):
    def __str__(self):
        raise RuntimeError("no text")

RAISED = {"KeyError": KeyError("x"), "OSError": OSError("x"), "ConnectionError": ConnectionError("x"),
          "Weird": Weird(), "MemoryError": MemoryError(), "RecursionError": RecursionError()}

class Events(bootsteps.ConsumerStep):
    def get_consumers(self, channel):
        return [Consumer(channel, [Queue("events", routing_key="events")], callbacks=[self.take]),
                Consumer(channel, [Queue("unacknowledged", routing_key="unacknowledged")],
                         callbacks=[self.note], no_ack=True)]

    def take(self, body, message):
        self.note(body, message)
        message.ack()

    def note(self, body, message):
        counts.rpush("tried", body)
        if body == "SystemExit":
            raise SystemExit(3)
        if body in RAISED:
            raise RAISED[body]
        counts.rpush("taken", body)

app.steps["consumer"].add(Events)
"""


def publish_events(fleet: Fleet, queue: str, *bodies: str) -> None:
    with fleet.tasks.app.connection_for_write() as connection, connection.Producer() as producer:
        for each in bodies:
            producer.publish(each, routing_key=queue)


def taken(fleet: Fleet, key: str = "taken") -> Counter[str]:
    found: Any = fleet.tasks.counts.lrange(key, 0, -1)
    return Counter(found)


@pytest.mark.parametrize("queue", ["events", "unacknowledged"])
def test_what_a_consumer_of_the_app_raises_costs_only_its_message(fleet: Fleet, queue: str) -> None:
    raised = ["KeyError", "Weird", "MemoryError", "RecursionError", "OSError", "ConnectionError"]
    publish_events(fleet, queue, *(word for name in raised for word in (name, f"after {name}")))
    fleet.tasks.redis.lpush(queue, b"\xff no message")

    worker = fleet.start(concurrency=1, settings=extend(fleet, CONSUMER))
    wait_for(lambda: len(reasons(fleet, queue)) == 7, lambda: f"{reasons(fleet, queue)}", 60)

    assert taken(fleet) == Counter(f"after {name}" for name in raised)
    # What only something else may be the reason for is tried again.
    assert taken(fleet, "tried")["OSError"] == taken(fleet, "tried")["ConnectionError"] == 4
    assert taken(fleet, "tried")["KeyError"] == 1
    assert fleet.tasks.settle(fleet.tasks.send(3)).exactly_once
    assert fleet.tasks.left() == {f"dead_letter:{queue}": 7}
    assert worker.process.poll() is None


def test_a_message_that_ends_its_worker_ends_four_and_none_of_its_batch_is_lost(fleet: Fleet) -> None:
    settings = extend(fleet, CONSUMER)
    publish_events(fleet, "events", "SystemExit", "a", "b", "c")

    for _ in range(4):
        fleet.start(concurrency=1, settings=settings, ready=False).wait()
    fleet.start(concurrency=1, settings=settings)

    wait_for(lambda: taken(fleet) == Counter("abc"), lambda: f"{taken(fleet)}", 30)
    assert reasons(fleet, "events") == ["SystemExit: 3"]
    assert fleet.tasks.left() == {"dead_letter:events": 1}
    wait_for(lambda: fleet.tasks.redis.zcard("fleet:workers") == 1, "the last worker has no lease alone")


def test_an_unknown_task_costs_only_itself_while_the_server_of_results_is_away(
    new_fleet: NewFleet, redis_server_factory: RedisServerFactory
) -> None:
    server = redis_server_factory()
    fleet = new_fleet(
        {
            "worker_prefetch_multiplier": 30,
            "result_backend": server.url,
            "result_backend_always_retry": False,
            "redis_socket_connect_timeout": 1,
        }
    )
    good = fleet.tasks.send(10)
    fleet.tasks.send(1, name="nobody")
    good += fleet.tasks.send(30)
    server.kill()

    worker = fleet.start(concurrency=1)
    outcome = fleet.tasks.settle(good)

    assert outcome.exactly_once, outcome
    assert worker.process.poll() is None
    (reason,) = reasons(fleet)
    assert "nobody" in reason
    assert fleet.tasks.left() == {"dead_letter:celery": 1}


def test_messages_of_protocol_1_are_handled_like_others(fleet: Fleet) -> None:
    fleet.tasks.app.conf.task_protocol = 1
    good = fleet.tasks.send(2)
    fleet.tasks.send(1, name="nobody")
    good += fleet.tasks.send(2)

    fleet.start(concurrency=1)

    assert fleet.tasks.settle(good).exactly_once
    assert len(reasons(fleet)) == 1
