"""Tasks of the queue `cpu_intensive`: they keep a core busy."""

from __future__ import annotations

import hashlib
import time

from tasks.base import RecordedTask
from tasks.celery import app
from tasks.executions import traced


@app.task(bind=True)
def burn(self: RecordedTask, seconds: float, trace_key: str | None = None) -> int:
    """Use a number of seconds of this thread's CPU time; return how many rounds of hashing that was."""
    with traced(trace_key, self.request.id):
        end = time.thread_time() + seconds
        rounds = 0
        block = bytes(65_536)
        while time.thread_time() < end:
            hashlib.sha256(block)
            rounds += 1
        return rounds


@app.task
def digest(size: int) -> str:
    """Return the SHA-256 of a number of zero bytes, in hexadecimal; the whole is held in memory."""
    return hashlib.sha256(bytes(size)).hexdigest()
