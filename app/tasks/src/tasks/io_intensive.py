"""Tasks of the queue `io_intensive`: they wait for something else than the CPU."""

from __future__ import annotations

import os
import tempfile
import time

from tasks.base import RecordedTask
from tasks.celery import app
from tasks.db import get_db_connection
from tasks.executions import traced

BLOCK_BYTES = 1 << 20


@app.task(bind=True)
def wait(self: RecordedTask, seconds: float, trace_key: str | None = None) -> float:
    """Sleep for a number of seconds, as a task that waits for an answer does; return them."""
    with traced(trace_key, self.request.id):
        time.sleep(seconds)
        return seconds


@app.task
def write_file(size: int) -> int:
    """Write a number of bytes to a temporary file, force them to the disk, remove it; return the size."""
    with tempfile.TemporaryFile() as file:
        for start in range(0, size, BLOCK_BYTES):
            file.write(bytes(min(BLOCK_BYTES, size - start)))
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


@app.task(acks_late=False, reject_on_worker_lost=False)
def log_in_users(users: int, session_seconds: float = 3600.0) -> int:
    """Write a login and a session for each of a number of users; return how many.

    Not idempotent, each run adds rows; so its message is acknowledged before the work.
    """
    with get_db_connection() as connection:
        connection.execute(
            """
            WITH users AS (SELECT generate_series(1, %(users)s) AS id),
                 noted AS (INSERT INTO logins (user_id) SELECT id FROM users)
            INSERT INTO sessions (user_id, expires_at)
            SELECT id, now() + make_interval(secs => %(seconds)s) FROM users
            """,
            {"users": users, "seconds": session_seconds},
        )
    return users
