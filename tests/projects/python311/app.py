"""A Celery app that runs on one version of Python alone, which its host does not have."""

import os
import platform
import time

from celery import Celery, Task
from redis import Redis

app = Celery("app", broker=os.environ["CELERY_BROKER_URL"], backend=os.environ["CELERY_RESULT_BACKEND"])
app.conf.task_acks_late = True
app.conf.task_reject_on_worker_lost = True
app.conf.worker_prefetch_multiplier = 1
results = Redis.from_url(os.environ["CELERY_RESULT_BACKEND"], decode_responses=True)


@app.task(bind=True, ignore_result=True)
def record(self: Task, trace: str, seconds: float = 0.0) -> None:
    """Take some time, then say so, and what it ran on."""
    time.sleep(seconds)
    results.rpush(trace, f"{self.request.id} {platform.python_version()}")
