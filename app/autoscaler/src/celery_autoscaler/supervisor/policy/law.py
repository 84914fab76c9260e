"""The control law: how many workers a group should have, and why.

Pure: no I/O, no clock of its own; a simulator can run it unchanged. In three steps:

1. :class:`GroupPolicy` wants a number of workers for the fleet, from the demand and the target wait alone.
   All supervisors of a fleet see the same and want the same.
2. :func:`celery_autoscaler.supervisor.policy.shares.share` divides the number among the hosts.
3. :class:`celery_autoscaler.supervisor.policy.limits.HostLimits` hold a host back that is short of something.

The law counts in *slots*: tasks that can run at a time. Sources: square-root staffing (Halfin and Whitt,
"Heavy-traffic limits for queues with many exponential servers", 1981) for the spare; delayed-off (Gandhi,
Harchol-Balter, Raghunathan, Kozuch, "AutoScale", 2012) for the stabilisation.
"""

import math
from collections import deque
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from celery_autoscaler.protocol.overrides import Override
from celery_autoscaler.settings import Group
from celery_autoscaler.supervisor.policy.bounds import bounds

# Spare slots in square roots of the load: with 1, one task in five has to wait at all.
SPARE = 1.0
# Slots that are kept beyond what is needed before any is given up.
HYSTERESIS = 0.15
# Part of the workers that may be given up in one tick.
STEP = 0.25
# Seconds that a task is taken to last before one was seen.
FIRST_TASK_SECONDS = 1.0
# Messages a second below which nothing arrives.
NOTHING = 0.01
# Busy slots that slow averages still show and that keep no worker.
FORGOTTEN = 0.02
# Part of the target wait that is aimed at: the rest is for the unforeseen.
AIM = 0.65
# Part of a sudden rise of the arrivals that is expected to go on; the rest of it waits already.
RISE = 0.5
# Part of the target wait in which what is late already shall be caught up with.
LATE = 0.25
# Seconds that two looks are taken to lie apart: at first, and at most.
FIRST_TICK_SECONDS, LONGEST_TICK_SECONDS = 1.0, 60.0
# Idle spans that are remembered, and what an expected task is waited for beyond the longest of them.
IDLE_SPANS = 10
IDLE_SPARE = 1.5
# Starts that an idle worker may cost before it is stopped, where a start takes longer than the target wait.
IDLE_STARTS = 20.0


@dataclass(frozen=True)
class GroupSeen:
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
    long: int = 0
    """Of the tasks that run, those that have done so for longer than the target wait."""
    next_eta: float | None = None
    """Until the time of the next task that waits for its ETA, wherever it is."""
    due: int = 0
    """Tasks whose time (ETA) comes before a worker that starts now consumes."""
    age: float = 0.0
    """For which the oldest message has waited."""
    parts: tuple[tuple[float, int], ...] = ()
    """What waits, in parts, the oldest first: age of the part's oldest message, number of messages."""
    longest: int = 0
    """Messages of the longest queue that could run now."""
    longest_queue: str = ""
    unit: str = "worker"
    """What is counted here and decided: workers, or the slots of workers that stretch."""
    ready: int = 0
    """Workers that consume."""
    slots: int = 0
    """Slots of the workers that consume."""
    room: int = 0
    """Slots that these can add without a start."""
    starting: int = 0
    start_left: tuple[float, ...] = ()
    """Of starting workers, until they probably consume; those that are not listed need a whole start."""
    starts_at_once: int | None = None
    """Workers that all hosts together start at a time, if that is known."""
    arrival_fast: float = 0.0
    """Messages a second, lately."""
    arrival_slow: float = 0.0
    """Messages a second, over half a minute."""
    service_time: float | None = None
    """Mean run time of a task, if one was seen."""
    startup: float = 3.0
    """From a worker's start until it consumes."""
    useful_slots: int | None = None
    """Slots beyond which no more tasks are finished, if that was found."""
    tried_slots: int = 0
    """Slots that were found to finish no more than these."""


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
    slots: int = 0
    """Slots, over the whole fleet, if its workers stretch."""


