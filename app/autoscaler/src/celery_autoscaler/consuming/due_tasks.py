"""Tasks whose ETA comes while their worker holds them: what finds no free slot there goes back for all.

Celery lets a task with an ETA wait in the worker that took it, any number of them beside its prefetch count.
When many become due together they would run on that worker alone, one after the other, however many others
are idle. What a slot is free for runs at once. The rest goes back to the end of its list from which it is
taken next, marked as redelivered, and counts as no death. There it is a message like any other: a worker that
takes one that is due keeps it, so that it goes back once at most.
"""

import logging
from collections.abc import Iterable
from time import time
from typing import Any

from celery.worker import state

from celery_autoscaler.consuming.ledger import UNRECORDED, Ledger
from celery_autoscaler.consuming.versions import scheduled_requests

logger = logging.getLogger(__name__)

# Tasks that are dealt with before the event loop goes on.
AT_ONCE = 500


class DueTasks:
    """What has become due in a worker and waits for the end of the timers that are due with it."""

    def __init__(self, consumer: Any, ledger: Ledger) -> None:
        self.consumer = consumer
        self.ledger = ledger
        self.waiting: list[Any] = []

    def add(self, request: Any) -> None:
        """Begin a request whose ETA has come, or see who is to begin it."""
        if not self.may_be_offered(request):
            self.consumer.begin_due(request)
            return
        self.waiting.append(request)
        if len(self.waiting) == 1:
            self.settle_soon()

    def settle_soon(self) -> None:
        """Settle after all that is due by now: timers fire in the order of their times."""
        self.consumer.timer.call_after(0, self.settle)

    def settle(self) -> None:
        """Begin what slots are free for, and offer the rest to all workers."""
        due, self.waiting = self.waiting[:AT_ONCE], self.waiting[AT_ONCE:]
        if self.waiting:
            self.settle_soon()
        free = self.free_slots()
        # In this order: the solo pool runs tasks in here.
        kept = self.offer(due[free:])
        for request in due[:free] + kept:
            self.consumer.begin_due(request)

    def may_be_offered(self, request: Any) -> bool:
        """Whether another worker may begin the task as well. While the server does not answer, none can."""
        if getattr(request, "fleet_ledger", None) is not self.ledger or request.fleet_due is None:
            return False
        if str(request._message.delivery_tag).startswith(UNRECORDED):
            # A broadcast: each worker has its own.
            return False
        return not (self.ledger.silent or self.ledger.fenced)

    def free_slots(self) -> int:
        """Return how many tasks would begin at once."""
        if self.ledger.draining:
            return 0
        consumer = self.consumer
        slots = getattr(consumer.controller, "max_concurrency", None) or consumer.pool.num_processes
        return max(0, int(slots) - len(state.reserved_requests))

    def offer(self, requests: list[Any]) -> list[Any]:
        """Give back messages of tasks that have not begun; return those that the server does not take."""
        if not requests:
            return []
        self.limit_prefetch(requests)
        by_token = {request._message.delivery_tag: request for request in requests}
        kept = self.ledger.offer(by_token)
        for token in by_token.keys() - kept:
            forget(by_token[token])
        if offered := len(requests) - len(kept):
            logger.info("%d due tasks found no free slot here: offered to all workers", offered)
        for _ in kept:
            self.consumer.qos.increment_eventually()
        return [by_token[token] for token in by_token if token in kept]

    def limit_prefetch(self, requests: list[Any]) -> None:
        """Take back the room in the prefetch count, or this worker would be the first to take them again."""
        for _ in requests:
            self.consumer.qos.decrement_eventually()
        self.consumer.qos.update()


def forget(request: Any) -> None:
    """Note that a request is no longer this worker's."""
    request.acknowledged = True
    scheduled_requests.discard(request)
    if state.requests.get(request.id) is request:
        del state.requests[request.id]


def due_times(requests: Iterable[Any]) -> list[float]:
    """Return the ETAs of requests, in seconds of the epoch; of those that have one."""
    found = (getattr(request, "fleet_due", None) for request in requests)
    return [due for due in found if due is not None]


def overdue(requests: Iterable[Any]) -> tuple[int, float | None]:
    """Return of how many requests the ETA has passed, and the earliest of those; nothing if there is none."""
    now = time()
    due = [eta for eta in due_times(requests) if eta <= now]
    return len(due), min(due, default=None)
