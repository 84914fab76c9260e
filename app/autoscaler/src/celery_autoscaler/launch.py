"""Run a Celery command as a systemd service.

``python -m celery_autoscaler.launch -A proj worker …`` is ``celery -A proj worker …`` with a worker that
loses no task (:mod:`celery_autoscaler.worker`). It tells systemd (``Type=notify``) when the service does its
work: a worker when it consumes, beat when its service has begun. With ``CELERY_APP_PLAIN_WORKERS=true`` in
the environment the worker is plain Celery's.
"""

import importlib
import os
import sys
from typing import Any

from celery.bin.celery import main as celery_main
from celery.signals import beat_init, worker_ready, worker_shutting_down

from celery_autoscaler.systemd import notify


@worker_ready.connect
def _worker_consumes(sender: Any, **_: Any) -> None:
    queues = ", ".join(sorted(sender.app.amqp.queues.consume_from))
    notify("READY=1", f"STATUS=consuming {queues}")


@worker_shutting_down.connect
def _worker_stops(how: str, **_: Any) -> None:
    notify("STOPPING=1", f"STATUS={how.lower()} shutdown: running tasks are finished first")


@beat_init.connect
def _beat_begins(**_: Any) -> None:
    notify("READY=1", "STATUS=sending due tasks, or waiting for the schedule's lock")


def main() -> int:
    """Run the Celery command line given in ``sys.argv``; return its exit status."""
    if os.environ.get("CELERY_APP_PLAIN_WORKERS") != "true":
        importlib.import_module("celery_autoscaler.worker")
    return int(celery_main() or 0)


if __name__ == "__main__":
    sys.exit(main())