@dataclass
class GroupPolicy:
    """Wants a number of workers for one group; remembers what it wanted lately."""

    stabilisation: float = 60.0
    """Seconds for which fewer workers must have been enough before one is stopped."""
    queue_threshold: int = 1000
    _wanted: deque[tuple[float, int]] = field(default_factory=deque)
    _urgent_until: float = -math.inf
    _last_work: float = -math.inf
    _last_step: float = -math.inf
    _last_look: float = -math.inf
    _tick: float = FIRST_TICK_SECONDS
    """Seconds between the last two looks."""
    _idle: deque[float] = field(default_factory=lambda: deque(maxlen=IDLE_SPANS))
    """Spans in which there was nothing to do and after which there was."""

    def between_ticks(self, now: float) -> "GroupPolicy":
        """Return a copy for a decision between two ticks: it remembers the same, and leaves no trace here."""
        wanted, idle = self._wanted.copy(), self._idle.copy()
        return replace(self, _wanted=wanted, _idle=idle, _last_look=now - self._tick)

    def pass_until(self, now: float) -> None:
        """Take looks until a time as made: they showed the same as the last one."""
        if self._wanted and now > self._last_look:
            self._wanted.append((now, self._wanted[-1][1]))
            self._last_look = now

    def decide(self, group: Group, seen: GroupSeen, override: Override | None = None) -> Decision:
        """Return the decision of one tick; ticks come in the order of time."""
        override = override or Override()
        low, high = bounds(group, override)
        have = seen.ready + seen.starting
        tick = FIRST_TICK_SECONDS
        if self._wanted:
            tick = min(max(seen.now - self._last_look, 0.0), LONGEST_TICK_SECONDS)
        self._last_look, self._tick = seen.now, tick
        load = Load.of(group, seen, tick, high)
        emergency = seen.longest > 2 * self.queue_threshold and load.clears_in > group.target_wait - seen.age
        panic = seen.age > group.target_wait or (
            seen.arrival_fast > 2 * seen.arrival_slow
            and seen.arrival_fast * load.service >= group.concurrency
        )
        is_long = seen.longest > self.queue_threshold and load.clears_in > group.target_wait / 2
        if is_long or (panic and load.waiting):
            self._urgent_until = seen.now + self.stabilisation
        if load.waiting or seen.busy or seen.arrival_fast > NOTHING:
            if self._last_work > -math.inf and seen.now - self._last_work > self.stabilisation:
                self._idle.append(seen.now - self._last_work)
            self._last_work = seen.now
        if not self._wanted:
            # What there was before the first look was of use just then, as far as can be known.
            self._last_work = seen.now
            self._wanted.append((seen.now, have))
        kept_for = self._window(group, seen, tick)
        window = self._remember(seen.now, self._useful(group, seen, load, kept_for), kept_for)
        if override.paused:
            return Decision(have, f"{override.pause_words}; nothing is started or stopped", "paused")
        want, why, limit = self._unbounded(group, seen, load, Lately(window, kept_for), emergency)
        if seen.useful_slots is not None:
            # What runs for long is left alone: it would be given back at the end of the time to drain.
            useful = max(
                1, *(workers_for(slots, group.concurrency) for slots in (seen.useful_slots, seen.long))
            )
            if want > useful:
                tried = max(workers_for(seen.tried_slots, group.concurrency), useful + 1)
                want, limit = useful, "throughput"
                why = f"{why}. More {seen.unit}s finish no more tasks ({tried} → {useful})"
        unbounded, want = want, max(low, min(high, want))
        if want > have and load.waiting:
            last = load.waiting * load.service / (want * group.concurrency)
            clear = f"{seen.unit} clears" if want == 1 else f"{seen.unit}s clear"
            why = f"{why}; {want} {clear} the queue in about {last:.1f} s"
        unit = " slots" if seen.unit == "slot" else ""
        if want < unbounded:
            why, limit = f"{why}. Limited by max_workers = {high}{unit}", "max_workers"
        elif want > unbounded:
            why, limit = f"{why}. Limited by min_workers = {low}{unit}", "min_workers"
        return Decision(want, why, limit, emergency)

    def _window(self, group: Group, seen: GroupSeen, tick: float) -> float:
        """Return the seconds for which fewer workers must have been enough.

        Where a start takes longer than the target wait, tasks after an idle span are late unless a worker is
        there: it is kept for as long as tasks usually come again, at the cost of a number of starts at most.
        """
        worth = IDLE_STARTS * seen.startup
        if seen.startup + 2 * tick <= group.target_wait:
            return self.stabilisation
        expected = IDLE_SPARE * max((span for span in self._idle if span <= worth), default=0.0)
        return max(self.stabilisation, min(worth, expected))

    def _useful(self, group: Group, seen: GroupSeen, load: "Load", kept_for: float) -> int:
        """Return the workers that have something to do now or soon: none beyond is kept for long."""
        if seen.now - self._last_work > self.stabilisation:
            # The averages of the arrivals are slower than that; the last worker does not wait for them.
            if seen.now - self._last_work > kept_for and seen.arrival_slow * load.service < FORGOTTEN:
                self._wanted.clear()
            soon = seen.next_eta is not None and seen.next_eta <= max(self.stabilisation, seen.startup)
            return max(int(soon), workers_for(load.grow, group.concurrency))
        return workers_for(max(load.keep, load.grow, 1), group.concurrency)

    def _remember(self, now: float, useful: int, window: float) -> int:
        """Return the most workers that were useful within a window."""
        while self._wanted and self._wanted[0][0] < now - window:
            self._wanted.popleft()
        while self._wanted and self._wanted[-1][1] <= useful:
            self._wanted.pop()
        self._wanted.append((now, useful))
        return self._wanted[0][1]

    def _unbounded(
        self, group: Group, seen: GroupSeen, load: "Load", lately: "Lately", emergency: bool
    ) -> tuple[int, str, str]:
        """Return the workers wanted before the bounds, why, and what kept them from being fewer."""
        have = seen.ready + seen.starting
        grow = workers_for(load.grow, group.concurrency)
        why = load.explain(group, seen)
        jobs = workers_for(seen.busy + load.waiting, group.concurrency)
        queue = f"{seen.longest} messages in queue {seen.longest_queue}"
        if emergency:
            over = f"EMERGENCY: {queue} are more than twice the threshold of {self.queue_threshold}. {why}"
            # Many short tasks may be little work: as long as none is late, what they need is enough.
            return max(have, jobs if seen.age > group.target_wait else grow), over, ""
        if grow > have and load.waiting:
            return grow, why, ""
        if seen.longest > self.queue_threshold and load.clears_in > group.target_wait / 2:
            over = f"{queue} are more than the threshold of {self.queue_threshold}. {why}"
            return min(self._one_more(have, seen), max(have, jobs)), over, ""
        eta = math.inf if seen.next_eta is None else max(0.0, seen.next_eta)
        if (load.due and grow > have) or (have == 0 and eta <= seen.startup + 1.0):
            tasks = f"{load.due} tasks come" if load.due > 1 else "A task comes"
            due = f"{tasks} due in {eta:.0f} s; a start takes {seen.startup:.0f} s"
            return max(grow, 1), due, ""
        # A task that outlasts the drain of its worker would have to begin again.
        running = max(workers_for(seen.busy, group.concurrency), seen.busy_workers)
        return self._fewer(lately, running, why, seen)

    def _one_more(self, have: int, seen: GroupSeen) -> int:
        """Return one worker more, but not before the last one consumes."""
        if seen.starting or seen.now - self._last_step < seen.startup:
            return have
        self._last_step = seen.now
        return have + 1

    def _fewer(self, lately: "Lately", running: int, why: str, seen: GroupSeen) -> tuple[int, str, str]:
        """Return as many workers as were needed lately."""
        have, window, unit = seen.ready + seen.starting, lately.workers, seen.unit
        if window >= have:
            if self._wanted[-1][1] < have:
                needed = f"{window} {unit}{'s were' if window > 1 else ' was'} needed"
                return have, f"{why}. {needed} within the last {lately.seconds:.0f} s", "stabilisation"
            return have, why, ""
        if seen.now < self._urgent_until:
            return have, f"{why}. It was urgent within the last {self.stabilisation:g} s", "stabilisation"
        if running >= have:
            return have, why, ""
        enough = f"{window} {unit}{' has' if window == 1 else 's have'} been enough for"
        if window == 0:
            enough = f"No {unit} has been needed for"
        less = max(window, running, have - math.ceil(STEP * have))
        return less, f"{enough} {lately.seconds:.0f} s. {why}", ""


