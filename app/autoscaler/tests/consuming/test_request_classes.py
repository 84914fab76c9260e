"""Each task of an app is counted, fenced and put aside like any other, however it was defined."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from celery_autoscaler.protocol.tallies import Tallies
from support.processes.counted_tasks import SHORT_LEASE, Fleet
from support.processes.launched_workers import APP
from support.processes.services import wait_for

# All the ways to define a task that Celery documents, and those of libraries that take its place. A task of
# each kind runs to its end, fails, or kills its process, as its argument says.
KINDS = '''

from celery import Celery, Task, shared_task
from celery import signals
from celery.utils.imports import symbol_by_name
from celery.worker.request import Request
from celery.worker.strategy import default, proto1_to_proto2


def work(what):
    if what == "fail":
        raise ValueError(what)
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)


class Base(Task):
    """A base class as Celery's guide has it."""


class Hearing(Request):
    """A request as Celery's guide has it, with names of its own and a signature that is not Celery's."""

    count = kind = runtime = ledger = "the app's own"

    def on_failure(self, exc_info, **options):
        counts.rpush("heard", f"{self.task_name} {self.count} {self.kind} {self.runtime} {self.ledger}")
        return super().on_failure(exc_info, **options)


@app.task(name="single.with_base", base=Base)
def with_base(what):
    work(what)


@app.task(name="single.with_request", Request=Hearing)
def with_request(what):
    work(what)


@app.task(name="single.with_request_by_name", Request="single:Hearing")
def with_request_by_name(what):
    work(what)


@shared_task(name="single.shared")
def shared(what):
    work(what)


class ClassBased(Task):
    name = "single.class_based"

    @property
    def Request(self):
        return "single:Hearing"

    def run(self, what):
        work(what)


app.register_task(ClassBased())


class Once(Task):
    """Such as libraries have that let a task wait only once."""

    def apply_async(self, *arguments, **options):
        return super().apply_async(*arguments, **options)

    def __call__(self, *arguments):
        return super().__call__(*arguments)


@app.task(name="single.once", base=Once)
def once(what):
    work(what)


def own_strategy(task, app, consumer):
    """Make requests as Celery does, but ask no task for the class."""
    from celery.worker.request import create_request_cls

    request_class = create_request_cls(Request, task, consumer.pool, consumer.hostname,
                                       consumer.event_dispatcher, app=app)

    def handle(message, body, ack, reject, callbacks, **_):
        request = request_class(
            message, on_ack=ack, on_reject=reject, app=app, hostname=consumer.hostname,
            eventer=consumer.event_dispatcher, task=task, connection_errors=consumer.connection_errors,
            body=message.body, headers=message.headers, decoded=False, utc=True,
        )
        from celery.worker.state import task_reserved
        task_reserved(request)
        consumer.on_task_request(request)

    return handle


@app.task(name="single.with_strategy", Strategy="single:own_strategy")
def with_strategy(what):
    work(what)


@signals.worker_init.connect
def _register_late(sender, **_):
    """Register a task after start-up, and with another base class for all tasks from now on."""
    app.Task = Base

    @app.task(name="single.late")
    def late(what):
        work(what)


class Batch(Task):
    """A task that runs for several messages at once, written after the interface of a library for that."""

    abstract = True

    def Strategy(self, task, app, consumer):
        from celery.worker.request import create_request_cls

        self.waiting, self.timer = [], None

        def flush():
            batch, self.waiting, self.timer = self.waiting, [], None
            if batch:
                consumer.pool.apply_async(
                    run_batch, ([request.id for request in batch],),
                    callback=lambda _: [request.acknowledge() for request in batch],
                )

        request_class = create_request_cls(
            symbol_by_name(task.Request), task, consumer.pool, consumer.hostname,
            consumer.event_dispatcher, app=app,
        )

        def handle(message, body, ack, reject, callbacks, **_):
            request = request_class(
                message, on_ack=ack, on_reject=reject, app=app, hostname=consumer.hostname,
                eventer=consumer.event_dispatcher, task=task, connection_errors=consumer.connection_errors,
                body=message.body, headers=message.headers, decoded=False, utc=True,
            )
            self.waiting.append(request)
            signals.task_received.send(sender=consumer, request=request)
            if self.timer is None:
                seconds = json.loads(os.environ["SETTINGS"]).get("flush", 0.5)
                self.timer = consumer.timer.call_after(seconds, flush)
            if len(self.waiting) == 3:
                flush()

        return handle


