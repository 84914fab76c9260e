"""The channel takes messages and records them in one step, on a real Redis."""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from celery.worker import state
from celery_autoscaler.consuming.channel import LOOK
from celery_autoscaler.consuming.fetch import FETCH
from celery_autoscaler.consuming.ledger import Ledger
from celery_autoscaler.consuming.transport import transport_for
from kombu import Connection, Consumer, Queue
from redis import Redis, ResponseError
from support.processes.counted_tasks import LEASE, Fleet
from support.processes.services import wait_for

WORKER = "tested@here:1"


class Taker:
    """A consumer as a worker has it, without the worker."""

    def __init__(self, url: str, queues: list[str], prefetch: int, **options: Any) -> None:
        self.ledger = Ledger(WORKER, 60.0)
        self.taken: list[str] = []
        transport = transport_for("redis", self.ledger)
        self.connection = Connection(url, transport=transport, transport_options=options)
        self.channel: Any = self.connection.channel()
        self.consumer = Consumer(
            self.channel,
            [Queue(name, routing_key=name) for name in queues],
            callbacks=[lambda body, _: self.taken.append(body)],
        )
        self.consumer.qos(prefetch_count=prefetch)

    def take(self, expected: int) -> list[str]:
        """Take what is expected and whatever else may be taken; return the bodies as they were delivered."""
        self.consumer.consume()

        def settled() -> bool:
            before = len(self.taken)
            with suppress(TimeoutError):
                self.connection.drain_events(timeout=0.4)
            return len(self.taken) == before >= expected

        wait_for(settled, f"{expected} messages do not come, or they come without an end")
        return self.taken


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    # A step over many lists holds the server up, on a busy machine for seconds.
    with Redis.from_url(redis_url, decode_responses=True, socket_timeout=60.0) as client:
        yield client


def publish(url: str, queue: str, *bodies: str, **options: Any) -> None:
    """Send messages as a plain producer does."""
    priority = options.pop("priority", 0)
    with Connection(url, transport_options=options) as connection, connection.Producer() as producer:
        for body in bodies:
            producer.publish(
                body, routing_key=queue, priority=priority, declare=[Queue(queue, routing_key=queue)]
            )


@pytest.mark.versions
def test_a_step_takes_the_urgent_first_and_the_queues_in_turn(redis_url: str) -> None:
    steps = {"priority_steps": [0, 5]}
    publish(redis_url, "one", "late 1", "late 2", priority=5, **steps)
    publish(redis_url, "one", "one 1", "one 2", "one 3", **steps)
    publish(redis_url, "two", "two 1", "two 2", "two 3", **steps)

    taken = Taker(redis_url, ["one", "two"], 7, **steps).take(7)

    assert sorted(taken[:6]) == ["one 1", "one 2", "one 3", "two 1", "two 2", "two 3"]
    assert [body.split()[0] for body in taken[:6]] in (["one", "two"] * 3, ["two", "one"] * 3)
    assert taken[6:] == ["late 1"]


@pytest.mark.versions
def test_no_more_is_taken_than_the_prefetch_count_allows(redis_url: str, client: Redis) -> None:
    publish(redis_url, "one", *"abcdef")

    taker = Taker(redis_url, ["one"], 4)

    assert taker.take(4) == list("abcd")
    assert client.llen("one") == 2
    assert client.hlen(f"fleet:unacked:{WORKER}") == 4


