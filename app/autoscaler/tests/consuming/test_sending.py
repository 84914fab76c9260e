"""What running tasks send while the broker is away, on real workers."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from celery import chain
from celery_autoscaler.consuming.sending import waiting
from redis import Redis
from support.processes.counted_tasks import Fleet, NewFleet
from support.processes.services import RedisServer, RedisServerFactory

DURABLE = ("--appendonly", "yes", "--appendfsync", "always", "--dir", "/tmp")  # noqa: S108
# Seconds for which the broker is away: longer than Celery tries.
AWAY = 3.0


def kill(server: RedisServer) -> Callable[[], None]:
    """Kill the server; return what brings it back."""
    server.crash()
    return server.restart


def fill(server: RedisServer) -> Callable[[], None]:
    """Leave the server no room; return what gives it back."""
    with Redis(port=server.port) as client:
        client.config_set("maxmemory", 1)

    def give_room() -> None:
        with Redis(port=server.port) as client:
            client.config_set("maxmemory", 0)

    return give_room


@pytest.mark.parametrize("take_away", [kill, fill])
@pytest.mark.parametrize("pool", ["prefork", "threads"])
@pytest.mark.versions
def test_retry_and_next_link_of_a_chain_wait_for_the_broker(
    redis_server_factory: RedisServerFactory,
    new_fleet: NewFleet,
    take_away: Callable[[RedisServer], Callable[[], None]],
    pool: str,
) -> None:
    server = redis_server_factory(*DURABLE)
    fleet: Fleet = new_fleet(broker_url=server.url)
    tasks = fleet.tasks
    fleet.start("-P", pool, concurrency=4)
    [retried] = tasks.send(1, 1.5, name="retry_late")
    [early] = tasks.send(1, 1.5, name="early_retry_late")
    links = [
        tasks.app.signature("single.count", args=(seconds,), immutable=True, task_id=name)
        for name, seconds in (("first", 1.5), ("second", 0.0))
    ]
    chain(*links, app=tasks.app).apply_async()
    tasks.wait_until_started([retried, early, "first"])

    give_back = take_away(server)
    time.sleep(AWAY)
    give_back()
    outcome = tasks.settle([retried, early, "first", "second"])

    assert not outcome.lost
    assert not outcome.ended_again


def test_publication_on_a_channel_that_kombu_has_closed_is_tried_again() -> None:
    app: Any = SimpleNamespace(current_worker_task=object())
    connection = SimpleNamespace(collect=lambda: None)
    producer = SimpleNamespace(connection=connection, _channel=SimpleNamespace(connection=None))
    producer.revive = lambda of: setattr(producer, "_channel", SimpleNamespace(connection=of))

    def send(producer: Any, *, retry: bool | None) -> Any:
        assert retry is None
        return producer._channel.connection.collect

    assert waiting(app, send)(producer) is connection.collect

    producer._channel = SimpleNamespace(connection=object())
    with pytest.raises(AttributeError):
        waiting(app, send)(producer)
