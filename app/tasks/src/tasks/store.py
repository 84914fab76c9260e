"""What this project keeps in Redis beside Celery's own keys, on the broker's server."""

from __future__ import annotations

from functools import cache

from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tasks.connections import client
from tasks.settings import settings

#: List of JSON objects, newest first: the last 1000 tasks that failed (tasks/records.py).
FAILURES = "tasks:failures"
#: List of JSON objects, newest first: the last 1000 tasks that succeeded.
SUCCESSES = "tasks:successes"
#: String, a JSON object: the last answer of `tasks.priority.health_check`.
HEALTH = "tasks:health"

#: Seconds to wait for an answer of Redis that a task needs.
PATIENT_SECONDS = 5.0
#: Seconds to wait for one that it can do without.
IMPATIENT_SECONDS = 0.5


@cache
def redis_client(wait: float = PATIENT_SECONDS) -> Redis:
    """Return this process's client: one connection pool, safe to use after a fork and by threads.

    It tries once: what is appended twice would be counted twice.

    Args:
        wait: seconds to wait for a connection and for an answer.
    """
    return client(
        settings().celery_broker_url,
        decode_responses=True,
        socket_timeout=wait,
        socket_connect_timeout=wait,
        retry=Retry(NoBackoff(), 0),
    )
