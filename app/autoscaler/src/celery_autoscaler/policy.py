"""The control law: how many workers a group should have, who of the hosts runs them, and why.

Pure: no I/O, no clock of its own; a simulator can run it unchanged. In three steps:

1. :class:`GroupPolicy` wants a number of workers for the whole fleet, from the demand and the promise alone.
   All supervisors of a fleet see the same and want the same.
2. :func:`share` divides the number among the hosts.
3. :class:`Brakes` hold a host back that is short of something.

The law counts in *slots*: tasks that can run at a time. Sources: square-root staffing (Halfin and Whitt,
"Heavy-traffic limits for queues with many exponential servers", 1981) for the spare; delayed-off (Gandhi,
Harchol-Balter, Raghunathan, Kozuch, "AutoScale", 2012) for the stabilisation.
"""

import math
from collections import deque
from collections.abc import Mapping, Sequence
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
        running = workers_for(seen.busy, group.concurrency)
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


@dataclass(frozen=True)
class Offer:
    """What a host offers to a group."""

    host: str
    weight: float
    """Its capacity in relation to the others."""
    limit: int | None = None
    """The most workers that it can run now, if it is short of something."""
    turn: int = 0
    """Decides between equals; another one in each group, or one host would run the first worker of all."""


def share(want: int, offers: Sequence[Offer]) -> dict[str, int]:
    """Divide workers among hosts by their weight.

    One worker after the other goes to the host with the highest ``weight / (workers + 1)`` (D'Hondt), which
    does not depend on how many follow: supervisors that want different numbers for a moment still give every
    host at most what the largest of these numbers gives it, so that together they keep the bounds.
    """
    given = {offer.host: 0 for offer in offers}
    open_offers = sorted(offers, key=lambda offer: (offer.turn, offer.host))
    for _ in range(want):
        open_offers = [o for o in open_offers if o.limit is None or given[o.host] < o.limit]
        if not open_offers:
            break
        best = max(open_offers, key=lambda offer: offer.weight / (given[offer.host] + 1))
        given[best.host] += 1
    return given


def moves(
    want: int, maximum: int, have: Mapping[str, int], offers: Sequence[Offer], *, rebalance: bool
) -> dict[str, int]:
    """Return how many workers each host should start (positive) or stop (negative) now.

    Every supervisor computes the same from the same; each acts for its own host only. Workers are not moved
    for the sake of even shares while demand goes up or down anyway: who has too few starts, who has too many
    stops.

    Args:
        want: Workers of the fleet.
        maximum: Workers that the fleet must not exceed.
        have: Workers that consume or start, by host; those of hosts without a supervisor among them.
        offers: What the hosts with a supervisor offer.
        rebalance: Whether to move one worker to a host that has too few, when the number itself is right.
    """
    hosts = [offer.host for offer in offers]
    alone = sum(count for host, count in have.items() if host not in hosts)
    targets = share(max(0, want - alone), offers)
    counts = {host: have.get(host, 0) for host in hosts}
    deltas = dict.fromkeys(hosts, 0)

    def lacking(host: str) -> int:
        return targets[host] - counts[host] - deltas[host]

    missing = want - alone - sum(counts.values())
    if missing == 0 and rebalance and is_uneven(counts, offers, targets):
        missing = 1 if want < maximum else -1
    step = 1 if missing > 0 else -1
    for _ in range(abs(missing)):
        candidates = [host for host in sorted(hosts) if step * lacking(host) > 0]
        if not candidates:
            break
        deltas[max(candidates, key=lambda host: step * lacking(host))] += step
    return deltas


def is_uneven(counts: Mapping[str, int], offers: Sequence[Offer], targets: Mapping[str, int]) -> bool:
    """Return whether moving a worker from one host to another makes the shares more even."""
    weights = {offer.host: offer.weight for offer in offers}
    over = [host for host in counts if counts[host] > targets[host]]
    under = [host for host in counts if counts[host] < targets[host]]
    return any(
        counts[rich] / weights[rich] > (counts[poor] + 1) / weights[poor] for rich in over for poor in under
    )


