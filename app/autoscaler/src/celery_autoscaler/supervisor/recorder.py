"""Makes the records of a group from what a supervisor sees at each tick. Pure: no I/O, no clock.

All supervisors of a fleet see the same and make the same records; one of them writes them.
"""

import math
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from celery_autoscaler.protocol.ended import Counted, Ended
from celery_autoscaler.protocol.recording import RECORDS, SECONDS, Figures, Record
from celery_autoscaler.supervisor.policy.estimates import SLOW_SECONDS, WorkerCounters, before_first_look

# Seconds between two looks beyond which it is not known what came meanwhile.
LONGEST_SECONDS = 60.0


@dataclass(frozen=True)
class Look:
    """What one tick shows of a group."""

    at: float
    """In seconds of the epoch, by the server's clock."""
    figures: Figures
    """All but the sums over ten seconds."""
    waiting: int
    """Tasks that could run and wait for a slot."""
    counters: Mapping[str, WorkerCounters]
    """Of each living worker by its id; those held without the ones whose time has not come."""
    workers: int
    """Workers that consume, start or drain."""
    starting: frozenset[str] = frozenset()
    """Names of those that start."""
    ended: Counted = field(default_factory=dict)
    """Tasks by name that have ended so far."""


class ArrivalCounter:
    """Counts the tasks that come, from what waits and what workers have begun.

    Workers report once a second: a task that has left its list and is not reported yet seems to be gone for a
    moment, and to come again. So does one that a worker gives back at its end.
    """

    def __init__(self) -> None:
        self._sum: int | None = None
        self._counters: Mapping[str, WorkerCounters] = {}
        self._missing = 0.0

    def update(self, seconds: float, waiting: int, counters: Mapping[str, WorkerCounters]) -> int:
        """Take in a look, a number of seconds after the one before; return how many tasks have come since."""
        begun, first = 0, self._sum is None
        for worker, seen in counters.items():
            known = self._counters.get(worker) or before_first_look(seen, seconds)
            begun += max(0, seen.processed - known.processed)
        for worker, gone in self._counters.items():
            if worker not in counters:
                self._missing += gone.running
        change = waiting - (self._sum or 0) + begun
        self._sum, self._counters = waiting, dict(counters)
        if first:
            return 0
        came = max(0, change - round(self._missing))
        self._missing = max(0.0, self._missing - change) * math.exp(-seconds / SLOW_SECONDS)
        return came


@dataclass
class _Open:
    """The record that is being made."""

    slot: int
    arrivals: list[int] = field(default_factory=lambda: [0] * SECONDS)
    waiting: list[int | None] = field(default_factory=lambda: [None] * SECONDS)
    figures: Figures = field(default_factory=Figures)
    ended: defaultdict[str, Ended] = field(default_factory=lambda: defaultdict(Ended))
    started: int = 0
    worker_seconds: float = 0.0
    busy_seconds: float = 0.0
    age: int = 0

    def closed(self, before: int) -> Record:
        """Return the record; what waited in a second without a look is what waited before."""
        waiting = []
        for seen in self.waiting:
            before = before if seen is None else seen
            waiting.append(before)
        figures = self.figures._replace(
            started=self.started,
            worker_time=round(1000 * self.worker_seconds),
            busy_time=round(1000 * self.busy_seconds),
            age=self.age,
        )
        return Record(self.slot, figures, tuple(self.arrivals), tuple(waiting), dict(self.ended))


class GroupRecorder:
    """Makes the records of one group, and keeps those of the block that is not complete."""

    def __init__(self) -> None:
        self.block: list[Record] = []
        """Records without a gap. A block ends with ten minutes of the clock."""
        self._arrivals = ArrivalCounter()
        self._open: _Open | None = None
        self._last: Look | None = None
        self._after = 0
        """The record in which the first look fell, or the first after a gap."""

    def update(self, look: Look) -> list[Record]:
        """Take in a look; return the block that has just become complete, if one has."""
        last, self._last = self._last, look
        seconds = look.at - last.at if last is not None else math.inf
        came = self._arrivals.update(seconds, look.waiting, look.counters)
        if last is None or not 0 <= seconds <= LONGEST_SECONDS:
            self._open, self._after = None, int(look.at // SECONDS)
            return self._complete()
        done: list[Record] = []
        for second, count in spread(came, last.at, look.at).items():
            done += self._move_to(second // SECONDS, last.waiting)
            if self._open is not None:
                self._open.arrivals[second % SECONDS] += count
                self._open.waiting[second % SECONDS] = look.waiting
        self._note(last, look, seconds)
        return done

    def _complete(self) -> list[Record]:
        done, self.block = self.block, []
        return done

    def _move_to(self, slot: int, waiting: int) -> list[Record]:
        """Go on to the record of a time; return the block that is complete with the one before."""
        done: list[Record] = []
        if self._open is None and slot > self._after:
            self._open = _Open(slot)
        while self._open is not None and self._open.slot < slot:
            self.block.append(self._open.closed(self.block[-1].waiting[-1] if self.block else waiting))
            self._open = _Open(self._open.slot + 1, figures=self._open.figures)
            if self._open.slot % RECORDS == 0:
                done += self._complete()
        return done

    def _note(self, last: Look, look: Look, seconds: float) -> None:
        if self._open is None:
            return
        record = self._open
        record.figures = look.figures
        record.age = max(record.age, look.figures.age)
        record.worker_seconds += last.workers * seconds
        record.busy_seconds += sum(seen.running for seen in last.counters.values()) * seconds
        record.started += len(look.starting - last.starting)
        for name, ended in look.ended.items():
            new = ended.minus(last.ended.get(name, Ended()))
            if new.tasks > 0:
                record.ended[name] = record.ended[name].plus(new)


def spread(count: int, begin: float, end: float) -> dict[int, int]:
    """Divide what came between two times among the seconds of the clock that these are in."""
    first, last = int(begin), int(end)
    found, before = {}, 0
    for second in range(first, last + 1):
        part = (min(second + 1.0, end) - begin) / (end - begin) if end > begin else 1.0
        total = round(count * part)
        found[second], before = total - before, total
    return found
