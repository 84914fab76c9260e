"""Tasks counted by name and queue, as a worker reports them to its supervisor.

Every report holds all counts. They only grow, so that nothing is lost with a report, and the
supervisor adds what has been added since it last heard of that worker.
"""

import json
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from time import time
from typing import Any

from celery_autoscaler.protocol.reading import (
    UnreadableError,
    read_list,
    read_number,
    read_text,
    read_whole,
    shown,
)

# Upper ends of the buckets, in seconds; one more holds what takes longer.
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)
# Pairs of task and queue that are counted apart; all others share one name, so that none can fill Redis.
MOST = 100
OTHERS = "(others)"
# The header of a message that says when it was published, in seconds of the epoch.
PUBLISHED = "celery_fleet_published_at"
# Seconds by which the clocks of two hosts may differ.
SKEW = 60.0
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

    def quantile(self, part: float) -> float:
        """Return the seconds that a part of all took at most, as if those of a bucket were spread evenly.

        What took longer than the last bucket counts as its end; of nothing it is 0.
        """
        wanted, begin = part * sum(self.counts), 0.0
        for end, count in zip(BUCKETS, self.counts, strict=False):
            if count >= wanted and count:
                return begin + (end - begin) * wanted / count
            wanted, begin = wanted - count, end
        return BUCKETS[-1] if sum(self.counts) else 0.0

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
