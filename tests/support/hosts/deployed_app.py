"""Send tasks to a deployed example project and see what becomes of them.

The test process takes the settings of the deployed app and then is a client like any other: it sends through
`tasks.app` and reads Redis and PostgreSQL with the app's own rights. One process can be the client of one
deployment only. A scenario's conftest.py says of which:

    @pytest.fixture(scope="session", autouse=True)
    def deployment() -> None:
        use_settings_of(Scenario("queues"))
"""

from __future__ import annotations

import inspect
import json
import os
import re
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from kombu import Connection, Producer
from redis import Redis
from tasks import app
from tasks.connections import client
from tasks.priority import queue_lengths
from tasks.queues import QUEUES, redis_keys
from tasks.settings import settings
from tasks.store import FAILURES, SUCCESSES

from support.hosts.scenario import Scenario, address
from support.processes.services import wait_for

WITHIN = 60.0  # seconds


def use_settings_of(scenario: Scenario) -> None:
    """Make this process a client of the scenario's app."""
    host = next(iter(scenario.hosts("workers").values()))
    text = str(host.check_output("celery-app env"))
    for name, other in scenario.hosts().items():
        # This machine does not resolve the hosts' names.
        text = re.sub(rf"(?<=[@=]){name}(?=[:/\n])", address(other), f"{text}\n")
    text = text.replace("/etc/ssl/celery-fleet/authority.pem", str(scenario.authority))
    os.environ.update(re.findall(r"(?m)^((?:CELERY|DB)_\w+)=(.*)$", text))
    app.loader.import_default_modules()


@cache
def redis() -> Redis:
    """Return a client of the broker."""
    return client(settings().celery_broker_url, decode_responses=True, client_name="test")


@dataclass(frozen=True)
class Batch:
    """Some tasks that differ in nothing but their ids."""

    task: str
    count: int = 1
    kwargs: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)  # of apply_async; none: the routes decide


def send(trace: str, *batches: Batch) -> list[str]:
    """Send the tasks one after the other; return their ids: `<trace>-0`, `<trace>-1` and so on.

    A task that can trace its executions does so under that name.
    """
    ids: list[str] = []
    with app.producer_pool.acquire() as producer:
        for batch in batches:
            task = app.tasks[batch.task]
            kwargs = batch.kwargs
            if "trace_key" in inspect.signature(task.run).parameters:
                kwargs = {"trace_key": trace, **kwargs}
            for _ in range(batch.count):
                task_id = f"{trace}-{len(ids)}"
                task.apply_async(kwargs=kwargs, task_id=task_id, producer=producer, **batch.options)
                ids.append(task_id)
    return ids


def publish_raw(queue: str, body: bytes, content_type: str, encoding: str, headers: dict[str, Any]) -> None:
    """Publish a message as a stranger could: any bytes, and any word for what they are."""
    with Connection(app.conf.broker_url, transport_options=app.conf.broker_transport_options) as connection:
        Producer(connection).publish(
            body,
            exchange=queue,
            routing_key=queue,
            content_type=content_type,
            content_encoding=encoding,
            headers=headers,
            priority=int(QUEUES[queue]),
            declare=[app.amqp.queues[queue]],
        )


def waiting() -> dict[str, list[dict[str, Any]]]:
    """Return the headers of the messages that wait, oldest first, by Redis list."""
    lists = {key: redis().lrange(key, 0, -1) for queue in QUEUES for key in redis_keys(queue)}
    return {
        key: [json.loads(message)["headers"] for message in reversed(messages)]
        for key, messages in lists.items()
        if messages
    }


def taken() -> int:
    """Return how many messages the workers hold, ours or plain: they execute them, or are about to."""
    records = redis().scan_iter(match="fleet:unacked:*", count=1000)
    return sum(redis().hlen(key) for key in ["unacked", *records])


def forget_messages() -> None:
    """Delete all messages that wait or that workers hold."""
    redis().delete("unacked", "unacked_index", *(key for queue in QUEUES for key in redis_keys(queue)))


def started(trace: str, count: int = 0, within: float = WITHIN) -> list[str]:
    """Wait until a number of executions have begun; return the ids in the order of their begin."""
    return _traced(f"{trace}:started", count, within)


def ended(trace: str, count: int = 0, within: float = WITHIN) -> list[str]:
    """Wait until a number of executions have ended; return the ids in the order of their end."""
    return _traced(f"{trace}:ended", count, within)


def executions(trace: str, count: int, within: float = WITHIN) -> dict[int, int]:
    """Wait until a number of executions have ended and no message is left that could cause another one.

    Returns:
        How many tasks began how often: `{1: 5000}`.
    """
    ended(trace, count, within)
    # A message is in one place or the other, and for a moment on its way from here to there: look twice.
    for _ in range(2):
        wait_for(lambda: not sum(queue_lengths().values()) and not taken(), "messages are left", within)
    return dict(Counter(Counter(started(trace)).values()))


def results(ids: list[str], within: float = WITHIN) -> dict[str, dict[str, Any]]:
    """Wait until all these tasks have ended; return the result of each, with state, worker and queue."""
    backend: Any = app.backend
    keys = [backend.get_key_for_task(task_id) for task_id in ids]

    def final() -> dict[str, dict[str, Any]] | None:
        found = [json.loads(result) for result in backend.mget(keys) if result]
        done = {result["task_id"]: result for result in found if result["status"] in {"SUCCESS", "FAILURE"}}
        return done if len(done) == len(ids) else None

    return wait_for(final, "tasks have no result", within)


def records(outcome: str, newest: str, within: float = WITHIN) -> list[dict[str, Any]]:
    """Wait until this task is among the "successes" or "failures"; return all their records, newest first."""
    key = {"successes": SUCCESSES, "failures": FAILURES}[outcome]

    def found() -> list[dict[str, Any]] | None:
        written = [json.loads(record) for record in redis().lrange(key, 0, -1)]
        return written if newest in {record["id"] for record in written} else None

    return wait_for(found, f"{newest} is not recorded", within)


def _traced(key: str, count: int, within: float) -> list[str]:
    wait_for(
        lambda: redis().llen(key) >= count, lambda: f"fewer than {count} ids in {key}; {_state()}", within
    )
    return [str(task_id) for task_id in redis().lrange(key, 0, -1)]


def _state() -> str:
    """Say in a few words where messages are and what the workers say of themselves."""
    said = {
        key.removeprefix("fleet:worker:"): redis().hmget(key, "state", "held", "running")
        for key in redis().scan_iter(match="fleet:worker:*", count=1000)
    }
    return f"{sum(queue_lengths().values())} wait, {taken()} are held; workers: {said}"