@dataclass(frozen=True)
class HostSeen:
    """What a supervisor sees of its host, or of the cgroup that it runs in."""

    cpus: float = 1.0
    cpu: float = 0.0
    """Per cent of the CPUs in use."""
    memory: float = 0.0
    """Per cent of the memory in use."""
    memory_limit: int = 0
    """Bytes, 0 if not known."""
    memory_pressure: float = 0.0
    """Per cent of the last 10 s in which something waited for memory (PSI)."""
    cpu_pressure: float = 0.0
    """Per cent of the last 10 s in which something waited for a CPU (PSI)."""


# Pressure stall information above which nothing is started, in per cent.
MEMORY_PRESSURE = 10.0
CPU_PRESSURE = 60.0
# Workers that may be starting at a time for each CPU.
STARTS_A_CPU = 2
# Seconds between two workers given up because the host is short of something, and before any is started.
SETTLE = 10.0


@dataclass
class Brakes:
    """What keeps a host from starting workers, or makes it give one up."""

    cpu_threshold: float
    memory_threshold: float
    _last: float = -math.inf
    _short_since: float | None = None

    def against_starts(self, host: HostSeen, *, slowing: bool, worker_memory: int, starting: int) -> str:
        """Return what the host is too short of to start a worker; nothing if it is not.

        Args:
            host: What is seen of the host.
            slowing: Whether tasks take longer lately.
            worker_memory: Bytes that one more worker would take; 0 if not known.
            starting: Workers of the host that are starting.
        """
        if host.memory > self.memory_threshold:
            return f"memory is used to {host.memory:.0f} %, over {self.memory_threshold:g} %"
        room = host.memory_limit * (self.memory_threshold - host.memory) / 100
        if host.memory_limit and worker_memory * (starting + 1) > room:
            return (
                f"a worker takes {worker_memory / 2**20:.0f} MiB, {room / 2**20:.0f} MiB are left below "
                f"{self.memory_threshold:g} % of memory"
            )
        if host.memory_pressure > MEMORY_PRESSURE:
            return f"memory is under pressure: something waited for it {host.memory_pressure:.0f} % of 10 s"
        if host.cpu > self.cpu_threshold:
            return f"CPU is used to {host.cpu:.0f} %, over {self.cpu_threshold:g} %"
        if host.cpu_pressure > CPU_PRESSURE and slowing:
            return f"CPU is under pressure ({host.cpu_pressure:.0f} %) and tasks take longer than before"
        return ""

    @staticmethod
    def starts_at_once(host: HostSeen) -> int:
        """Return how many workers may be starting at a time, lest all of them start slowly."""
        return max(2, math.ceil(STARTS_A_CPU * host.cpus))

    def for_a_stop(self, now: float, host: HostSeen, *, slowing: bool) -> str:
        """Return why one worker should be given up now; nothing if none should."""
        if host.memory > self.memory_threshold:
            why = f"memory stays at {host.memory:.0f} %, over {self.memory_threshold:g} %"
        elif host.cpu > self.cpu_threshold and slowing:
            why = f"CPU stays at {host.cpu:.0f} % and more workers only make tasks slower"
        else:
            self._short_since = None
            return ""
        if self._short_since is None:
            self._short_since = now
        if now - self._short_since < SETTLE or now - self._last < SETTLE:
            return ""
        self._last = now
        return why


def victims(count: int, candidates: Mapping[str, "Candidate"]) -> list[str]:
    """Return the workers to stop: outdated ones first, then idle ones, then those with least work left."""
    ordered = sorted(candidates, key=lambda name: (candidates[name].order, name))
    return ordered[: max(0, count)]


@dataclass(frozen=True)
class Candidate:
    """A worker that could be stopped."""

    outdated: bool
    busy: int
    """Messages that it runs or holds."""
    remaining: float
    """Seconds of work that it probably still has."""

    @property
    def order(self) -> tuple[bool, bool, float]:
        """Sorts the cheapest to stop first."""
        return (not self.outdated, self.busy > 0, self.remaining)
