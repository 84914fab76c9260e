"""A worker that stretches: it has more or fewer slots, as its supervisor tells it.

It begins with its least number, ``--concurrency``, and never has more than its most,
:data:`~celery_autoscaler.protocol.slots.MOST_SLOTS_VARIABLE`. The number reaches it in two ways, so that
nothing depends on one message: at once on its wake-up connection, and again with the answer to each
heartbeat. A worker that hears nothing keeps what it has.

Slots come and go one at a time, each in a turn of the event loop of its own, so that the first new child
gets its task while the next one is forked. The prefetch count follows.
"""

import logging
import os
from typing import Any, Protocol

from celery_autoscaler.consuming.child_processes import ChildProcesses
from celery_autoscaler.consuming.pool_pipes import is_prefork
from celery_autoscaler.protocol.reading import UnreadableError, read_whole
from celery_autoscaler.protocol.slots import MOST_SLOTS_VARIABLE

logger = logging.getLogger(__name__)

# Slots of one worker, at most.
MOST_SLOTS = 10_000
# By the module of the pool's class.
POOLS = ("celery.concurrency.prefork", "celery.concurrency.gevent")


class Slots(Protocol):
    """The slots of a pool."""

    @property
    def number(self) -> int:
        """How many there are, or will be once those have ended that are to."""

    def add(self) -> bool:
        """Add one; return whether that was possible."""

    def end_idle(self) -> bool:
        """End one that runs no task and has none assigned; return whether there was one."""


class Greenlets:
    """The slots of a pool of greenlets: a number that it counts."""

    def __init__(self, pool: Any) -> None:
        self._pool = pool

    @property
    def number(self) -> int:
        """How many there are. The pool of older releases itself counts those that run something."""
        greenlets = self._pool._pool
        return int(greenlets.size) if greenlets is not None else 0

    def add(self) -> bool:
        """Add one."""
        self._pool.grow(1)
        return True

    def end_idle(self) -> bool:
        """Take one away; what runs goes on, and one task less begins."""
        self._pool.shrink(1)
        return True


class Stretch:
    """Brings the slots of one worker to the number that it is told."""

    def __init__(self, consumer: Any, most: int) -> None:
        """Let a worker have that many slots at most; 0 if it does not stretch."""
        self._consumer = consumer
        self.least = int(consumer.controller.concurrency)
        self.most = most
        self._wanted = self.least
        self._fetched = self.least
        """Slots for which messages are fetched."""
        self._slots: Slots | None = None
        if most:
            pool = consumer.pool
            self._slots = ChildProcesses(pool, consumer.hub) if is_prefork(pool) else Greenlets(pool)

    @property
    def slots(self) -> int:
        """The tasks that the worker runs at a time."""
        return self._slots.number if self._slots is not None else self.least

    def tell(self, slots: Any) -> None:
        """Take in a number as it came from the server; may be called from any thread."""
        if self._slots is None:
            return
        try:
            wanted = read_whole(slots, 0, MOST_SLOTS)
        except UnreadableError as error:
            logger.debug("No number of slots: %s", error)
            return
        self._wanted = min(max(wanted, self.least), self.most)
        self._go_on()

    def _go_on(self) -> None:
        if self._wanted == self.slots == self._fetched:
            return
        if self._consumer.hub is not None:
            self._consumer.call_soon(self._turn)
            return
        # No event loop that could be held up, and greenlets cost nothing.
        while self._step():
            continue
        self._consumer.qos.update()

    def _turn(self) -> None:
        """Add or end one slot, and see to the rest in the next turn of the event loop."""
        if self._step():
            self._go_on()

    def _step(self) -> bool:
        """Add or end one slot; return whether there was one to."""
        slots = self._slots
        if slots is None or not self._consumer.pool.active:
            return False
        missing = self._wanted - slots.number
        has_changed = missing != 0 and (slots.add() if missing > 0 else slots.end_idle())
        # Each slot that is too many becomes idle when its task has ended: no further one is fetched for it.
        self._fetch_for(min(self._wanted, slots.number))
        if has_changed and self._wanted == slots.number:
            logger.info("Slots: %d", slots.number)
        return has_changed

    def _fetch_for(self, slots: int) -> None:
        """Have the prefetch count follow the slots. What else counts in it, such as ETAs, remains."""
        consumer, more = self._consumer, slots - self._fetched
        if more and consumer.initial_prefetch_count:
            consumer.initial_prefetch_count = slots * consumer.prefetch_multiplier
            consumer._update_qos_eventually(more)
        self._fetched = slots


def most_slots(environment: Any = os.environ) -> int:
    """Return the slots that this worker may have at most; 0 if it does not stretch.

    Raises:
        ValueError: The environment does not say a number of slots.
    """
    text = environment.get(MOST_SLOTS_VARIABLE) or "0"
    try:
        return read_whole(text, 0, MOST_SLOTS)
    except UnreadableError as error:
        raise ValueError(
            f"{MOST_SLOTS_VARIABLE}={text!r} is wrong: allowed is a whole number from 1 to {MOST_SLOTS}"
        ) from error


def why_not(most: int, least: int, pool: type) -> str:
    """Return why a worker cannot stretch to that many slots; nothing if it can."""
    if most and most < least:
        return f"{MOST_SLOTS_VARIABLE}={most} is wrong: allowed is no less than the concurrency, {least}"
    if most and not any(base.__module__ in POOLS for base in pool.__mro__):
        return f"{MOST_SLOTS_VARIABLE}={most} is wrong: only the pools prefork and gevent stretch"
    return ""
