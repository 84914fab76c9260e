"""What a group did over a time, measured or replayed: waits, workers, and what they cost."""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from celery_autoscaler.protocol.recording import SECONDS, Record

HOUR = 3600.0
# Parts of all waits that are told.
PARTS_TOLD = (0.5, 0.95, 0.99)


@dataclass(frozen=True)
class Outcome:
    """What a group did."""

    tasks: int
    waits: tuple[float, ...]
    """Seconds that each of :data:`PARTS_TOLD` of the tasks waited at most."""
    late: float
    """Part of the tasks that waited for longer than the target."""
    worker_hours: float
    slot_hours: float
    starts: int
    most_workers: int
    most_memory: int
    """MiB."""


def of_waits(waits: Iterable[tuple[float, float, float]]) -> tuple[int, tuple[float, ...], float]:
    """Return the number of tasks, their waits at :data:`PARTS_TOLD`, and the part that was late.

    Args:
        waits: Of some tasks: how long they waited, how many they are, how long they may wait.
    """
    ordered = sorted(waits)
    totals = list(accumulate(count for _, count, _ in ordered))
    total = totals[-1] if totals else 0.0
    if not total:
        return 0, (0.0,) * len(PARTS_TOLD), 0.0
    late = sum(count for wait, count, target in ordered if wait > target)
    places = (min(bisect_right(totals, part * total), len(ordered) - 1) for part in PARTS_TOLD)
    return round(total), tuple(ordered[place][0] for place in places), late / total


def measured(records: Sequence[Record]) -> Outcome:
    """Return what a group did, as its record says."""
    tasks, waits, late = of_waits(measured_waits(records))
    return Outcome(
        tasks=tasks,
        waits=waits,
        late=late,
        worker_hours=sum(record.figures.worker_time for record in records) / 1000 / HOUR,
        slot_hours=sum(r.figures.worker_time * r.figures.concurrency for r in records) / 1000 / HOUR,
        starts=sum(record.figures.started for record in records),
        most_workers=max(
            (r.figures.ready + r.figures.starting + r.figures.draining for r in records), default=0
        ),
        most_memory=max((record.figures.memory for record in records), default=0),
    )


def measured_waits(records: Sequence[Record]) -> Iterator[tuple[float, float, float]]:
    """Yield waits, how many tasks had each, and the target: tasks begin in the order in which they come.

    Within a second tasks come evenly and begin evenly.
    """
    came: list[tuple[float, float]] = []
    """Ends of seconds in which tasks came, and how many had come by then."""
    first, total, begun = 0, 0.0, 0.0
    for place, record in enumerate(records):
        target = record.figures.target_wait / 1000
        for second, count in enumerate(record.arrivals):
            now = place * SECONDS + second + 1.0
            if not came:
                total = float(max(0, record.waiting[0] - count))
                came += [(now - 1.0, 0.0), (now - 1.0, total)]
            total += count
            came.append((now, total))
            begins, before_them = max(begun, total - record.waiting[second]), begun
            while begun < begins:
                while came[first + 1][1] <= begun:
                    first += 1
                (since, low), (until, high) = came[first], came[first + 1]
                until_number = min(begins, high)
                some, middle = until_number - begun, (begun + until_number) / 2
                arrived = since + (until - since) * (middle - low) / (high - low)
                began = now - 1.0 + (middle - before_them) / (begins - before_them)
                yield max(0.0, began - arrived), some, target
                begun = until_number
    now = len(records) * SECONDS
    for (_, low), (until, high) in zip(came[first:], came[first + 1 :], strict=False):
        if high > max(low, begun):
            yield now - until, high - max(low, begun), records[-1].figures.target_wait / 1000
