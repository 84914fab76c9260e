"""Tasks counted by name and queue: in a worker as they end, in the supervisor of its host over all workers.

A worker counts in memory only and tells all its counts at once now and then. They only grow, so that nothing
is lost when one telling is, and the supervisor adds what has been added since it last heard of that worker.
"""

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from threading import Lock
from time import time
from typing import Any

from celery_autoscaler.readers import (
    UnreadableError,
    read_list,
    read_number,
    read_text,
    read_whole,
    shown,
)
from celery_autoscaler.runtimes import Ended

# Upper ends of the buckets, in seconds; one more holds what takes longer.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
# Pairs of task and queue that are told apart; all others go by one name, so that none can fill Redis.
MOST = 100
OTHERS = "(others)"
# Names of tasks whose run times a worker tells with each heartbeat.
MOST_RUN_TIMES = 40
# The header of a message that says when it was published, in seconds of the epoch.
PUBLISHED = "celery_fleet_published_at"
# Seconds by which the clocks of two hosts may differ.
SKEW = 60.0
# Seconds that the hour of failures is divided into, and how many of them are kept.
MINUTE = 60
MINUTES = 60
# Bounds of what is read: tasks, seconds, and bytes of a task's name.
MOST_COUNT, MOST_SECONDS, MOST_TASK = 2**53, 1e12, 4096

Kind = tuple[str, str]
"""A task's name and its queue."""


@dataclass
class Histogram:
    """How often something took how long."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS) + 1))
    """For each bucket, what falls into no smaller one."""
    total: float = 0.0
    """Seconds, all together."""

    @classmethod
    def load(cls, counts: Any, total: Any) -> "Histogram":
        """Return a histogram from its counts and its total.

        Raises:
            UnreadableError: They are none, or of other buckets.
        """
        if not isinstance(counts, list) or len(counts) != len(BUCKETS) + 1:
            raise UnreadableError(f"a histogram has not {len(BUCKETS) + 1} buckets")
        return cls(
            [read_whole(count, 0, MOST_COUNT) for count in counts], read_number(total, 0.0, MOST_SECONDS)
        )

    def observe(self, seconds: float) -> None:
        """Take in one."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    def add(self, other: "Histogram", former: "Histogram") -> None:
        """Take in by what another one has grown."""
        self.counts = [
            mine + new - old for mine, new, old in zip(self.counts, other.counts, former.counts, strict=True)
        ]
        self.total += other.total - former.total


@dataclass
class Tally:
    """What became of the tasks of one name and queue."""

    outcomes: Counter[str] = field(default_factory=Counter)
    runtime: Histogram = field(default_factory=Histogram)
    wait: Histogram = field(default_factory=Histogram)

    def add(self, other: "Tally", former: "Tally") -> None:
        """Take in by what another one has grown."""
        self.outcomes.update(other.outcomes - former.outcomes)
        self.runtime.add(other.runtime, former.runtime)
        self.wait.add(other.wait, former.wait)


class Tallies(dict[Kind, Tally]):
    """Tallies by task and queue, of a bounded number."""

    def of(self, kind: Kind) -> Tally:
        """Return the tally of a kind, or the common one where there are too many."""
        found = self.get(kind)
        if found is None:
            found = self.setdefault(kind if len(self) < MOST else (OTHERS, OTHERS), Tally())
        return found

    def dump(self) -> str:
        """Return all of it as text."""
        return json.dumps(
            [
                [
                    *kind,
                    tally.outcomes,
                    *(tally.runtime.counts, round(tally.runtime.total, 6)),
                    *(tally.wait.counts, round(tally.wait.total, 6)),
                ]
                for kind, tally in self.items()
            ]
        )

    @classmethod
    def load(cls, text: str | bytes) -> "Tallies":
        """Read what :meth:`dump` returned.

        Raises:
            UnreadableError: It is something else.
        """
        found = cls()
        for entry in read_list(text):
            if not isinstance(entry, list) or len(entry) != 7:
                raise UnreadableError("an entry has not 7 parts")
            task, queue, outcomes, *histograms = entry
            if not isinstance(outcomes, dict):
                raise UnreadableError(f"{shown(outcomes)} are no outcomes")
            found[read_text(task, MOST_TASK), read_text(queue)] = Tally(
                Counter({read_text(name): read_whole(n, 0, MOST_COUNT) for name, n in outcomes.items()}),
                Histogram.load(*histograms[:2]),
                Histogram.load(*histograms[2:]),
            )
        return found


def published_at(headers: Any) -> float | None:
    """Return when a message was published, in seconds of the epoch, if its headers say so in earnest."""
    found = headers.get(PUBLISHED) if isinstance(headers, Mapping) else None
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found < time() + SKEW:
        return None
    return float(found)


class TaskCounts:
    """Counts of a worker. Pools of threads end tasks in threads of their own."""

    def __init__(self) -> None:
        self._tallies = Tallies()
        self._run_times: dict[str, Ended] = {}
        self._lock = Lock()
        self._changes = 0
        self._told = 0

    def began(self, kind: Kind, wait: float) -> None:
        """Count how long a task has waited, in seconds."""
        with self._lock:
            self._tallies.of(kind).wait.observe(wait)
            self._changes += 1

    def ended(self, kind: Kind, outcome: str, runtime: float | None) -> None:
        """Count the end of a task, and the seconds it took unless it never began."""
        with self._lock:
            tally = self._tallies.of(kind)
            tally.outcomes[outcome] += 1
            if runtime is not None:
                tally.runtime.observe(runtime)
                name = (
                    kind[0] if kind[0] in self._run_times or len(self._run_times) < MOST_RUN_TIMES else OTHERS
                )
                one = Ended(1, runtime, runtime**2)
                self._run_times[name] = self._run_times.get(name, Ended()).plus(one)
            self._changes += 1

    def run_times(self) -> dict[str, Ended]:
        """Return, by the name of the task, those that have run to their end and the seconds they took."""
        with self._lock:
            return dict(self._run_times)

    def tell(self, send: Callable[[str], Any]) -> None:
        """Send the counts, if any has changed since they were last sent without an error."""
        with self._lock:
            changes = self._changes
            text = self._tallies.dump() if changes != self._told else ""
        if text:
            send(text)
            self._told = changes


class HostCounts:
    """Counts of all workers of a host, whichever have ended, and the failures of the last hour."""

    def __init__(self) -> None:
        self.tallies = Tallies()
        self._known: dict[str, Tallies] | None = None
        self._failures: dict[int, Counter[str]] = {}
        self._ended: dict[int, Counter[str]] = {}

    def update(self, now: float, told: dict[str, Tallies]) -> None:
        """Take in what the workers of this host have told, by their id, at a time in seconds of the epoch.

        What is there at the first look was counted by a former supervisor.
        """
        if self._known is not None:
            minute = self._failures.setdefault(int(now // MINUTE), Counter())
            ended = self._ended.setdefault(int(now // MINUTE), Counter())
            for worker_id, tallies in told.items():
                former = self._known.get(worker_id, Tallies())
                for kind, tally in tallies.items():
                    before = former.get(kind) or Tally()
                    self.tallies.of(kind).add(tally, before)
                    minute[kind[0]] += tally.outcomes["failed"] - before.outcomes["failed"]
                    ended[kind[0]] += tally.outcomes.total() - before.outcomes.total()
            for old in [key for key in self._failures if key <= now // MINUTE - MINUTES]:
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