class Lately(NamedTuple):
    """What was needed in the seconds for which fewer workers must have been enough."""

    workers: int
    seconds: float


@dataclass(frozen=True)
class Load:
    """The demand of a group, in slots."""

    offered: float
    """Slots that the arriving tasks keep busy (Little's law)."""
    waiting: int
    """Messages that wait for a slot."""
    due: int
    """Tasks that come due soon."""
    service: float
    """Seconds a task."""
    clears_in: float
    """Seconds that the workers there are, or one, need for what waits."""
    grow: int
    """Slots worth having now; never more than there are tasks for."""
    keep: int
    """Slots below which nothing is given up."""

    @classmethod
    def of(cls, group: Group, seen: GroupSeen, tick: float, high: int) -> "Load":
        """Return the demand that follows from what is seen.

        Args:
            group: The group.
            seen: What is seen of it.
            tick: Seconds between two looks.
            high: Workers that it has at most.
        """
        service = seen.service_time or FIRST_TASK_SECONDS
        waiting = seen.backlog + seen.held
        steady = seen.arrival_slow * service
        offered = max(seen.arrival_fast * service, steady)
        clear = 0
        if waiting:
            expected = steady + RISE * (offered - steady)
            supply = Supply.of(group, seen, max(expected, float(seen.long)), high)
            clear = supply.to_clear(group, seen, tick)
        wave = seen.due * service / (AIM * group.target_wait)
        grow = max(math.ceil(offered + SPARE * math.sqrt(offered)), clear)
        if seen.due:
            grow = max(grow, math.ceil(max(steady, clear) + wave))
        if waiting and seen.age > longest_wait(group, seen, service, tick):
            # What runs may do so for long: the oldest must not wait for the end of it.
            grow = max(grow, seen.busy + 1)
        keep = math.ceil((steady + SPARE * math.sqrt(steady)) * (1 + HYSTERESIS))
        return cls(
            offered=offered,
            waiting=waiting,
            due=seen.due,
            service=service,
            clears_in=waiting * service / (max(1, seen.ready + seen.starting) * group.concurrency),
            grow=min(grow, seen.busy + waiting + seen.due),
            keep=max(keep, clear),
        )

    def explain(self, group: Group, seen: GroupSeen) -> str:
        """Say in words what the demand is."""
        rate = max(seen.arrival_fast, seen.arrival_slow)
        slots = (seen.ready + seen.starting) * group.concurrency
        guess = "" if seen.service_time else " (estimate)"
        arriving = ""
        if rate > NOTHING:
            each = f"{rate:.1f}/s × {self.service:.2g} s each{guess}"
            arriving = f"; arriving {each} = {self.offered:.1f} busy slots"
        if not self.waiting:
            future = f", {seen.future} for later" if seen.future else ""
            runs = f"{seen.busy} running" if seen.busy else "none running"
            return f"No tasks waiting, {runs}{future}{arriving}"
        age = f", oldest {seen.age:.1f} s" if seen.age >= 0.1 else ""
        work = (
            f", about {self.waiting * self.service / slots:.1f} s of work for {slots} slot{'s' * (slots > 1)}"
            if slots
            else ""
        )
        tasks = f"{self.waiting} task{'s' if self.waiting > 1 else ''} waiting"
        return f"{tasks}{age}{work}{arriving}. Target wait {group.target_wait:g} s"


