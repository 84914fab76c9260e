"""What cannot be read off but follows from what can: arrival rate, service time, age, start-up time.

Pure: no I/O, no clock of its own. Times are seconds of any steady clock.
"""

import math
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

# Time constants of the arrival rate, in seconds: a quick one to follow a burst, a slow one to keep from it.
FAST_SECONDS = 3.0
SLOW_SECONDS = 30.0
# Seconds after which an observation of the service time has lost most of its weight.
MEMORY_SECONDS = 120.0
# Seconds of work that looks may have missed.
UNMET_SECONDS = 1.0
# Tasks for which all that was done before the first look counts.
HISTORY = 10
# How many times as long as before tasks take where a host is slowing.
SLOWER = 1.25
# Start-up times that are remembered.
STARTS = 10
# Parts of a list whose ages are told apart, and of all lists of a group.
PARTS, GROUP_PARTS = 4, 8
# Seconds that a start is taken to last before one was measured.
FIRST_START_SECONDS = 3.0


@dataclass
class Average:
    """An exponentially weighted moving average over uneven steps."""

    constant: float
    value: float = 0.0

    def update(self, value: float, seconds: float) -> None:
        """Take in a value that held for a number of seconds."""
        self.value += (1.0 - math.exp(-seconds / self.constant)) * (value - self.value)


class Age:
    """Age of the oldest message of a list, from its length and from how many were taken out of it.

    In a FIFO list the message next to be taken came when the number of arrivals reached the present number
    of departures plus one; arrivals are departures plus length. Between two looks arrivals are taken to be
    even. Messages need no time stamp.
    """

    def __init__(self) -> None:
        self._departed = 0
        self._taken = 0
        # Time, number of arrivals by then; the first one has arrivals of which all but some have departed.
        self._arrivals: deque[tuple[float, int]] = deque()

    def copy(self) -> "Age":
        """Return one that knows the same and shares nothing."""
        other = Age()
        other._departed, other._taken, other._arrivals = self._departed, self._taken, self._arrivals.copy()
        return other

    @property
    def departed(self) -> int:
        """Messages that were seen to leave the list since the first look."""
        return self._departed

    def update(self, now: float, length: int, taken: int) -> float:
        """Take in a look.

        Args:
            now: When it was.
            length: Messages in the list.
            taken: Messages taken from the list until now, in all.

        Returns:
            Seconds for which the oldest message has waited; at most since the first look.
        """
        self._departed += max(0, taken - self._taken)
        self._taken = taken
        arrived = self._departed + length
        if not self._arrivals:
            # What was there at the first look came just then, as far as can be known.
            self._arrivals.append((now, self._departed))
        last = self._arrivals[-1][1]
        if arrived < last:
            # Another consumer took messages.
            self._departed += last - arrived
            arrived = last
        if length == 0:
            self._arrivals.clear()
            self._arrivals.append((now, arrived))
            return 0.0
        if arrived > last:
            self._arrivals.append((now, arrived))
        while len(self._arrivals) > 1 and self._arrivals[1][1] <= self._departed:
            self._arrivals.popleft()
        return now - self._arrival_of(self._departed + 1)

    def parts(self, now: float, count: int = PARTS) -> list[tuple[float, int]]:
        """Return the list in parts, the oldest first: age of the oldest message, number of messages."""
        arrived = self._arrivals[-1][1] if self._arrivals else 0
        first, parts = self._departed, []
        for place in range(1, count + 1):
            end = self._departed + (arrived - self._departed) * place // count
            if end > first:
                parts.append((now - self._arrival_of(first + 1), end - first))
            first = end
        return parts

    def _arrival_of(self, number: int) -> float:
        """Return when a message came, counted from the first look."""
        known = self._arrivals
        place = bisect_left(known, number, key=lambda look: look[1])
        if place == 0 or len(known) == 1:
            return known[0][0]
        (begin, before), (end, after) = known[place - 1], known[min(place, len(known) - 1)]
        return begin + (end - begin) * (number - before) / max(1, after - before)


def merged(parts: Iterable[tuple[float, int]], most: int = GROUP_PARTS) -> tuple[tuple[float, int], ...]:
    """Return the parts of several lists, ages and numbers, as a few parts; each has the age of its oldest."""
    ordered = sorted(parts, reverse=True)
    size = max(1, math.ceil(sum(count for _, count in ordered) / most))
    found: list[tuple[float, int]] = []
    for age, count in ordered:
        if found and found[-1][1] + count <= size:
            found[-1] = found[-1][0], found[-1][1] + count
        else:
            found.append((round(age, 2), count))
    return tuple(found)


@dataclass(frozen=True)
class WorkerCounters:
    """What a worker has done since it started, and what it holds."""

    processed: int
    """Tasks that it has begun."""
    held: int
    """Messages that it has taken and not begun."""
    busy_seconds: float
    """Seconds of work of all its slots together."""
    running: int = 0
    """Tasks that it runs."""
    slots: int = 1
    """Tasks that it can run at a time."""


