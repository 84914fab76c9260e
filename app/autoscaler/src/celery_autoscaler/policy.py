"""The control law: how many workers a group should have, and why.

Pure: no I/O, no clock of its own; a simulator can run it unchanged. In three steps:

1. :class:`GroupPolicy` wants a number of workers for the whole fleet, from the demand and the promise alone.
   All supervisors of a fleet see the same and want the same.
2. :func:`celery_autoscaler.shares.share` divides the number among the hosts.
3. :class:`celery_autoscaler.limits.Brakes` hold a host back that is short of something.

The law counts in *slots*: tasks that can run at a time. Sources: square-root staffing (Halfin and Whitt,
"Heavy-traffic limits for queues with many exponential servers", 1981) for the spare; delayed-off (Gandhi,
Harchol-Balter, Raghunathan, Kozuch, "AutoScale", 2012) for the stabilisation.
"""

import math
from collections import deque
from dataclasses import dataclass, field

from celery_autoscaler.settings import Group

# Spare slots in square roots of the load: with 1, one task in five has to wait at all.
SPARE = 1.0
# Slots that are kept beyond what is needed before any is given up.
HYSTERESIS = 0.15
# Part of the workers that may be given up in one tick.
STEP = 0.25
# Seconds that a task is taken to last before one was seen.
FIRST_TASK = 1.0
# Messages a second below which nothing arrives.
NOTHING = 0.01


@dataclass(frozen=True)
class Seen:
    """What a supervisor sees of a group, over the whole fleet. Times in seconds."""

    now: float
    """When, by a steady clock."""
    backlog: int = 0
    """Messages in the lists that could run now."""
    future: int = 0
    """Messages in the lists whose time (ETA) has not come."""
    held: int = 0
    """Messages that workers have taken and not begun, without those whose time has not come."""
    busy_workers: int = 0
    """Workers that run something: none of them can be stopped without interrupting it."""
    busy: int = 0
    """Tasks that run."""
    next_eta: float | None = None
    """Until the time of the next task that waits for its ETA, wherever it is."""
    age: float = 0.0
    """For which the oldest message has waited."""
    longest: int = 0
    """Messages of the longest queue that could run now."""
    longest_queue: str = ""
    ready: int = 0
    """Workers that consume."""
    starting: int = 0
    arrival_fast: float = 0.0
    """Messages a second, lately."""
    arrival_slow: float = 0.0
    """Messages a second, over half a minute."""
    service_time: float | None = None
    """Of a task in the mean, if one was seen."""
    startup: float = 3.0
    """From a worker's start until it consumes."""


@dataclass(frozen=True)
class Override:
    """What an operator has set for a group."""

    paused: bool = False
    minimum: int | None = None
    maximum: int | None = None
    by: str = ""

    def bounds(self, group: Group) -> tuple[int, int]:
        """Return the minimum and the maximum in force."""
        low = group.min_workers if self.minimum is None else self.minimum
        high = group.max_workers if self.maximum is None else self.maximum
        return min(low, high), high


@dataclass(frozen=True)
class Decision:
    """How many workers a group should have, and why."""

    want: int
    """Workers, over the whole fleet."""
    reason: str
    """One sentence."""
    limit: str = ""
    """What kept the number from being another one, if anything did."""
    emergency: bool = False


