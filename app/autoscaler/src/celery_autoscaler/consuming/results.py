"""Results on a Redis that is away for a moment, as during a failover.

Celery fails a task whose state it cannot store, even one that has not begun (``task_track_started``). With
``result_backend_always_retry``, which :mod:`celery_autoscaler.worker` sets, it waits instead, but only if the
connection is lost: a new primary that still waits for its replicas answers, and refuses.

The last task of a chord's header claims the chord while it sends its body. When its process is killed
meanwhile and the task runs again, Celery finds the chord claimed and leaves the body to the dead process;
here the task waits until the claim is over.
"""

from time import sleep
from typing import Any

from celery.backends import redis

from celery_autoscaler.protocol.server_state import is_refusal

# Seconds between two looks at a claim. It ends with its holder's work, or by itself within half a minute.
CLAIM_SECONDS = 0.5
# The value of a claim while it is free: nothing, or what Celery writes when the body is sent.
OPEN = (None, b"done")


class _Waiting:
    def on_chord_part_return(self, request: Any, state: Any, result: Any, *more: Any, **options: Any) -> None:
        """Count a task of a chord's header; the last one sends the body."""
        backend: Any = super()
        backend.on_chord_part_return(request, state, result, *more, **options)
        if not request.group or not (request.delivery_info or {}).get("redelivered"):
            return
        me: Any = self
        claim = me.get_key_for_group(request.group, ".c")
        if (holder := me.client.get(claim)) in OPEN:
            return
        while holder not in OPEN:
            sleep(CLAIM_SECONDS)
            holder = me.client.get(claim)
        if holder is None:
            backend.on_chord_part_return(request, state, result, *more, **options)

    def exception_safe_to_retry(self, exc: Exception) -> bool:
        """Tell whether the server may soon store what it has not stored now."""
        # In these words Celery asks from 5.5 on; 5.4 holds no error of Redis for one that passes.
        me: Any = self
        return is_refusal(exc) or isinstance(exc, me.connection_errors)


class RedisBackend(_Waiting, redis.RedisBackend):
    """Celery's, which also waits for a server that refuses."""


class SentinelBackend(_Waiting, redis.SentinelBackend):
    """The same for a server found through Sentinel."""