@dataclass
class Work:
    """Tasks and the seconds of work that they took, those long ago weighing less."""

    tasks: float = 0.0
    seconds: float = 0.0

    def update(self, fade: float, tasks: int, seconds: float) -> None:
        """Let what is known fade, and take in more."""
        self.tasks = self.tasks * fade + tasks
        self.seconds = self.seconds * fade + seconds


@dataclass
class Meter:
    """Arrival rate and service time of a group."""

    fast: Average = field(default_factory=lambda: Average(FAST_SECONDS))
    slow: Average = field(default_factory=lambda: Average(SLOW_SECONDS))
    work: Work = field(default_factory=Work)
    _at: float | None = None
    _waiting: int = 0
    _counters: Mapping[str, WorkerCounters] = field(default_factory=dict)
    # Messages of workers that have gone, which come back to the lists.
    _owed: float = 0.0

    def copy(self) -> "Meter":
        """Return one that knows the same and shares nothing that changes."""
        return replace(self, fast=replace(self.fast), slow=replace(self.slow), work=replace(self.work))

    def update(self, now: float, waiting: int, counters: Mapping[str, WorkerCounters]) -> None:
        """Take in a look.

        Args:
            now: When it was; later than the look before.
            waiting: Messages in the lists of the group, those for the future among them.
            counters: Of each living worker of the group, by its id.
        """
        seconds = math.inf if self._at is None else now - self._at
        begun, busy, held = 0, 0.0, 0
        for worker, seen in counters.items():
            known = self._counters.get(worker) or before_first_look(seen, seconds)
            begun += max(0, seen.processed - known.processed)
            busy += max(0.0, seen.busy_seconds - known.busy_seconds)
            held += seen.held - known.held
        self._owed += sum(
            gone.held + gone.running for worker, gone in self._counters.items() if worker not in counters
        )
        if 0 < seconds < math.inf:
            arrived = max(0, waiting - self._waiting + held + begun)
            returned = min(self._owed, arrived)
            rate = (arrived - returned) / seconds
            self.fast.update(rate, seconds)
            self.slow.update(rate, seconds)
            self.work.update(math.exp(-seconds / MEMORY_SECONDS), begun, busy)
            self._owed = (self._owed - returned) * math.exp(-seconds / SLOW_SECONDS)
        elif self._at is None and begun:
            # What the workers did before this process came tells how long tasks take, not when they arrived.
            weight = min(1.0, HISTORY / begun)
            self.work = Work(begun * weight, busy * weight)
        self._at, self._waiting, self._counters = now, waiting, dict(counters)

    @property
    def service_time(self) -> float | None:
        """Mean seconds of work a task (Little's law): work done over tasks begun; none before the first."""
        if self.work.tasks < 0.5:
            return None
        # Workers look once a second at what runs: tasks that no look meets are short, the more there are.
        tasks, seconds = self.work.tasks, self.work.seconds
        return seconds / tasks if seconds > 0 else UNMET_SECONDS / (tasks + 1)


class SlowdownDetector:
    """How long tasks take lately, beside before.

    Each kind of task is compared with itself: others that take longer by nature do not make a host slow.
    """

    def __init__(self) -> None:
        self._at: float | None = None
        self._known: dict[Hashable, tuple[int, float]] = {}
        self._recent: defaultdict[Hashable, Work] = defaultdict(Work)
        self._long: defaultdict[Hashable, Work] = defaultdict(Work)

    def update(self, now: float, done: Mapping[Any, tuple[int, float]]) -> None:
        """Take in a look: of each kind, the tasks that have ended so far and the seconds they took."""
        seconds = 0.0 if self._at is None else now - self._at
        for kind, (tasks, took) in done.items():
            tasks_before, took_before = self._known.get(kind, (0, 0.0))
            grown = tasks - tasks_before, took - took_before
            self._recent[kind].update(math.exp(-seconds / SLOW_SECONDS), *grown)
            self._long[kind].update(math.exp(-seconds / MEMORY_SECONDS), *grown)
        self._at, self._known = now, dict(done)

    @property
    def is_slowing(self) -> bool:
        """Whether tasks take distinctly longer lately than before: more of them at once would not help."""
        recent = {kind: work for kind, work in self._recent.items() if self._long[kind].tasks >= 1}
        expected = sum(
            work.tasks * self._long[kind].seconds / self._long[kind].tasks for kind, work in recent.items()
        )
        return (
            sum(work.tasks for work in recent.values()) >= 1
            and sum(work.seconds for work in recent.values()) > SLOWER * expected
        )


def before_first_look(seen: WorkerCounters, seconds: float) -> WorkerCounters:
    """Return what a worker had done, seconds ago, by the look before the first that shows it."""
    # One that has worked for longer than that was there and not seen: its past did not arrive just now.
    is_older = seen.busy_seconds > seen.slots * (seconds + 1.0)
    return seen if is_older else WorkerCounters(0, 0, 0.0)


class StartUp:
    """How long workers take from their start until they consume."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=STARTS)

    def add(self, seconds: float) -> None:
        """Take in a start."""
        self._seconds.append(seconds)

    @property
    def seconds(self) -> float:
        """What nine of ten starts stay below."""
        if not self._seconds:
            return FIRST_START_SECONDS
        ordered = sorted(self._seconds)
        return ordered[math.ceil(0.9 * len(ordered)) - 1]