@dataclass
class GroupPolicy:
    """Wants a number of workers for one group; remembers what it wanted lately."""

    stabilisation: float = 60.0
    """Seconds for which fewer workers must have sufficed before one is stopped."""
    queue_threshold: int = 1000
    _wanted: deque[tuple[float, int]] = field(default_factory=deque)
    _urgent_until: float = -math.inf
    _last_work: float = -math.inf
    _last_step: float = -math.inf

    def decide(self, group: Group, seen: Seen, override: Override | None = None) -> Decision:
        """Return the decision of one tick; ticks come in the order of time."""
        override = override or Override()
        have = seen.ready + seen.starting
        load = Load.of(group, seen)
        emergency = seen.longest > 2 * self.queue_threshold
        panic = seen.age > group.promise or (
            seen.arrival_fast > 2 * seen.arrival_slow
            and seen.arrival_fast * load.service >= group.concurrency
        )
        if seen.longest > self.queue_threshold or (panic and load.waiting):
            self._urgent_until = seen.now + self.stabilisation
        if load.waiting or seen.busy or seen.arrival_fast > NOTHING:
            self._last_work = seen.now
        if not self._wanted:
            # What there was before the first look was of use just then, as far as can be known.
            self._last_work = seen.now
            self._wanted.append((seen.now, have))
        window = self._remember(seen.now, self._useful(group, seen, load))
        if override.paused:
            by = f" by {override.by}" if override.by else ""
            return Decision(have, f"paused{by}: nothing is started or stopped", "paused")
        low, high = override.bounds(group)
        want, why, limit = self._unbounded(group, seen, load, window, emergency)
        wished, want = want, max(low, min(high, want))
        if want > have and load.waiting:
            last = load.waiting * load.service / (want * group.concurrency)
            workers = f"{want} worker{'s' if want > 1 else ''}"
            why = f"{why}; with {workers} the last of them starts in about {last:.1f} s"
        if want < wished:
            why, limit = f"{why}; the maximum is {high}", "maximum"
        elif want > wished:
            why, limit = f"{why}; the minimum is {low}", "minimum"
        return Decision(want, why, limit, emergency)

    def _useful(self, group: Group, seen: Seen, load: "Load") -> int:
        """Return the workers that have something to do now or soon: none beyond is kept for long."""
        if seen.now - self._last_work > self.stabilisation:
            # The averages of the arrivals are slower than that.
            self._wanted.clear()
            soon = seen.next_eta is not None and seen.next_eta <= max(self.stabilisation, seen.startup)
            return int(soon)
        return workers_for(max(load.keep, load.grow, 1), group.concurrency)

    def _remember(self, now: float, useful: int) -> int:
        """Return the most workers that were useful within the stabilisation window."""
        while self._wanted and self._wanted[0][0] < now - self.stabilisation:
            self._wanted.popleft()
        while self._wanted and self._wanted[-1][1] <= useful:
            self._wanted.pop()
        self._wanted.append((now, useful))
        return self._wanted[0][1]

    def _unbounded(
        self, group: Group, seen: Seen, load: "Load", window: int, emergency: bool
    ) -> tuple[int, str, str]:
        """Return the workers wanted before the bounds, why, and what kept them from being fewer."""
        have = seen.ready + seen.starting
        grow = workers_for(load.grow, group.concurrency)
        queue = f"{seen.longest} messages in queue {seen.longest_queue}"
        why = load.explain(group, seen)
        jobs = workers_for(seen.busy + load.waiting, group.concurrency)
        if emergency:
            over = f"EMERGENCY: {queue} are more than twice the threshold of {self.queue_threshold}"
            return max(have, jobs), over, ""
        if grow > have and load.waiting:
            return grow, why, ""
        if seen.longest > self.queue_threshold:
            over = f"{queue} are more than the threshold of {self.queue_threshold}"
            return min(self._one_more(have, seen), max(have, jobs)), over, ""
        if have == 0 and seen.next_eta is not None and seen.next_eta <= seen.startup + 1.0:
            wait = max(0.0, seen.next_eta)
            return 1, f"a task's time comes in {wait:.0f} s, a start takes {seen.startup:.0f} s", ""
        # A task that outlasts the drain of its worker would have to begin again.
        running = max(workers_for(seen.busy, group.concurrency), seen.busy_workers)
        return self._fewer(have, window, running, why, seen.now)

    def _one_more(self, have: int, seen: Seen) -> int:
        """Return one worker more, but not before the last one consumes."""
        if seen.starting or seen.now - self._last_step < seen.startup:
            return have
        self._last_step = seen.now
        return have + 1

    def _fewer(self, have: int, window: int, running: int, why: str, now: float) -> tuple[int, str, str]:
        """Return as many workers as were needed lately."""
        if window >= have:
            if self._wanted[-1][1] < have:
                return have, f"{why}; {window} were needed within {self.stabilisation:g} s", "stabilisation"
            return have, why, ""
        if now < self._urgent_until:
            return have, f"{why}; it was urgent within {self.stabilisation:g} s", "stabilisation"
        if running >= have:
            return have, why, ""
        enough = f"for {self.stabilisation:g} s {window} would have sufficed: {why}"
        return max(window, running, have - math.ceil(STEP * have)), enough, ""


@dataclass(frozen=True)
class Load:
    """The demand of a group, in slots."""

    offered: float
    """Slots that the arriving tasks keep busy (Little's law)."""
    waiting: int
    """Messages that wait for a slot."""
    service: float
    """Seconds a task."""
    grow: int
    """Slots worth having now; never more than there are tasks for."""
    keep: int
    """Slots below which nothing is given up."""

    @classmethod
    def of(cls, group: Group, seen: Seen) -> "Load":
        """Return the demand that follows from what is seen."""
        service = seen.service_time or FIRST_TASK
        waiting = seen.backlog + seen.held
        offered = max(seen.arrival_fast, seen.arrival_slow) * service
        # What is left of the promise once a new worker consumes; a quarter of it if that is late already.
        budget = max(group.promise - seen.age - seen.startup, service, group.promise / 4)
        catch_up = waiting * service / budget
        grow = math.ceil(offered + max(catch_up, SPARE * math.sqrt(offered)))
        steady = seen.arrival_slow * service
        keep = math.ceil((steady + SPARE * math.sqrt(steady)) * (1 + HYSTERESIS))
        return cls(
            offered=offered,
            waiting=waiting,
            service=service,
            grow=min(grow, seen.busy + waiting),
            keep=keep + (math.ceil(catch_up) if waiting else 0),
        )

    def explain(self, group: Group, seen: Seen) -> str:
        """Say in words what the demand is."""
        rate = max(seen.arrival_fast, seen.arrival_slow)
        slots = (seen.ready + seen.starting) * group.concurrency
        guess = "" if seen.service_time else " (a guess)"
        arriving = ""
        if rate > NOTHING:
            arriving = f"; {rate:.1f}/s × {self.service:.2g} s{guess} keep {self.offered:.1f} slots busy"
        if not self.waiting:
            future = f", {seen.future} wait for their time" if seen.future else ""
            return f"nothing waits{future}, {seen.busy or 'nothing'} runs{arriving}"
        work = f" = {self.waiting * self.service / slots:.1f} s of work for {slots} slots" if slots else ""
        age = f", the oldest for {seen.age:.1f} s" if seen.age >= 0.1 else ""
        return f"{self.waiting} tasks wait{age}{work}{arriving}; promised are {group.promise:g} s"


def workers_for(slots: int, concurrency: int) -> int:
    """Return how many workers have so many slots."""
    return math.ceil(slots / concurrency)
