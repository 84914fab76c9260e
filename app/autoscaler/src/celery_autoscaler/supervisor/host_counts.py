"""Tasks of a host, counted over all its workers as they tell them."""

from collections import Counter
from collections.abc import Iterable

from celery_autoscaler.protocol.tallies import Kind, Tallies, Tally

# Seconds that the hour of failures is divided into, and how many of them are kept.
MINUTE_SECONDS = 60
MINUTES = 60


class HostCounts:
    """Counts of all workers of a host, whichever have ended, and the failures of the last hour."""

    def __init__(self) -> None:
        self.tallies = Tallies()
        self._known: dict[str, Tallies] | None = None
        self._failures: dict[int, Counter[str]] = {}
        self._ended: dict[int, Counter[str]] = {}

    def update(self, now: float, told: dict[str, Tallies]) -> None:
        """Take in what the workers of this host reported, by their id, at a time in seconds of the epoch.

        What is there at the first look was counted by a former supervisor.
        """
        if self._known is not None:
            minute = self._failures.setdefault(int(now // MINUTE_SECONDS), Counter())
            ended = self._ended.setdefault(int(now // MINUTE_SECONDS), Counter())
            for worker_id, tallies in told.items():
                former = self._known.get(worker_id, Tallies())
                for kind, tally in tallies.items():
                    before = former.get(kind) or Tally()
                    self.tallies.of(kind).add(tally, before)
                    minute[kind[0]] += tally.outcomes["failed"] - before.outcomes["failed"]
                    ended[kind[0]] += tally.outcomes.total() - before.outcomes.total()
            for old in [key for key in self._failures if key <= now // MINUTE_SECONDS - MINUTES]:
                del self._failures[old], self._ended[old]
        self._known = (self._known or {}) | told

    def forget(self, worker_ids: Iterable[str]) -> None:
        """Forget workers that tell no more."""
        for worker_id in worker_ids:
            (self._known or {}).pop(worker_id, None)

    def runtimes(self) -> dict[Kind, tuple[int, float]]:
        """Return, of each kind, how many tasks have been run and the seconds that they took together."""
        return {
            kind: (sum(tally.runtime.counts), tally.runtime.total) for kind, tally in self.tallies.items()
        }

    def failures(self) -> dict[str, int]:
        """Return how many tasks of each name have failed in the last hour, the most frequent first."""
        return {name: count for name, count in _sum(self._failures).most_common() if count}

    def ended(self) -> dict[str, int]:
        """Return how many executions of those tasks have ended in the last hour, in whatever way."""
        ended = _sum(self._ended)
        return {name: ended[name] for name in self.failures()}


def _sum(minutes: dict[int, Counter[str]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for minute in minutes.values():
        found.update(minute)
    return found