def test_a_loop_without_a_hub_hears_soon_that_its_worker_stops(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taker = Taker(redis_url, ["one"], 4)
    taker.consumer.consume()
    monkeypatch.setattr(state, "should_stop", os.EX_OK)

    began = time.monotonic()
    with pytest.raises(TimeoutError):
        taker.connection.drain_events(timeout=60.0)
    assert time.monotonic() - began < 3 * LOOK


def test_a_message_whose_reply_was_lost_is_put_back_at_the_next_session(
    redis_url: str, client: Redis
) -> None:
    publish(redis_url, "one", "first", "second")
    message: Any = client.rpop("one")
    client.hset(f"fleet:unacked:{WORKER}", "000000000001.000", f"one\n{message}")

    taker = Taker(redis_url, ["one"], 10)

    assert taker.take(2) == ["first", "second"]
    assert client.hlen(f"fleet:unacked:{WORKER}") == 2


@pytest.mark.versions
def test_a_connection_in_the_place_of_another_is_told_of_changes_as_well(redis_url: str) -> None:
    taker = Taker(redis_url, ["one"], 10)
    assert taker.take(0) == []
    taker.channel.client.connection.disconnect()

    def tracked() -> bool:
        with suppress(TimeoutError):
            taker.connection.drain_events(timeout=0.4)
        sock = taker.channel.client.connection._sock
        return sock is not None and taker.channel._tracked is sock

    wait_for(tracked, "the server tells the new connection nothing", 30.0)


@pytest.mark.parametrize("situation", ["an older session", "no lease"])
def test_who_has_no_right_to_takes_nothing(redis_url: str, client: Redis, situation: str) -> None:
    taker = Taker(redis_url, ["one"], 1)
    assert taker.take(0) == []
    old = str(taker.ledger.sessions)
    taker.ledger.open_session()
    if situation == "no lease":
        old = str(taker.ledger.sessions)
        client.delete(f"fleet:worker:{WORKER}")
    publish(redis_url, "one", "message")

    with pytest.raises(ResponseError, match="FENCED"):
        client.eval(
            FETCH, 3, f"fleet:worker:{WORKER}", f"fleet:unacked:{WORKER}", "one", old, 1, 1, 1, "token."
        )

    assert client.llen("one") == 1
    assert client.hlen(f"fleet:unacked:{WORKER}") == 0


def test_queues_and_priority_steps_may_be_many(redis_url: str, client: Redis) -> None:
    steps = {"priority_steps": list(range(10)), "global_keyprefix": "[app]:"}
    queues = [f"queue{number}" for number in range(900)]
    for step in (9, 0):
        for queue in (queues[0], queues[450], queues[899]):
            publish(redis_url, queue, f"{queue} {step}", priority=step, **steps)
    taker = Taker(redis_url, queues, 100, **steps)
    client.set("[app]:queue7", "no list")
    begin = time.monotonic()
    taken = taker.take(6)

    print(f"{len(taken)} messages in {time.monotonic() - begin:.2f} s")  # noqa: T201
    assert [body.split()[1] for body in taken] == ["0"] * 3 + ["9"] * 3
    assert client.hlen(f"[app]:fleet:unacked:{WORKER}") == 6


def test_a_list_with_a_line_feed_in_its_name_gets_its_messages_back(redis_url: str, client: Redis) -> None:
    publish(redis_url, "one\nmore", "message")
    taker = Taker(redis_url, ["one\nmore"], 1)
    taker.take(1)

    taker.ledger.close()

    assert client.llen("one\nmore") == 1
    assert client.keys("fleet:*") == []


@pytest.mark.celery(5, 6)
def test_nothing_waits_behind_running_tasks_where_prefetching_is_disabled(fleet: Fleet) -> None:
    fleet.start(concurrency=2, settings={"worker_disable_prefetch": True, "worker_prefetch_multiplier": 4})
    ids = fleet.tasks.send(10, 0.2)
    held = 0

    def all_ended() -> bool:
        nonlocal held
        held = max(held, len(fleet.tasks.held("w1")))
        return len(fleet.tasks.ended()) == len(ids)

    wait_for(all_ended, "some tasks have not ended")

    assert held == 2
    assert fleet.tasks.outcome(ids).exactly_once


def test_an_idle_worker_asks_little(fleet: Fleet) -> None:
    fleet.lease = LEASE
    worker = fleet.start(concurrency=1)
    fleet.tasks.settle(fleet.tasks.send(3))
    fleet.tasks.redis.config_resetstat()
    begin = time.monotonic()

    wait_for(lambda: time.monotonic() - begin > 5, "time stands still")

    stats: Any = fleet.tasks.redis.info("commandstats")
    calls = sum(stat["calls"] for stat in stats.values())
    rate = calls / (time.monotonic() - begin)
    print(f"{rate:.1f} commands a second", json.dumps({name: stat["calls"] for name, stat in stats.items()}))  # noqa: T201
    assert rate < 25
    assert worker.process.poll() is None


def test_an_idle_worker_begins_as_soon_as_a_plain_one(fleet: Fleet) -> None:
    fleet.start("-Q", "ours", concurrency=1, ready=False)
    fleet.start("-Q", "plain", concurrency=1, plain=True)
    fleet.workers[0].wait_until_ready()
    delays: dict[str, list[float]] = {"ours": [], "plain": []}

    for _ in range(25):
        for queue, found in delays.items():
            sent = time.time()
            (task_id,) = fleet.tasks.send(1, 0.0, queue=queue)
            fleet.tasks.wait_until_ended([task_id])
            found.append(float(str(fleet.tasks.counts.hget("at", task_id))) - sent)

    median = {queue: 1000 * statistics.median(found) for queue, found in delays.items()}
    quarters = statistics.quantiles(delays["plain"], n=4)
    noise = 1000 * (quarters[2] - quarters[0])
    print(f"ours {median['ours']:.1f} ms, plain {median['plain']:.1f} ms, noise {noise:.1f} ms")  # noqa: T201
    assert median["ours"] < median["plain"] + 5 + 3 * noise
