"""Report what became of tasks to servers that may be away, in a thread that may wait for them.

Celery's main process reports what no child can: that a task expired, was revoked, ran into its hard time
limit, died with its process, or has an unknown name. For that it asks the server of results, runs
what the task wants to be run, and sends other tasks. In the event loop each of these would hold up all other
tasks, and the end of the worker, for as long as a server is away. The message is settled afterwards, where
Celery does so; until then it takes no room that another message could have.
"""

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from celery_autoscaler.consuming.background import leave_signals

logger = logging.getLogger(__name__)

# Outcomes that wait at most; more are settled and not reported.
WAITING = 1000
# Seconds that a worker waits for them when it ends.
AT_END_SECONDS = 1.0


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of one task."""

    tell: Callable[[], Any]
    settle: Callable[[], Any]
    """Settles the message if the outcome cannot be reported."""
    give_up: Callable[[], Any]
    """Settles it at the end of the worker, unless it is to go back."""
    task: str

    def run(self) -> None:
        """Report it; whatever goes wrong, the message is settled."""
        try:
            self.tell()
        except (Exception, SystemExit):
            logger.exception("The outcome of %s cannot be stored", self.task)
            guarded(self.settle)


class Outcomes:
    """The outcomes that wait to be reported, in order."""

    def __init__(self) -> None:
        self._waiting: deque[Outcome] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._ended = False

    def add(self, outcome: Outcome) -> None:
        """Report an outcome soon; at once, in the reporting thread, where one leads to another."""
        if self._thread is threading.current_thread():
            outcome.run()
            return
        with self._changed:
            full = self._ended or len(self._waiting) >= WAITING
            if not full:
                self._waiting.append(outcome)
                self._changed.notify_all()
                self._begin()
        if full:
            logger.error("The outcome of %s is dropped: %d others wait", outcome.task, len(self._waiting))
            guarded(outcome.settle)

    def _begin(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="fleet-outcomes", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        leave_signals()
        while True:
            with self._changed:
                while not self._waiting:
                    self._changed.wait()
                outcome = self._waiting[0]
            outcome.run()
            with self._changed:
                # Unless it was given up meanwhile.
                if self._waiting and self._waiting[0] is outcome:
                    self._waiting.popleft()
                self._changed.notify_all()

    def finish(self, within: float = AT_END_SECONDS) -> None:
        """Wait that number of seconds for what waits; give up the rest."""
        due = monotonic() + within
        with self._changed:
            while self._waiting and (left := due - monotonic()) > 0:
                self._changed.wait(left)
            rest = list(self._waiting)
            self._waiting.clear()
            self._ended = True
        for outcome in rest:
            logger.error("The outcome of %s is dropped: the worker ends", outcome.task)
            guarded(outcome.give_up)


def guarded(settle: Callable[[], Any]) -> None:
    """Do what must not hinder what follows."""
    try:
        settle()
    except Exception:
        logger.exception("A message cannot be settled")


def nothing() -> None:
    """Leave a message as it is."""