def run_batch(ids):
    for name in ids:
        counts.hincrby("ended", name)


@app.task(name="single.batch", base=Batch)
def batch(*_):
    """Never called."""
'''
DEFINED = (
    "with_base",
    "with_request",
    "with_request_by_name",
    "shared",
    "class_based",
    "once",
    "with_strategy",
    "late",
)


@pytest.fixture
def defined(redis_url: str, tmp_path: Path) -> Iterator[Fleet]:
    """Return a fleet of an app with tasks that are defined in all ways."""
    (tmp_path / "single.py").write_text(APP + KINDS)
    with Fleet(tmp_path, redis_url, None, {"worker_prefetch_multiplier": 4}, lease=SHORT_LEASE) as fleet:
        yield fleet
        print(fleet.tails())  # noqa: T201  pytest shows it with a failure only


def tallies(fleet: Fleet) -> dict[str, dict[str, int]]:
    """Return how the tasks of each name have ended."""
    (told,) = fleet.tasks.redis.hvals("fleet:task_counts:here")
    return {name: dict(tally.outcomes) for (name, _), tally in Tallies.load(told).items()}


@pytest.mark.versions
def test_every_kind_of_task_is_counted_and_calls_its_own_request(defined: Fleet) -> None:
    worker = defined.start()
    for name in DEFINED:
        for what in ("end", "fail"):
            defined.tasks.send(1, what, name=name)
    batch = defined.tasks.send(3, name="batch")
    defined.tasks.wait_until_ended(batch)
    wait_for(lambda: not defined.tasks.left(), lambda: f"left: {defined.tasks.left()}")
    assert worker.stop() == 0

    found = tallies(defined)
    assert found == {f"single.{name}": {"succeeded": 1, "failed": 1} for name in DEFINED}
    heard: Any = defined.tasks.counts.lrange("heard", 0, -1)
    own = "the app's own"
    assert sorted(heard) == [
        f"single.{name} {own} {own} {own} {own}"
        for name in ("class_based", "with_request", "with_request_by_name")
    ]
    assert (
        "Traceback" not in worker.output().replace("ValueError", "", 0) or "TypeError" not in worker.output()
    )


@pytest.mark.versions
def test_every_kind_of_task_becomes_a_dead_letter(defined: Fleet) -> None:
    defined.start(concurrency=4)
    poison = {name: defined.tasks.send(1, "die", name=name)[0] for name in DEFINED}

    def put_aside() -> list[str] | None:
        found: Any = defined.tasks.redis.lrange("dead_letter:celery", 0, -1)
        return found if len(found) == len(DEFINED) else None

    letters = [json.loads(letter) for letter in wait_for(put_aside, "some never become dead letters", 90.0)]
    assert {json.loads(letter["message"])["headers"]["id"] for letter in letters} == set(poison.values())
    assert {letter["redeliveries"] for letter in letters} == {3}


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_batch_of_a_worker_woken_after_its_lease_does_not_run(defined: Fleet, pool: str) -> None:
    defined.settings["flush"] = 2 * SHORT_LEASE
    frozen = defined.start("-P", pool, name="frozen")
    ids = defined.tasks.send(2, name="batch")
    wait_for(lambda: sorted(defined.tasks.held("frozen")) == ids, "the messages are not taken")
    frozen.freeze()
    defined.start("-P", pool, name="other")
    defined.tasks.wait_until_ended(ids, within=60.0)

    frozen.wake()

    assert frozen.wait() == os.EX_TEMPFAIL
    assert defined.tasks.ended() == dict.fromkeys(ids, 1)
