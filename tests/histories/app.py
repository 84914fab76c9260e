"""The Celery app of the histories. Its tasks record when they begin and how they end."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import redis
from celery import Celery, Task, bootsteps
from celery.exceptions import Ignore, Reject, Retry, SoftTimeLimitExceeded
from celery.signals import worker_ready
from celery.worker.request import Request
from kombu import Consumer, Exchange, Queue

QUEUES = ("celery", "second", "third")
EVENTS = "events"
NEWS = "news"
STREAM = "history"

app = Celery("histories", broker=os.environ.get("BROKER"), backend=os.environ.get("RESULTS"))
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
    task_queues=[
        *(Queue(name, Exchange(name), routing_key=name) for name in QUEUES),
        Queue(NEWS, Exchange(NEWS, type="fanout")),
    ],
    task_default_queue="celery",
    broker_transport_options={"visibility_timeout": 86_400},
)
app.conf.update(json.loads(os.environ.get("SETTINGS", "{}")))
# Children that are forked inherit it.
MAIN = os.getpid()
recorder = redis.Redis.from_url(os.environ.get("RECORDER", "redis://"))


def event(what: str, name: str, attempt: int, **more: str | int) -> dict[Any, Any]:
    """Return an event of this process."""
    return {"e": what, "id": name, "n": attempt, "pid": os.getpid(), "main": MAIN} | more


def record(what: str, name: str, attempt: int, **more: str | int) -> None:
    """Write one event down; the recorder's clock says when."""
    recorder.xadd(STREAM, event(what, name, attempt, **more))


@contextmanager
def recorded(task: Any) -> Iterator[None]:
    """Record when a run begins and how it ends, unless something ends its process."""
    name, attempt = str(task.request.id), int(task.request.retries)
    record("begun", name, attempt)
    outcome = "failed"
    try:
        yield
        outcome = "done"
    except Reject as error:
        outcome = "requeued" if vars(error)["requeue"] else "rejected"
        raise
    except (Ignore, Retry, SoftTimeLimitExceeded) as error:
        outcome = {Ignore: "ignored", Retry: "retried"}.get(type(error), "soft")
        raise
    finally:
        record("ended", name, attempt, outcome=outcome)


class Base(Task):  # type: ignore[type-arg]
    """A base class as the user's guide shows it."""


class OwnRequest(Request):  # type: ignore[misc]
    """A request of the app's own."""


class WithRequest(Task):  # type: ignore[type-arg]
    """A base class that names it."""

    Request = "histories.app:OwnRequest"


Body = TypeVar("Body", bound=Callable[..., Any])


def declared(**options: Any) -> Callable[[Body], Body]:
    """Declare a task under its function's name alone."""

    def declare(function: Body) -> Body:
        declare_in_app: Any = app.task(bind=True, name=function.__name__, **options)
        declare_in_app(function)
        return function

    return declare


def run(task: Any, seconds: float) -> None:
    """Take so long."""
    if not seconds:
        # One trip to the recorder: most tasks are of this kind.
        name, attempt = str(task.request.id), int(task.request.retries)
        with recorder.pipeline(transaction=False) as pipe:
            pipe.xadd(STREAM, event("begun", name, attempt))
            pipe.xadd(STREAM, event("ended", name, attempt, outcome="done"))
            pipe.execute()
        return
    with recorded(task):
        time.sleep(seconds)


@declared()
def plain(task: Any, seconds: float = 0.0, load: str = "") -> None:  # noqa: ARG001  it makes the message large
    """Take so long."""
    run(task, seconds)


@declared(acks_late=False)
def early(task: Any, seconds: float = 0.0) -> None:
    """Take so long, settled when begun."""
    run(task, seconds)


@declared(base=Base)
def own_base(task: Any, seconds: float = 0.0) -> None:
    """Take so long."""
    run(task, seconds)


@declared(base=WithRequest)
def own_request(task: Any, seconds: float = 0.0) -> None:
    """Take so long."""
    run(task, seconds)


@declared(rate_limit="40/s")
def limited(task: Any) -> None:
    """Run not too often."""
    run(task, 0.0)


@declared(ignore_result=False)
def stored(task: Any, *_: Any) -> str:
    """Return the own id."""
    run(task, 0.0)
    return str(task.request.id)


@declared(max_retries=10)
def retried(task: Any, times: int, countdown: float) -> None:
    """Try a number of times again."""
    with recorded(task):
        if task.request.retries < times:
            raise task.retry(countdown=countdown)


@declared(autoretry_for=(ValueError,), max_retries=10, retry_backoff=False, default_retry_delay=0)
def autoretried(task: Any, times: int) -> None:
    """Fail a number of times."""
    name, attempt = str(task.request.id), int(task.request.retries)
    record("begun", name, attempt)
    failing = attempt < times
    record("ended", name, attempt, outcome="retried" if failing else "done")
    if failing:
        raise ValueError("not yet")


@declared()
def requeued(task: Any, times: int) -> None:
    """Go back to the queue a number of times."""
    with recorded(task):
        if int(recorder.hincrby("requeued", task.request.id)) <= times:
            raise Reject("not yet", requeue=True)


@declared()
def rejected(task: Any) -> None:
    """Refuse the message."""
    with recorded(task):
        raise Reject("never", requeue=False)


@declared()
def ignored(task: Any) -> None:
    """Leave no state."""
    with recorded(task):
        raise Ignore


@declared()
def failing(task: Any) -> None:
    """Fail."""
    with recorded(task):
        raise ValueError("as it is meant to")


@declared()
def killed(task: Any) -> None:
    """Kill the process that runs it, as the kernel does when memory is short."""
    record("begun", str(task.request.id), 0)
    record("crash", str(task.request.id), 0)
    os.kill(os.getpid(), signal.SIGKILL)


@declared()
def exits(task: Any) -> None:
    """End the process that runs it."""
    record("begun", str(task.request.id), 0)
    record("crash", str(task.request.id), 0)
    os._exit(3)


@declared(soft_time_limit=1)
def soft(task: Any, seconds: float) -> None:
    """Meet the soft limit, or end before."""
    run(task, seconds)


class EventsStep(bootsteps.ConsumerStep):
    """A consumer of the app's own, beside Celery's."""

    def get_consumers(self, channel: Any) -> list[Any]:
        """Consume what other programs send."""
        return [Consumer(channel, [Queue(EVENTS, routing_key=EVENTS)], callbacks=[self.take])]

    def take(self, body: Any, message: Any) -> None:
        """Record it and settle it."""
        record("begun", str(body), 0)
        record("ended", str(body), 0, outcome="done")
        message.ack()


if os.environ.get("OWN_CONSUMER"):
    app.steps["consumer"].add(EventsStep)


@worker_ready.connect
def _say_ready(**_: Any) -> None:
    # Celery says it at a level at which it also names every task.
    print("ready.", file=sys.stderr, flush=True)  # noqa: T201
