"""A Celery app of old, which only plain workers run."""

import os
import time

from celery import Celery, Task, __version__
from redis import Redis

app = Celery("app", broker=os.environ["CELERY_BROKER_URL"], backend=os.environ["CELERY_RESULT_BACKEND"])
app.conf.task_acks_late = True
results = Redis.from_url(os.environ["CELERY_RESULT_BACKEND"], decode_responses=True)


@app.task(bind=True, ignore_result=True)
def record(self: Task, trace: str, seconds: float = 0.0) -> None:
    """Take some time, then say so, and which Celery has run it."""
    time.sleep(seconds)
    results.rpush(trace, f"{self.request.id} {__version__}")
