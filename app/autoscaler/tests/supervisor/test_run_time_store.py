"""Run times in Redis: kept for the next supervisor, and read whatever stands there."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
from celery import Celery
from celery_autoscaler.protocol.description import describe
from celery_autoscaler.protocol.ended import Ended
from celery_autoscaler.protocol.peers import PeerSeen
from celery_autoscaler.settings import Group, Settings
from celery_autoscaler.supervisor.context import Context
from celery_autoscaler.supervisor.group_state import GroupState
from celery_autoscaler.supervisor.launchers.process import ProcessLauncher
from celery_autoscaler.supervisor.observation import FleetSeen, Observer
from celery_autoscaler.supervisor.policy.law import GroupPolicy
from celery_autoscaler.supervisor.policy.run_times import REMEMBERED_SECONDS
from celery_autoscaler.supervisor.run_time_store import EVERY_SECONDS, MOST_RECORDS, RunTimeStore

GROUP = Group(name="default", queues=("celery",))
KEY = "fleet:run_times:default"


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    """Return an app on the session's Redis."""
    with Celery("proj", broker=redis_url, set_as_current=False) as app:
        yield app


def supervising(app: Celery) -> Context:
    """Return the state of a supervisor that has just started."""
    described = describe(app, "proj")
    settings = Settings(groups={"default": GROUP}, hostname="here")
    context = Context(described, settings, ProcessLauncher(described, "here"))
    context.groups = {"default": GroupState(GROUP, GroupPolicy())}
    return context


def look(context: Context, after: float = 0.0) -> FleetSeen:
    """Return what a single supervisor sees, that number of seconds from now."""
    seen = Observer(context.broker, [GROUP]).look()
    return replace(seen, time=seen.time + after, peers=[PeerSeen("here", 1.0, {})])


def test_run_times_outlive_the_supervisor(app: Celery) -> None:
    first = supervising(app)
    store = RunTimeStore(first)
    store.update(look(first))
    now = time.time() + 1
    times = first.groups["default"].run_times
    times.update(now, {"w": {}})
    times.update(now, {"w": {"report": Ended(50, 1.0, 0.02), "naïve \u2603": Ended(1, 3.0, 9.0)}})
    store.update(look(first, EVERY_SECONDS + 1))

    second = supervising(app)
    RunTimeStore(second).update(look(second))

    known = second.groups["default"].run_times.by_name()
    assert known == pytest.approx({"report": 0.02, "naïve \u2603": 3.0})
    assert 0 < first.broker.client.ttl(KEY) <= REMEMBERED_SECONDS


def test_records_that_cannot_be_read_are_dropped_and_the_others_used(app: Celery) -> None:
    context = supervising(app)
    good = json.dumps([10, 5.0, time.time()])
    context.broker.client.hset(KEY, mapping={b"\xff": "x", "odd": "[1]", "deep": "[" * 5000, "good": good})

    RunTimeStore(context).update(look(context))

    assert context.groups["default"].run_times.by_name() == {"good": 0.5}
    assert context.broker.client.hkeys(KEY) == [b"good"]


def test_a_key_of_another_type_or_of_too_many_records_is_not_used(app: Celery) -> None:
    context = supervising(app)
    context.broker.client.set(KEY, "text")
    RunTimeStore(context).update(look(context))
    assert not context.broker.client.exists(KEY)

    records = {f"task-{n}": json.dumps([10, 5.0, time.time()]) for n in range(MOST_RECORDS + 1)}
    context.broker.client.hset(KEY, mapping=records)
    RunTimeStore(context).update(look(context))

    assert context.groups["default"].run_times.by_name() == {}
    assert not context.broker.client.exists(KEY)
