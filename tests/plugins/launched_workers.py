"""Workers started by our launcher, of a Celery app that is not the example project."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from celery_processes import clean_environment
from services import wait_for

STOP_WITHIN = 30.0  # seconds

APP = '''
"""An app in a single file, as small as users write them."""

import os

from celery import Celery

app = Celery("single", broker=os.environ["BROKER"], backend=os.environ["BROKER"])
app.conf.broker_connection_retry_on_startup = True
'''


class LaunchedWorker:
    """A process of `python -m celery_autoscaler.launch -A single …` in a session of its own."""

    def __init__(self, folder: Path, broker: str, *arguments: str, notify_socket: Path | None = None) -> None:
        (folder / "single.py").write_text(APP)
        self.log = folder / f"{time.monotonic_ns()}.log"
        environment = clean_environment() | {"BROKER": broker, "PYTHONPATH": str(folder)}
        if notify_socket is not None:
            environment["NOTIFY_SOCKET"] = str(notify_socket)
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "celery_autoscaler.launch", "-A", "single", *arguments, "-l", "INFO"],
                env=environment,
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Return when the worker consumes."""
        wait_for(lambda: "ready." in self.log.read_text() or None, f"{self.log} says nothing of ready")

    def stop(self) -> int:
        """End the process as systemd would (SIGTERM) and return its exit status."""
        self.process.terminate()
        return self.process.wait(STOP_WITHIN)

    def kill(self) -> None:
        """End the whole process group at once; does nothing to one that has ended."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(STOP_WITHIN)


class LaunchedWorkerFactory(Protocol):
    """Starts a worker of the single-file app."""

    def __call__(self, *arguments: str, notify_socket: Path | None = None) -> LaunchedWorker:
        """Return the process, which is killed at the end of the test."""
