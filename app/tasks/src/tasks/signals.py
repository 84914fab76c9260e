"""What happens at the start and the end of each task and of each worker process."""

from __future__ import annotations

import logging
import time
from typing import Any

from celery import Task
from celery.signals import (
    task_postrun,
    task_prerun,
    worker_process_init,
    worker_process_shutdown,
    worker_shutdown,
)

from tasks.db import process_pool

logger = logging.getLogger(__name__)


@task_prerun.connect
def log_start(task_id: str, task: Task[Any, Any], **_: Any) -> None:
    """Note the time and log that a task starts."""
    task.request.update(began=time.monotonic())
    logger.info("task started", extra={"fields": {"id": task_id, "name": task.name, "state": "STARTED"}})


@task_postrun.connect
def log_end(task_id: str, task: Task[Any, Any], state: str | None = None, **_: Any) -> None:
    """Log how a task ended and how many seconds it took."""
    duration = time.monotonic() - task.request.get("began", time.monotonic())
    fields = {"id": task_id, "name": task.name, "state": state, "duration": f"{duration:.6f}"}
    logger.info("task ended", extra={"fields": fields})


@worker_process_init.connect
def open_database_pool(**_: Any) -> None:
    """Connect before the first task comes: in each child of a prefork worker, in a solo worker itself.

    Celery sends no such signal to threads and gevent workers: their first task opens the pool.
    """
    process_pool.open()


@worker_process_shutdown.connect  # a child of a prefork worker ends
@worker_shutdown.connect  # any other worker ends
def close_database_pool(**_: Any) -> None:
    """Close the connections of a process that ends."""
    process_pool.close()
