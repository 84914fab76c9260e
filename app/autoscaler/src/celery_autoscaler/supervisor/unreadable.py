"""What could not be read: named once in the log, counted, and shown while it is there."""

import logging
import threading
from collections import Counter, defaultdict
from collections.abc import Iterable

from celery_autoscaler.protocol.reading import Refusal
from celery_autoscaler.protocol.status import UnreadableStatus

logger = logging.getLogger(__name__)

# Of each kind: names that one look logs, and that the status shows. Of all: names that are remembered.
LOGGED, SHOWN, REMEMBERED = 50, 50, 1000


class UnreadableLog:
    """Keeps account of what could not be read."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """Unreadable things by kind since the start, each counted when it is first met."""
        # The page reads in threads of its own.
        self._lock = threading.Lock()
        self._met: dict[tuple[str, str], None] = {}
        self._now: list[Refusal] = []
        self._lasting: list[Refusal] = []

    def update(self, refusals: Iterable[Refusal]) -> None:
        """Take in all that one look could not read: what is new is logged and counted."""
        self._now = list(refusals)
        self.count(self._now)

    def count(self, refusals: Iterable[Refusal]) -> None:
        """Log and count what is new of what could not be read, also by the page, which shows it itself."""
        new: defaultdict[str, list[Refusal]] = defaultdict(list)
        for refusal in refusals:
            if self._meet(refusal):
                new[refusal.kind].append(refusal)
        for kind, found in new.items():
            for refusal in found[:LOGGED]:
                logger.error("Unreadable %s, ignored: %s: %s", kind, refusal.name, refusal.why)
            if len(found) > LOGGED:
                logger.error("Unreadable %s, ignored: %d more", kind, len(found) - LOGGED)

    def keep(self, refusal: Refusal) -> None:
        """Take in something that is to be shown although the next look does not meet it."""
        if self._meet(refusal):
            logger.error("Unreadable %s: %s: %s", refusal.kind, refusal.name, refusal.why)
            self._lasting = [*self._lasting, refusal][-SHOWN:]

    def status(self) -> dict[str, UnreadableStatus]:
        """Return for each kind how many there were, and the names of those that are there now."""
        names: defaultdict[str, list[str]] = defaultdict(list)
        for refusal in [*self._lasting, *self._now]:
            names[refusal.kind].append(f"{refusal.name}: {refusal.why}")
        return {
            kind: UnreadableStatus(count, names[kind][:SHOWN]) for kind, count in sorted(self.counts.items())
        }

    def _meet(self, refusal: Refusal) -> bool:
        """Count something unless it was met before; return whether it is new."""
        key = refusal.kind, refusal.name
        with self._lock:
            if key in self._met:
                return False
            self._met[key] = None
            if len(self._met) > REMEMBERED:
                del self._met[next(iter(self._met))]
            self.counts[refusal.kind] += 1
        return True
