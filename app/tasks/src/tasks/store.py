"""What this project keeps in Redis beside Celery's own keys, on the broker's server."""

from __future__ import annotations

from functools import cache

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tasks.settings import settings

#: List of JSON objects, newest first: the last 1000 tasks that failed (tasks/records.py).
FAILURES = "tasks:failures"
#: List of JSON objects, newest first: the last 1000 tasks that succeeded.
SUCCESSES = "tasks:successes"
#: String, a JSON object: the last answer of `tasks.priority.health_check`.
HEALTH = "tasks:health"

#: Seconds to wait for Redis. Short, since a task waits with us.
TIMEOUT = 0.25


@cache
def redis_client() -> Redis:
    """Return this process's client: one connection pool, safe to use after a fork and by threads.

    It tries once; a server that does not answer within `TIMEOUT` is an error.
    """
    return Redis.from_url(
        settings().celery_broker_url,
        decode_responses=True,
        socket_timeout=TIMEOUT,
        socket_connect_timeout=TIMEOUT,
        retry=Retry(NoBackoff(), 0),
    )
