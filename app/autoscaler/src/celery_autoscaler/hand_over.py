"""Hand a task over to the pool, so that what it meets there costs it alone.

Celery takes a slot for the task first. An exception on the way would keep the slot and the message for the
life of the worker, since nobody waits for a timer that hands over a task with an ETA, or for a free slot.
"""

import logging
import math
from collections.abc import Callable
from typing import Any

from celery.exceptions import InvalidTaskError
from celery.worker import state

from celery_autoscaler.outcomes import guarded

logger = logging.getLogger(__name__)


class HandOver:
    """Celery's own way to the pool, with a way back."""

    def __init__(self, worker: Any) -> None:
        """Take over from the worker: a request that waited for its slot comes here as well."""
        self._worker = worker
        self._hand_over: Callable[[Any], Any] = worker._process_task
        worker._process_task = self

    def instead_of(self, on_task_request: Any) -> Any:
        """Return what the consumer calls with a request: with the pool's own semaphore Celery comes here."""
        return self if on_task_request == self._hand_over else on_task_request

    def __call__(self, request: Any) -> None:
        """Hand a request over; one that fails becomes a dead letter and leaves its slot to others."""
        try:
            check_time_limits(request.time_limits)
            self._hand_over(request)
        except Exception as error:
            logger.exception("Task %s cannot be handed over to the pool", request)
            guarded(lambda: self._forget(request))
            request.message.refused = f"{type(error).__name__}: {error}"
            guarded(request.acknowledge)
            release = getattr(self._worker, "_quick_release", None)
            if release is not None:
                guarded(release)

    def _forget(self, request: Any) -> None:
        state.task_ready(request)
        jobs: dict[Any, Any] = getattr(getattr(self._worker.pool, "_pool", None), "_cache", {})
        for number, job in list(jobs.items()):
            if job.correlation_id == request.id and not hasattr(job, "_payload"):
                del jobs[number]


def check_time_limits(limits: Any) -> None:
    """Refuse time limits that end the worker when the task begins.

    Raises:
        InvalidTaskError: They are no pair of seconds.
    """
    pair = isinstance(limits, list | tuple) and len(limits) == 2
    if not pair or any(
        limit is not None and not (isinstance(limit, int | float) and 0 <= limit < math.inf)
        for limit in limits
    ):
        raise InvalidTaskError(f"the time limits are no pair of seconds: {limits!r}")
