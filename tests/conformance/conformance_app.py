"""The app of Celery's integration tests, for a worker in a process of its own.

Celery's fixtures make the same app inside the process of the tests and run a worker in a thread there.
"""

import importlib
import os
from typing import Any

from celery.contrib.testing.app import TestApp

app = TestApp(
    config={
        "broker_url": os.environ["TEST_BROKER"],
        "result_backend": os.environ["TEST_BACKEND"],
        "result_extended": True,
        "task_create_missing_queues": False,
    },
    enable_logging=True,
)
app.set_default()
app.set_current()
tasks: Any = importlib.import_module("t.integration.tasks")
app.register_task(tasks.ClassBasedAutoRetryTask)
