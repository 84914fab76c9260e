"""The Celery application.

Importing it needs no environment: the configuration is read when Celery first asks for a value.
"""

from __future__ import annotations

from celery import Celery

import tasks.log
import tasks.signals  # noqa: F401  both connect their receivers
from tasks.base import RecordedTask
from tasks.queues import QUEUES

app: Celery[RecordedTask] = Celery(
    "tasks",
    task_cls="tasks.base:RecordedTask",
    include=[f"tasks.{queue}" for queue in QUEUES],  # a module of tasks for each queue
)
app.config_from_object("tasks.config")
