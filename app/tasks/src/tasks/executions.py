"""Traces of executions, for tests and demonstrations that count how often each task really ran."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tasks.store import redis_client

#: Seconds after which a trace is forgotten.
KEEP_SECONDS = 86_400


@contextmanager
def traced(key: str | None, task_id: str | None) -> Iterator[None]:
    """Append the task's id to the Redis list `<key>:started`, and to `<key>:ended` if the block succeeds.

    A task that ran once stands once in each list. Without a key nothing is written.

    Raises:
        redis.RedisError: if Redis does not take it; a trace that may have gaps proves nothing.
    """
    if key is None:
        yield
        return
    _append(f"{key}:started", task_id)
    yield
    _append(f"{key}:ended", task_id)


def _append(key: str, task_id: str | None) -> None:
    with redis_client().pipeline(transaction=False) as pipe:
        pipe.rpush(key, str(task_id))
        pipe.expire(key, KEEP_SECONDS)
        pipe.execute()
