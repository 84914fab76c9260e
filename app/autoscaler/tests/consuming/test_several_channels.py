"""A worker with consumers, exchanges and connections of the app's own keeps each message apart."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest
from kombu import Exchange, Queue
from support.processes.counted_tasks import Fleet, NewFleet
from support.processes.services import RedisServerFactory, wait_for

QUEUES = [
    Queue("celery", Exchange("celery", "direct"), routing_key="celery"),
    Queue("logs", Exchange("logs", "topic"), routing_key="logs.#"),
    Queue("news", Exchange("news", "fanout")),
]
EXCHANGES = """
from kombu import Exchange, Queue
from single import app

app.conf.task_queues = [
    Queue("celery", Exchange("celery", "direct"), routing_key="celery"),
    Queue("logs", Exchange("logs", "topic"), routing_key="logs.#"),
    Queue("news", Exchange("news", "fanout")),
]
"""
STEP = """
from celery import bootsteps
from kombu import Consumer, Queue
from single import app, counts

class Events(bootsteps.ConsumerStep):
    def get_consumers(self, channel):
        return [Consumer(channel, [Queue("events", routing_key="events")], callbacks=[self.take])]

    def take(self, body, message):
        counts.rpush("taken", body)
        message.ack()

app.steps["consumer"].add(Events)
"""
RETRY = """
import time
from single import app, begin, end

@app.task(bind=True, name="single.again")
def again(task):
    begin(task)
    if task.request.retries == 0:
        time.sleep(1.5)
        raise task.retry(countdown=0.1)
    end(task)
"""


def extend(fleet: Fleet, code: str) -> dict[str, Any]:
    """Give the app more code; return the settings that import it."""
    (fleet.folder / "more.py").write_text(code)
    return {"imports": ["more"]}


def listed_clients(client: Any) -> list[dict[str, str]]:
    """Return the connections of the server."""
    found: list[dict[str, str]] = client.client_list()
    return found


def drop_connections(client: Any) -> None:
    """End the connections to the broker's database; events are noted in another."""
    own = str(client.client_id())
    for each in listed_clients(client):
        if each["db"] == "0" and each["id"] != own:
            client.client_kill_filter(_id=each["id"])


def taken(fleet: Fleet) -> Counter[str]:
    """Return how often each event was taken."""
    found: Any = fleet.tasks.counts.lrange("taken", 0, -1)
    return Counter(found)


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_broadcasts_and_topics_run_like_other_tasks(fleet: Fleet, pool: str) -> None:
    tasks, settings = fleet.tasks, extend(fleet, EXCHANGES)
    workers = fleet.start_several(2, "-P", pool, concurrency=1, settings=settings)
    # A broadcast reaches who listens: each worker does so for remote control and for its queue.
    wait_for(
        lambda: sum(client["psub"] != "0" for client in listed_clients(tasks.redis)) == 4,
        "they do not listen",
    )
    tasks.app.conf.task_queues = QUEUES
    tasks.app.amqp.flush_routes()
    tasks.redis.publish("/0.news", "no message")

    # More than the workers may hold.
    news = [task for _ in range(3) for task in tasks.send(4, queue="news")]
    others = tasks.send(5) + tasks.send(5, queue="logs", routing_key="logs.web.errors")

    wait_for(lambda: [tasks.ended()[name] for name in news] == [2] * len(news), lambda: f"{tasks.ended()}")
    assert tasks.settle(others).exactly_once
    assert tasks.left() == {}
    for worker in workers:
        assert worker.process.poll() is None
        assert worker.stop() == 0


def test_channels_of_one_worker_never_take_each_other_s_messages_for_lost(new_fleet: NewFleet) -> None:
    fleet = new_fleet({"worker_prefetch_multiplier": 4})
    tasks = fleet.tasks
    worker = fleet.start("--without-mingle", concurrency=1, gossip=True, settings=extend(fleet, STEP))
    ids, events, queue = [], [], Queue("events", routing_key="events")
    with tasks.app.connection_for_write() as connection, connection.Producer() as producer:
        for number in range(60):
            ids += tasks.send(1)
            events.append(f"event {number}")
            producer.publish(events[-1], routing_key="events", declare=[queue], retry=True)
            if number % 20 == 10:
                drop_connections(tasks.redis)
            time.sleep(0.03)

    assert tasks.settle(ids).exactly_once
    wait_for(lambda: taken(fleet).keys() == set(events), lambda: f"{taken(fleet)}")
    assert set(taken(fleet).values()) == {1}
    assert tasks.left() == {}

    # Idle, they ask little.
    tasks.redis.config_resetstat()
    begin = time.monotonic()
    wait_for(lambda: time.monotonic() - begin > 4, "time stands still")
    stats: Any = tasks.redis.info("commandstats")
    rate = sum(stat["calls"] for stat in stats.values()) / (time.monotonic() - begin)
    assert rate < 50, stats
    assert worker.process.poll() is None


def test_a_consumer_of_the_app_that_holds_much_leaves_tasks_their_prefetch(fleet: Fleet) -> None:
    tasks = fleet.tasks
    keep = "self.held = [*getattr(self, 'held', []), message]"
    settings, queue = (
        extend(fleet, STEP.replace("message.ack()", keep)),
        Queue("events", routing_key="events"),
    )
    worker = fleet.start(concurrency=1, settings=settings)
    with tasks.app.connection_for_write() as connection, connection.Producer() as producer:
        for number in range(50):
            producer.publish(f"{number}", routing_key="events", declare=[queue])
    wait_for(lambda: len(taken(fleet)) == 50, lambda: f"{taken(fleet)}")

    assert tasks.settle(tasks.send(10), patience=5).exactly_once
    # What it never acknowledged comes back when the worker ends.
    assert worker.stop() == 0
    assert tasks.left() == {"events": 50}


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_limit_of_one_connection_is_enough(new_fleet: NewFleet, pool: str) -> None:
    fleet = new_fleet({"broker_transport_options": {"max_connections": 1}, "worker_prefetch_multiplier": 4})
    worker = fleet.start("-P", pool, settings=extend(fleet, STEP + EXCHANGES))

    ids = fleet.tasks.send(40)

    assert fleet.tasks.settle(ids).exactly_once
    assert "Connection to broker lost" not in worker.output()
    assert worker.stop() == 0
    assert fleet.tasks.left() == {}


def test_a_task_that_retries_while_the_broker_is_away_is_not_lost(
    new_fleet: NewFleet, redis_server_factory: RedisServerFactory
) -> None:
    server = redis_server_factory("--appendonly", "yes", "--appendfsync", "always")
    fleet = new_fleet(broker_url=server.url)
    fleet.start(concurrency=1, settings=extend(fleet, RETRY))
    (task_id,) = fleet.tasks.send(1, name="again")
    fleet.tasks.wait_until_started([task_id])

    server.crash()
    time.sleep(4.0)
    server.restart()

    fleet.tasks.wait_until_ended([task_id])
    wait_for(lambda: fleet.tasks.left() == {}, lambda: f"{fleet.tasks.left()}")
