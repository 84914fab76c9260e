"""Whether the event loop of a worker turns: a lease that lives although it does not would be a lie.

The heartbeat is a thread, since tasks of the solo pool hold the loop up, and so may code of the app's for a
moment. But a loop that stands still takes nothing, hears no child and no command. The worker then says that
it is stalled, and when that has lasted too long it ends as if it had been killed: with its children, so that
nothing of theirs runs on while others run their tasks again.
"""

import logging
import os
import sys
import threading
import traceback
from time import monotonic
from typing import Any

from celery import bootsteps
from celery.worker import state

logger = logging.getLogger(__name__)

# Leases that the loop may stand still before the worker says so, and before it ends: more than what it waits
# for servers, each of which it gives up within a third of a lease.
STALLED_LEASES = 3
END_LEASES = 6


class EventLoop:
    """What the heartbeat knows of the event loop."""

    def __init__(self, consumer: Any, lease: float) -> None:
        """Watch the loop of a consumer with a lease of that number of seconds."""
        self._consumer = consumer
        self._lease = lease
        conf = consumer.app.conf
        own = conf.broker_transport_options.get("socket_timeout")
        # The app's own waits: for its broker, and for tasks when it has to end at once.
        extra = max(0.0, float(conf.worker_soft_shutdown_timeout or 0))
        extra += 3 * own if isinstance(own, int | float) else 0.0
        self.stalled_after = STALLED_LEASES * lease + extra
        self.end_after = END_LEASES * lease + extra
        self._turns = 0
        self._seen = -1
        self._looked = monotonic()
        self.still = 0.0
        """Seconds for which it has stood still, as far as this process ran."""
        self._said = False
        if consumer.hub is not None:
            consumer.hub.on_tick.add(self.turn)

    def turn(self) -> None:
        """Note that it turns; costs next to nothing."""
        self._turns += 1

    @property
    def stalled(self) -> bool:
        """Whether it has stood still for too long."""
        return self.still > self.stalled_after

    def look(self) -> None:
        """Look from the heartbeat's thread whether it has turned; end the worker if it no longer does."""
        now = monotonic()
        # A process that was frozen has not stood still: it did not run.
        since, self._looked = min(now - self._looked, self._lease), now
        turns = self._turns
        if turns != self._seen or self._may_stand_still():
            self._seen, self.still = turns, 0.0
        else:
            self.still += since
        if self.stalled != self._said:
            self._said = self.stalled
            if self.stalled:
                logger.error("The event loop has been stuck for %.0f s: %s", self.still, main_stack())
            else:
                logger.info("The event loop runs again")
        if self.still > self.end_after:
            end(self.still)

    def _may_stand_still(self) -> bool:
        # Not yet, no longer, or because a task runs in the main process.
        if self._consumer.blueprint.state != bootsteps.RUN:  # type: ignore[attr-defined]
            return True
        return bool(is_solo(self._consumer.pool) and state.active_requests)


def is_solo(pool: Any) -> bool:
    """Whether tasks run in the event loop."""
    return any(base.__module__ == "celery.concurrency.solo" for base in type(pool).__mro__)


def main_stack() -> str:
    """Return where the main thread is, the innermost call last."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    return "".join(traceback.format_stack(frame)) if frame is not None else "unknown where"


def end(still: float) -> None:
    """End the process with its children at once; its lease runs out, and others get what it held."""
    logger.critical("The event loop has stood still for %.0f s: this worker ends", still)
    logging.shutdown()
    os._exit(os.EX_SOFTWARE)