@dataclass(frozen=True)
class Supply:
    """The slots that a group has, and when it gets further ones.

    Slots that consume work from now on, those of starting workers once these consume, and further ones when a
    host has started them: a batch at a time, and each batch takes a start. Without credit for what is
    starting, each look would charge the same tasks with a whole start again.
    """

    concurrency: int
    service: float
    delays: tuple[float, ...]
    """Of each worker that there is, until it consumes."""
    ready: int
    startup: float
    at_once: int
    """Workers that start at a time."""
    others: float
    """Slots that other tasks keep busy meanwhile."""
    most: int
    """Workers that the group has at most."""

    @classmethod
    def of(cls, group: Group, seen: GroupSeen, others: float, most: int) -> "Supply":
        """Return what follows from what is seen."""
        known = sorted(max(0.0, left) for left in seen.start_left)
        rest = [seen.startup] * (seen.starting - len(known))
        # Next to a start a fork takes no time.
        ready = seen.ready + seen.room
        delays = (*[0.0] * ready, *known, *rest)
        at_once = max(1, seen.starts_at_once or most)
        service = seen.service_time or FIRST_TASK_SECONDS
        return cls(group.concurrency, service, delays, ready, seen.startup, at_once, others, most)

    def to_clear(self, group: Group, seen: GroupSeen, tick: float) -> int:
        """Return the slots that begin each waiting task before it has waited for too long."""
        shortest = max(self.service, LATE * group.target_wait)
        counted = sum(count for _, count in seen.parts)
        slots, before = 0, max(0, seen.backlog + seen.held - counted)
        for age, count in seen.parts or ((seen.age, 0),):
            before += count
            horizon = AIM * group.target_wait - age - tick
            slots = max(slots, self.slots_for(before * self.service, horizon, shortest))
        return slots

    def slots_for(self, work: float, horizon: float, shortest: float) -> int:
        """Return the slots that do a number of seconds of work within a time.

        What is late already is caught up with in the shortest time that is worth a start.
        """
        workers, done, idle = 0, 0.0, -self.others
        while done < work and workers < max(self.most, len(self.delays)):
            span = max(horizon - self._delay(workers), shortest)
            free = max(idle + self.concurrency, 0.0) - max(idle, 0.0)
            done, idle, workers = done + span * free, idle + self.concurrency, workers + 1
            if done >= work:
                return math.ceil(workers * self.concurrency - (done - work) / span)
        # More than there may be, if they are not enough.
        return (workers + (done < work)) * self.concurrency

    def _delay(self, worker: int) -> float:
        """Return the seconds until a worker consumes."""
        if worker < len(self.delays):
            return self.delays[worker]
        return self.startup * math.ceil((worker + 1 - self.ready) / self.at_once)


def longest_wait(group: Group, seen: GroupSeen, service: float, tick: float) -> float:
    """Return for how long a task may wait for one that runs to end before another slot is started for it."""
    in_time = group.target_wait - seen.startup - 2 * tick
    # A start comes too late in any case: worth it only if those that run take longer than usual.
    return in_time if in_time > 0 else min(group.target_wait / 2, 2 * service)


def workers_for(slots: int, concurrency: int) -> int:
    """Return how many workers have that number of slots."""
    return math.ceil(slots / concurrency)
