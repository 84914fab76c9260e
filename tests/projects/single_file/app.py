"""A Celery app in one file: tasks, settings and a schedule."""

import json
import os
import time
from pathlib import Path

from celery import Celery, Task
from redis import Redis

app = Celery("app", broker=os.environ["CELERY_BROKER_URL"], backend=os.environ["CELERY_RESULT_BACKEND"])
# A worker that is killed gives back the tasks that it runs.
app.conf.task_acks_late = True
app.conf.task_reject_on_worker_lost = True
app.conf.worker_prefetch_multiplier = 1
# As long as the tasks of the tests: where tasks grow longer while CPUs are short, nothing is started.
app.conf.beat_schedule = {"tick": {"task": "app.record", "schedule": 5.0, "args": ("beat", 0.5)}}

# It would not start without the file of the inventory, nor without the folder that it may write in.
settings = json.loads(Path(os.environ["APP_SETTINGS"]).read_text())
Path(settings["folder"], "imported").touch()
results = Redis.from_url(os.environ["CELERY_RESULT_BACKEND"], decode_responses=True)


@app.task(bind=True, ignore_result=True)
def record(self: Task, trace: str, seconds: float = 0.0) -> None:
    """Take some time, then say so."""
    time.sleep(seconds)
    results.rpush(trace, str(self.request.id))
