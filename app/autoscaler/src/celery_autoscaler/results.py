"""Results on a Redis that is away for a moment, as during a failover.

Celery fails a task whose state it cannot store, even one that has not begun (``task_track_started``). With
``result_backend_always_retry``, which :mod:`celery_autoscaler.worker` sets, it waits instead, but only if the
connection is lost: a new primary that still waits for its replicas answers, and refuses.
"""

from celery.backends import redis

from celery_autoscaler.server_state import is_refusal


class _Waiting:
    def exception_safe_to_retry(self, exc: Exception) -> bool:
        """Tell whether the server may soon store what it has not stored now."""
        return is_refusal(exc) or bool(super().exception_safe_to_retry(exc))  # type: ignore[misc]


class RedisBackend(_Waiting, redis.RedisBackend):
    """Celery's, which also waits for a server that refuses."""


class SentinelBackend(_Waiting, redis.SentinelBackend):
    """The same for a server found through Sentinel."""
