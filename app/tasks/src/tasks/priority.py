"""Tasks of the queue `priority`: small and urgent."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
from psycopg_pool import PoolTimeout
from redis import RedisError

from tasks import store
from tasks.base import RecordedTask
from tasks.celery import app
from tasks.db import get_db_connection
from tasks.executions import traced
from tasks.queues import QUEUES, redis_keys

#: Percent of the disk that must be free.
DISK_FREE_PERCENT = 5.0
#: Seconds to wait for the database.
DATABASE_WAIT_SECONDS = 3.0


@app.task(bind=True)
def notify(self: RecordedTask, message: str = "", trace_key: str | None = None) -> str:
    """Return the message; stands for a small thing that somebody waits for."""
    with traced(trace_key, self.request.id):
        return message


@app.task
def health_check() -> dict[str, Any]:
    """Check what the tasks depend on; return the answer and keep it in Redis under `tasks:health`.

    The answer has `time` (ISO 8601, UTC), `healthy`, and a part for each of `broker`, `database`, `disk` and
    `queues`. A part has `ok`, what it found (`seconds` of the round trip, `free_bytes`, `free_percent`, and
    the `lengths` of the queues over all priorities) and, when it is not ok, an `error`.
    """
    parts = {
        "broker": _checked(_check_broker),
        "database": _checked(_check_database),
        "disk": _checked(_check_disk),
        "queues": _checked(_check_queues),
    }
    answer = {
        "time": datetime.now(UTC).isoformat(),
        "healthy": all(part["ok"] for part in parts.values()),
        **parts,
    }
    if parts["broker"]["ok"]:
        store.redis_client().set(store.HEALTH, json.dumps(answer))
    return answer


def _checked(check: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    began = time.monotonic()
    try:
        found = check()
    except (RedisError, psycopg.Error, PoolTimeout, OSError) as error:
        return {"ok": False, "error": str(error)}
    return {"ok": True, "seconds": round(time.monotonic() - began, 6), **found}


def _check_broker() -> dict[str, Any]:
    store.redis_client().ping()
    return {}


def _check_database() -> dict[str, Any]:
    with get_db_connection(wait=DATABASE_WAIT_SECONDS) as connection:
        connection.execute("SELECT 1")
    return {}


def _check_disk() -> dict[str, Any]:
    """Look at the file system of the working directory."""
    usage = shutil.disk_usage(Path.cwd())
    free = 100 * usage.free / usage.total
    found = {"free_bytes": usage.free, "free_percent": round(free, 1)}
    return found if free >= DISK_FREE_PERCENT else {**found, "ok": False, "error": "the disk is nearly full"}


def _check_queues() -> dict[str, Any]:
    return {"lengths": queue_lengths()}


def queue_lengths() -> dict[str, int]:
    """Return how many messages wait in each queue, of all priorities, in one round trip to Redis."""
    keys = {queue: redis_keys(queue) for queue in QUEUES}
    with store.redis_client().pipeline(transaction=False) as pipe:
        for steps in keys.values():
            for key in steps:
                pipe.llen(key)
        lengths = iter(pipe.execute())
    return {queue: sum(next(lengths) for _ in steps) for queue, steps in keys.items()}
