"""Workers of a Celery app that is not the example project, started by our launcher or by plain Celery."""

from __future__ import annotations

import json
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from support.processes.process import PythonProcess, clean_environment, with_path

APP = '''
"""An app in a single file, as small as users write them. Its tasks count their starts and ends by id."""

import json
import os
import signal
import sys
import time

from celery import Celery
from celery.exceptions import Reject, SoftTimeLimitExceeded
from celery.signals import task_received
from redis import Redis

if "CRASH" in os.environ and "worker" in sys.argv:
    sys.exit(os.environ["CRASH"])
if "worker" in sys.argv:
    time.sleep(float(os.environ.get("SLOW_START", "0")))
    eaten = b"x" * int(os.environ.get("EAT_MEMORY", "0"))

BROKER = os.environ["BROKER"]
app = Celery("single", broker=BROKER, backend=os.environ.get("BACKEND", BROKER))
app.conf.broker_connection_retry_on_startup = True
app.conf.update(json.loads(os.environ.get("SETTINGS", "{}")))
counts = Redis.from_url(os.environ.get("COUNTS", BROKER))


def begin(task):
    with counts.pipeline() as pipe:
        pipe.hincrby("started", task.request.id)
        pipe.hset("at", task.request.id, time.time())
        pipe.hset("by", task.request.id, task.request.hostname)
        pipe.rpush("begun", task.request.id)
        pipe.execute()


def end(task):
    counts.hincrby("ended", task.request.id)


@app.task(bind=True)
def count(task, seconds=0.005):
    begin(task)
    time.sleep(seconds)
    end(task)


@app.task(bind=True)
def absorb(task, *arguments, **named):
    """Take whatever it is called with."""
    begin(task)
    end(task)


@app.task(bind=True)
def die(task):
    """Kill the process that runs the task, as the kernel does when memory is short."""
    begin(task)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(bind=True)
def die_slowly(task):
    """Die the first time, as a process with much memory does: its files are closed before it has ended."""
    begin(task)
    if int(counts.hget("started", task.request.id)) == 1:
        os.closerange(3, 256)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGKILL)
    end(task)


@app.task(bind=True)
def die_after_success(task):
    """Store that the task has succeeded and kill the process, the first time."""
    begin(task)
    if int(counts.hget("started", task.request.id)) == 1:
        app.backend.store_result(task.request.id, None, "SUCCESS")
        os.kill(os.getpid(), signal.SIGKILL)
    end(task)


@app.task(bind=True)
def kill_worker(task):
    """Kill the whole worker."""
    begin(task)
    os.killpg(os.getpgrp(), signal.SIGKILL)


@app.task(bind=True, acks_late=True)
def refuse(task, times):
    """Go back to the queue a number of times."""
    begin(task)
    if int(counts.hget("started", task.request.id)) <= times:
        raise Reject("not yet", requeue=True)
    end(task)


@app.task
def deafen():
    """Does nothing; the worker that receives it first hears nothing any more, see below."""


@task_received.connect
def _hear(request, **_):
    if request.name == "single.deafen" and counts.set("deaf", os.getpid(), nx=True):
        time.sleep(3600)


@app.task(bind=True)
def echo(task, text):
    begin(task)
    end(task)
    return text


@app.task
def add(*numbers):
    return sum(numbers[0] if isinstance(numbers[0], list) else numbers)


@app.task(bind=True, max_retries=5)
def fail_at_first(task, failures):
    begin(task)
    if task.request.retries < failures:
        raise task.retry(countdown=0)
    return task.request.retries


def retry_after(task, seconds):
    """Try again once, after a while."""
    begin(task)
    if not task.request.retries:
        time.sleep(seconds)
        raise task.retry(countdown=0)
    end(task)


retry_late = app.task(retry_after, bind=True, name="single.retry_late")
early_retry_late = app.task(retry_after, bind=True, name="single.early_retry_late", acks_late=False)


@app.task(bind=True)
def soft(task, seconds):
    """Say how the task ended: by itself or at its soft time limit."""
    begin(task)
    try:
        time.sleep(seconds)
    except SoftTimeLimitExceeded:
        return "soft limit"
    return "ended"
'''

_number = count()


class LaunchedProcess(PythonProcess):
    """A Python module that runs with the single-file app."""

    def __init__(
        self,
        folder: Path,
        broker: str,
        *command: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Start `python -m COMMAND`."""
        write_app(folder)
        variables = clean_environment() | {"BROKER": broker} | with_path(folder) | dict(environment or {})
        super().__init__(folder / f"{next(_number):04d}.log", *command, environment=variables)


class LaunchedWorker(LaunchedProcess):
    """A Celery command of the single-file app."""

    def __init__(
        self,
        folder: Path,
        broker: str,
        *arguments: str,
        notify_socket: Path | None = None,
        environment: Mapping[str, str] | None = None,
        plain: bool = False,
    ) -> None:
        """Start `python -m celery_autoscaler.launch -A single …`, or `python -m celery …` if `plain`."""
        variables = dict(environment or {})
        if notify_socket is not None:
            variables["NOTIFY_SOCKET"] = str(notify_socket)
        command = "celery" if plain else "celery_autoscaler.launch"
        super().__init__(
            folder, broker, command, "-A", "single", *arguments, "-l", "INFO", environment=variables
        )

    @property
    def ready(self) -> bool:
        """Whether the worker has said that it consumes."""
        return "ready." in self.output()

    def wait_until_ready(self) -> None:
        """Return when the worker consumes."""
        self.wait_for_output(r"ready\.")


class LaunchedWorkerFactory(Protocol):
    """Starts a worker of the single-file app."""

    def __call__(self, *arguments: str, notify_socket: Path | None = None) -> LaunchedWorker:
        """Return the process, which is killed at the end of the test."""


def write_app(folder: Path) -> None:
    """Write the single-file app into a folder, unless it is there."""
    module = folder / "single.py"
    if not module.exists():
        module.write_text(APP)


def settings_variable(settings: Mapping[str, Any]) -> dict[str, str]:
    """Return the environment that gives the single-file app these settings of Celery's."""
    return {"SETTINGS": json.dumps(settings)}
