"""Importing this module makes the Celery command of this process tell systemd what it does."""

from typing import Any

from celery.signals import beat_init, worker_init, worker_ready, worker_shutting_down

from celery_autoscaler.consuming import garbage
from celery_autoscaler.protocol.systemd import notify

# Whether this process is a worker: beat within one (`worker -B`) is not what its service waits for.
_within_worker = False


@worker_init.connect
def _worker_begins(**_: Any) -> None:
    global _within_worker  # noqa: PLW0603
    _within_worker = True


@worker_ready.connect
def _worker_consumes(sender: Any, **_: Any) -> None:
    garbage.work()
    queues = ", ".join(sorted(sender.app.amqp.queues.consume_from))
    notify("READY=1", f"STATUS=consuming {queues}")


@worker_shutting_down.connect
def _worker_stops(how: str, **_: Any) -> None:
    notify("STOPPING=1", f"STATUS={how.lower()} shutdown: running tasks are finished first")


@beat_init.connect
def _beat_begins(**_: Any) -> None:
    garbage.work()
    if not _within_worker:
        notify("READY=1", "STATUS=sending due tasks, or waiting for the schedule's lock")
