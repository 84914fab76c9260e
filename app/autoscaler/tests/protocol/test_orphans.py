"""Records that belong to no worker are found and given back; those of living workers are left alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery_autoscaler.protocol import orphans
from celery_autoscaler.protocol.broker import Broker
from celery_autoscaler.protocol.keys import Keys, as_bytes
from celery_autoscaler.protocol.orphans import Searcher, forsaken
from celery_autoscaler.protocol.recovery import recover, recover_each
from redis import Redis
from support.processes.counted_tasks import SEPARATOR, Fleet
from support.processes.services import wait_for

LOST = "lost@gone:1"


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


def orphan(client: Any, keys: Keys, worker_id: str | bytes = LOST) -> None:
    """Record a message for a worker of which nothing else is known."""
    name = as_bytes(keys.unacked("")) + as_bytes(worker_id)
    client.hset(name, "000000000001.000", f"{keys.prefix}one\n{json.dumps({'properties': {}})}")


@pytest.mark.parametrize("prefix", ["", "[app]*?:"])
def test_a_record_of_no_worker_is_entered_and_rescued_like_others(client: Redis, prefix: str) -> None:
    keys = Keys(prefix)
    orphan(client, keys)
    orphan(client, keys, b"\xff\xfe@gone:1")
    client.set(f"{prefix}fleet:unacked:no hash", "x")
    client.zadd(keys.workers, {"alive@here:1": 10**15})
    orphan(client, keys, "alive@here:1")
    searcher = Searcher()

    searcher.search(client, keys)

    assert searcher.found == 2
    found: Any = client.zrange(keys.workers, 0, -1)
    assert set(found) == {b"alive@here:1", LOST.encode(), b"\xff\xfe@gone:1"}
    names = [LOST, b"\xff\xfe@gone:1".decode(errors="surrogateescape")]
    assert recover_each(Broker(client, keys, SEPARATOR), names) == 2
    assert client.llen(f"{prefix}one") == 2
    assert client.zrange(keys.workers, 0, -1) == [b"alive@here:1"]


def test_a_search_in_many_keys_goes_on_where_the_last_step_ended(
    client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client.pipeline() as pipe:
        for number in range(3000):
            pipe.set(f"key {number}", number)
        pipe.execute()
    orphan(client, Keys())
    monkeypatch.setattr(orphans, "NAMES", 500)
    steps = 0

    while client.zscore(Keys().workers, LOST) is None:
        client.delete(Keys().search_turn)
        Searcher().search(client, Keys())
        steps += 1

    assert steps <= 14


def test_a_step_is_the_only_one_of_the_fleet_for_a_while(client: Redis) -> None:
    Searcher().search(client, Keys())
    orphan(client, Keys())

    Searcher().search(client, Keys())

    assert client.zcard(Keys().workers) == 0


def test_a_search_that_the_server_does_not_answer_hurts_nobody(client: Redis) -> None:
    client.hset(Keys().search_position, "no", "position")

    Searcher().search(client, Keys())


def test_a_living_worker_is_never_taken_for_none(client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orphans, "LOOK_AGAIN", 0.1)
    orphan(client, Keys())
    client.hset(Keys().worker(LOST), "session", "1")

    assert forsaken(client, Keys()) == [LOST]
    assert recover(Broker(client, Keys(), SEPARATOR), LOST) is None
    assert client.hlen(Keys().unacked(LOST)) == 1


def test_workers_find_what_belongs_to_none_and_keep_what_is_theirs(fleet: Fleet) -> None:
    worker = fleet.start(concurrency=1)
    running = fleet.tasks.send(1, 4.0)
    fleet.tasks.wait_until_started(running)
    (lost,) = fleet.tasks.send(1)
    message: Any = fleet.tasks.redis.rpop("celery")
    fleet.tasks.redis.hset(f"fleet:unacked:{LOST}", "000000000001.000", f"celery\n{message}")
    fleet.tasks.redis.delete("fleet:workers")

    fleet.tasks.wait_until_ended([lost], within=60)

    outcome = fleet.tasks.settle([*running, lost])
    assert outcome.exactly_once, outcome
    wait_for(lambda: fleet.tasks.left() == {}, "something is left")
    assert f"The record of {LOST} belongs to no worker" in worker.output()
    assert "Fenced" not in worker.output()


def test_a_search_costs_little_where_there_are_many_keys(client: Redis) -> None:
    for first in range(0, 100_000, 10_000):
        client.mset({f"key {number}": 1 for number in range(first, first + 10_000)})
    client.config_resetstat()
    for _ in range(20):
        client.delete(Keys().search_turn)
        Searcher().search(client, Keys())

    stats: Any = client.info("commandstats")
    milliseconds = stats["cmdstat_evalsha"]["usec_per_call"] / 1000
    print(f"{milliseconds:.2f} ms of the server a step")  # noqa: T201
    assert milliseconds < 60
