"""Whatever stands in Redis, a supervisor goes on: what it cannot read it names once, counts and shows."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery_autoscaler.operations.overrides import Sender, change, paused
from celery_autoscaler.protocol.bounded_hash import MOST_FIELDS
from celery_autoscaler.protocol.broker import Broker, connect
from celery_autoscaler.protocol.description import describe
from celery_autoscaler.settings import Group, Settings
from celery_autoscaler.supervisor.history import read as read_history
from celery_autoscaler.supervisor.loop import Supervisor
from celery_autoscaler.supervisor.observation import Observer
from redis import Redis
from support.processes.services import wait_for
from support.processes.supervisors import GROUP, SupervisedFleet

DEEP = "[" * 100_000 + "]" * 100_000
HUGE = "1" + "0" * 400
NO_UTF8 = b"\xff\xfe"
# Values that are none of ours, wherever they stand.
STRANGE: tuple[bytes | str, ...] = (
    "", "no json", "null", "[]", "{}", "1", '"x"', DEEP, '{"a":' * 5000, HUGE, "NaN", "Infinity", "-1",
    NO_UTF8, "\x00", "x" * 2_000_000, '{"min_workers": "x"}',
    '{"min_workers": 1e400}', '[["t", "q", {}, [], 0]]',
)  # fmt: skip


@pytest.fixture
def fleet(redis_url: str, tmp_path: Path) -> Iterator[SupervisedFleet]:
    """Return a fleet; a failed test shows what its supervisors printed."""
    with ExitStack() as stack:
        fleet = stack.enter_context(SupervisedFleet(tmp_path, redis_url, redis_url.replace("/0", "/1")))
        stack.callback(lambda: print(fleet.tails()))  # noqa: T201  pytest shows it with a failure only
        yield fleet


@pytest.fixture
def broker(redis_url: str) -> Iterator[Broker]:
    """Return the broker of an app."""
    with Celery("proj", broker=redis_url, set_as_current=False) as app:
        yield connect(app)


def spoil_everything(redis: Any, worker_id: str) -> None:
    """Write what nobody of ours writes under the keys of a fleet that runs."""
    later = (time.time() + 3600) * 1000
    for number, value in enumerate(STRANGE):
        redis.hset("fleet:overrides", f"strange-{number}", value)
        redis.hset("fleet:task_counts:here", f"default-{number}@here:1", value)
        redis.hset(f"fleet:supervisor:peer-{number}", mapping={"weight": value, "limits": value})
        redis.zadd("fleet:supervisors", {f"peer-{number}": later})
        fields = dict.fromkeys(("pid", "active", "taken", "tasks", "running", "next_eta", "queues"), value)
        redis.hset(f"fleet:worker:other-{number}@there:1", mapping={"state": "running", **fields})
        redis.zadd("fleet:workers", {f"other-{number}@there:1": later})
    for key in ("fleet:workers", "fleet:supervisors", f"fleet:claims:{GROUP}"):
        redis.zadd(key, {NO_UTF8: later, "no name of a worker": float("inf"), "x" * 2000: later})
    for key in ("fleet:drain", "fleet:replace"):
        redis.sadd(key, NO_UTF8, "x" * 2000)
    redis.hset("fleet:leaving", mapping={NO_UTF8: "ann", "nobody": NO_UTF8})
    redis.hset("fleet:overrides", GROUP, json.dumps({"min_workers": 10**9, "max_workers": 10**9}))
    redis.hset("fleet:overrides", NO_UTF8, "{}")
    redis.hset("fleet:task_counts:here", NO_UTF8, "[]")
    # A real worker tells what cannot be.
    redis.hset(f"fleet:worker:{worker_id}", mapping={"pid": "x", "active": HUGE, "taken": "no json"})
    redis.set("fleet:worker:typed-1@there:1", "a string")
    redis.zadd("fleet:workers", {"typed-1@there:1": later})


def test_whatever_stands_under_its_keys_a_supervisor_goes_on(fleet: SupervisedFleet, redis_url: str) -> None:
    supervisor = fleet.start(group={"max_workers": 2})
    [worker] = fleet.wait_for_workers(1)
    [worker_id] = [str(name) for name in fleet.tasks.redis.zrange("fleet:workers", 0, -1)]
    with Redis.from_url(redis_url) as redis:
        spoil_everything(redis, worker_id)
        # The next decision is carried out: more workers come, the load is done, they go again.
        ids = fleet.tasks.send(40, 0.2)
        fleet.tasks.wait_until_ended(ids)

        def named() -> dict[str, Any] | None:
            found: dict[str, Any] = fleet.status("here").get("unreadable", {})
            return (
                found
                if {"worker", "supervisor", "claim", "override", "task counts"} <= found.keys()
                else None
            )

        found = wait_for(named, "some kinds are not named")

    assert {"name": worker, "state": "ready"}.items() <= fleet.status("here")["workers"][0].items()
    assert supervisor.process.poll() is None
    assert found["override"]["count"] >= len(STRANGE)
    assert any(name.startswith(f"{GROUP}: min_workers: ") for name in found["override"]["names"])
    output = supervisor.output()
    assert output.count(f"Unreadable override, ignored: {GROUP}: ") == 1
    assert not [line for line in output.splitlines() if line.startswith("Traceback")]
    assert fleet.status("here")["faults"] == {}


WRONG_TYPES = (
    *("workers", "supervisors", "drain", "replace", "leaving", "overrides", "decisions", "history"),
    *(f"claims:{GROUP}", "supervisor:here", "task_counts:here"),
)


def test_keys_of_another_type_are_set_aside_and_the_fleet_goes_on(fleet: SupervisedFleet) -> None:
    supervisor = fleet.start(group={"max_workers": 2})
    fleet.wait_for_workers(1)
    redis: Any = fleet.tasks.redis
    with redis.pipeline() as pipe:
        for name in WRONG_TYPES:
            pipe.delete(f"fleet:{name}").set(f"fleet:{name}", "a string")
        pipe.rename("dead_letter:celery", "x") if redis.exists("dead_letter:celery") else None
        pipe.set("dead_letter:celery", "a string")
        pipe.execute()

    def set_aside() -> bool:
        kept = {key.removeprefix("fleet:set_aside:") for key in redis.keys("fleet:set_aside:*")}
        return kept >= {*WRONG_TYPES} - {"history"}

    # The next decision is written as well as carried out.
    ids = fleet.tasks.send(120, 0.2)
    wait_for(set_aside, "some are not set aside", 45.0)
    fleet.tasks.wait_until_ended(ids)
    assert len({str(name) for name in fleet.tasks.counts.hvals("by")}) == 2
    assert redis.get("fleet:set_aside:overrides") == "a string"
    assert "it held another type, and was renamed to fleet:set_aside:overrides" in supervisor.output()
    assert any("dead_letter:celery" in name for name in fleet.status("here")["unreadable"]["list"]["names"])
    change(connect(fleet.tasks.app), GROUP, Sender("test"), min_workers=2)
    wait_for(lambda: fleet.status("here")["groups"][GROUP]["min_workers"] == 2, "no override is in force")


def test_bounds_that_cannot_be_together_are_ignored_and_named(redis_url: str) -> None:
    groups = {"web": Group(name="web", queues=("celery",), min_workers=0, max_workers=4)}
    with Celery("proj", broker=redis_url, set_as_current=False) as app:
        supervisor = Supervisor(describe(app, "proj"), Settings(groups=groups, hostname="here"))
        broker = supervisor.broker
        change(broker, "web", Sender("ann"), min_workers=9, paused=True)
        change(broker, "nosuch", Sender("ann"), min_workers=1)
        supervisor.tick()
        supervisor.launcher.close()

    status = supervisor.status
    assert (status.groups["web"].min_workers, status.groups["web"].max_workers) == (0, 4)
    assert status.state == "paused"
    names = status.unreadable["override"].names
    assert "web: min_workers 9 is more than max_workers 4: both are ignored" in names
    assert any(name.startswith("nosuch: there is no such group") for name in names)


def test_messages_that_are_no_tasks_are_named_once_and_wait_like_others(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    groups = {"web": Group(name="web", queues=("celery",), min_workers=0)}
    strange = ['{"eta":' + DEEP + "}", "no json", NO_UTF8, '{"headers": {"eta": "soon"}}', "1", HUGE]
    with Celery("proj", broker=redis_url, set_as_current=False) as app:
        supervisor = Supervisor(describe(app, "proj"), Settings(groups=groups, hostname="here"))
        supervisor.broker.client.lpush("celery", *strange)
        for _ in range(2):
            supervisor.broker.client.lpush("celery", "{}")
            supervisor.tick()
        supervisor.launcher.close()

    status = supervisor.status
    assert status.groups["web"].waiting == len(strange) + 2
    assert status.unreadable["message"].count == 1
    [name] = status.unreadable["message"].names
    assert name.startswith(
        f"celery: {len(strange) + 2} of {len(strange) + 2} messages looked at are no tasks"
    )
    [line] = [record.message for record in caplog.records if "Unreadable message" in record.message]
    assert line.endswith("messages looked at are no tasks: it has no headers")


def test_an_override_that_cannot_be_read_is_replaced_by_the_next(broker: Broker) -> None:
    for number, value in enumerate(STRANGE):
        broker.client.hset(broker.keys.overrides, f"g{number}", value)
        assert change(broker, f"g{number}", Sender("ann"), min_workers=2).min_workers == 2
    broker.client.hset(broker.keys.overrides, NO_UTF8, DEEP)
    change(broker, "web", Sender("ann"), paused=True)

    assert paused(broker) == {"web"}


def test_huge_values_are_not_fetched(broker: Broker) -> None:
    keys, client = broker.keys, broker.client
    observer = Observer(broker, [Group(name="web", queues=("celery",))])
    client.hset(keys.overrides, mapping={"web": '{"paused": true}', "huge": "x" * 20_000_000})
    client.hset(keys.leaving, mapping={"there": "x" * 20_000_000, "here": "ann"})
    observer.look()
    before = int(client.info("stats")["total_net_output_bytes"])

    seen = observer.look()

    assert int(client.info("stats")["total_net_output_bytes"]) - before < 500_000
    assert (list(seen.overrides), seen.leaving) == (["web"], {"here": "ann"})
    assert {(refusal.kind, refusal.name) for refusal in seen.refusals} == {
        ("override", "'huge'"), ("leaving host", "'there'")
    }  # fmt: skip
    client.hset(keys.leaving, mapping={str(number): "ann" for number in range(MOST_FIELDS)})
    assert observer.look().leaving == {}


def test_large_messages_are_not_fetched_to_learn_their_eta(broker: Broker, redis_url: str) -> None:
    with Celery("proj", broker=redis_url, set_as_current=False) as app:
        for _ in range(30):
            app.send_task("t", ["x" * 1_500_000], queue="celery", ignore_result=True, countdown=3600)
    observer = Observer(broker, [Group(name="web", queues=("celery",))])

    def sent() -> int:
        return int(broker.client.info("stats")["total_net_output_bytes"])

    observer.look()
    broker.client.lpush("celery", "{}")
    before = sent()
    [found] = [item for item in observer.look().lists if item.length]
    fetched = sent() - before

    assert (found.length, found.future) == (31, 31 - round(31 / 5)) or found.future >= 20
    assert found.next_eta == pytest.approx(time.time() + 3600, abs=120)
    assert fetched < 500_000


def test_records_of_the_history_that_cannot_be_read_are_left_out(broker: Broker) -> None:
    key = broker.keys.history
    good = "1 0 0 4 12 1.5"
    for value in (*STRANGE, good):
        broker.client.xadd(key, {"web": value, b"\xff": good})

    found = read_history(broker, 600.0)

    assert list(found) == ["web"]
    assert found["web"]["waiting"] == [12.0]
