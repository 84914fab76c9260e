"""What a supervisor remembers of a worker group, and what it sees of it at each look."""

import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from celery_autoscaler.protocol.heartbeat import HORIZONS
from celery_autoscaler.protocol.status import QueueStatus
from celery_autoscaler.protocol.worker_seen import WorkerSeen
from celery_autoscaler.settings import Group
from celery_autoscaler.supervisor.members import members
from celery_autoscaler.supervisor.observation import FleetSeen, ListSeen
from celery_autoscaler.supervisor.policy import law as policy
from celery_autoscaler.supervisor.policy.crashes import Backoff
from celery_autoscaler.supervisor.policy.estimates import Age, Meter, StartUp, WorkerCounters, merged
from celery_autoscaler.supervisor.policy.limits import HostLimits, HostSeen
from celery_autoscaler.supervisor.policy.run_times import RunTimes
from celery_autoscaler.supervisor.policy.start_weight import StartWeight
from celery_autoscaler.supervisor.policy.throughput import Throughput

# A task that comes due within this time after a start wants a slot.
SOON_SECONDS = 2.0
# A start hangs that takes this many times as long as others.
HANGING_FACTOR = 2.0
# A group counts as not served after this time without a worker, at the earliest.
LEAST_UNSERVED_SECONDS = 30.0


@dataclass(frozen=True)
class StepSeen:
    """A list of a queue, one of its priority steps, as the last tick saw it."""

    queue: str
    name: str
    length: int
    future: int
    age: float
    departed: int
    """Messages that were seen to leave it."""


@dataclass
class GroupState:
    """What a supervisor remembers of a group, and what it last saw and decided."""

    group: Group
    law: policy.GroupPolicy
    meter: Meter = field(default_factory=Meter)
    startup: StartUp = field(default_factory=StartUp)
    start_weight: StartWeight = field(default_factory=StartWeight)
    backoff: Backoff = field(default_factory=Backoff)
    run_times: RunTimes = field(default_factory=RunTimes)
    throughput: Throughput = field(default_factory=Throughput)
    starting_since: dict[str, float] = field(default_factory=dict)
    """Since when each of its starting workers was seen to start, on whichever host."""
    ages: dict[str, Age] = field(default_factory=dict)
    seen: policy.GroupSeen = field(default_factory=lambda: policy.GroupSeen(now=0.0))
    decision: policy.Decision = field(default_factory=lambda: policy.Decision(0, "nothing was seen yet"))
    draining: int = 0
    held_back: str = ""
    """What keeps this host from running as many workers as it should."""
    limited_by: str = ""
    """What keeps the fleet from having as many as the load needs: CPU, memory, Redis, back-off …"""
    not_started: tuple[str, str] = ("", "")
    """Why the last start was none: in a word, and in a sentence."""
    unserved_since: float | None = None
    """Since when no worker consumes although its minimum asks for one."""
    limit: int | None = None
    short_since: float | None = None
    quiet_since: float = 0.0
    """Since when this host has started and stopped none."""
    leaving_since: float | None = None
    """Since when this host shall run none."""
    overdue: int = 0
    """Tasks whose ETA has come and that have not begun, in the hands of workers."""
    overdue_age: float = 0.0
    """Seconds for which the first of these has waited."""
    queues: dict[str, QueueStatus] = field(default_factory=dict)
    """Read by the page's thread: never changed, only replaced."""
    steps: list[StepSeen] = field(default_factory=list)
    """The lists of its queues that hold messages, or held any before."""
    replacement: str = ""
    """The worker that was started in the place of an outdated one of this host."""
    failed_starts: int = 0
    last_failure: str = ""
    """How the last start that failed did."""
    published: tuple[Any, ...] = ()

    def serve(self, min_workers: int) -> None:
        """Take in whether any worker consumes although, or because, a minimum always runs."""
        now = self.seen.now
        if self.seen.ready or not min_workers or self.decision.limit == "paused":
            self.unserved_since = None
        elif self.unserved_since is None:
            self.unserved_since = now

    def unserved(self, now: float) -> float:
        """Return for how many seconds no worker has consumed although its minimum asks for one."""
        return 0.0 if self.unserved_since is None else now - self.unserved_since

    def is_not_served(self, now: float, start_timeout: float) -> bool:
        """Whether no worker has consumed for longer than a start takes, or may take: ``start_timeout``."""
        usual = max(LEAST_UNSERVED_SECONDS, 3 * self.startup.seconds)
        allowed = start_timeout if self.seen.starting else usual
        return self.unserved(now) > allowed

    def waiting_in(self, queues: Collection[str] | None) -> int:
        """Return how many messages wait in some of its queues, or in all of them."""
        return sum(found.waiting for queue, found in self.queues.items() if queues is None or queue in queues)

    def service_times(self, fleet: FleetSeen) -> dict[str, float]:
        """Return the mean seconds of work of its tasks by name, and of all under no name."""
        work: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
        for worker in fleet.workers:
            if worker.group == self.group.name:
                for name, done in worker.tasks.items():
                    work[name].append(done)
        times = {
            name: sum(seconds for _, seconds in done) / max(1, sum(begun for begun, _ in done))
            for name, done in work.items()
        }
        return times | self.run_times.by_name() | {"": self.seen.service_time or 0.0}

    def assumed(self, max_workers: int, tick: float) -> float:
        """Return how many messages its lists may hold before it is decided again.

        These are the messages that were there, one for each free slot, and what arrives in a tick. Where the
        group can have no more workers, any number.

        Args:
            max_workers: Workers that it may have.
            tick: Seconds between two ticks.
        """
        seen = self.seen
        is_full = seen.ready + seen.starting >= max_workers and not seen.room
        if self.decision.limit == "paused" or is_full:
            return math.inf
        slots = seen.slots if self.group.max_concurrency else seen.ready * self.group.concurrency
        free = max(0, slots - seen.busy - seen.held)
        arriving = math.ceil(max(seen.arrival_fast, seen.arrival_slow) * tick)
        return seen.backlog + seen.future + free + arriving

    def start_failed(self, now: float, how: str) -> None:
        """Note that a worker of this host ended soon after its start, or never consumed."""
        self.backoff.failed(now)
        self.failed_starts += 1
        self.last_failure = how


def see_group(
    now: float, state: GroupState, seen: FleetSeen, *, starved: bool = False, between: bool = False
) -> policy.GroupSeen:
    """Bring what is known of a group up to date; return what its law needs.

    Args:
        now: Of a steady clock.
        state: The group.
        seen: What the broker shows.
        starved: Whether this host is short of CPU.
        between: Whether this is a look between two ticks. Workers report once a second: estimates of what
            happened since the last tick are made for this look alone, and the next tick makes its own.
    """
    group = state.group
    workers = [w for w in seen.workers if w.alive and w.group == group.name]
    lists = [item for item in seen.lists if item.queue in group.queues]
    here = [w for w in workers if w.name not in seen.draining]
    ready = [w for w in here if w.state == "running"]
    state.draining = len(workers) - len(here) + sum(w.state in {"draining", "drained"} for w in here)
    # Claimed and without a lease yet, or with one and without a heartbeat.
    starting = {*seen.claims.get(group.name, ()), *(w.name for w in here if not w.state)}
    starting -= {w.name for w in workers if w.state}
    meter = state.meter.copy() if between else state.meter
    meter.update(
        now,
        sum(item.length for item in lists),
        {
            w.id: WorkerCounters(
                w.processed, w.reserved + w.scheduled, w.busy_seconds, w.active, w.concurrency
            )
            for w in workers
            if w.state
        },
    )
    taken: dict[str, int] = {}
    for worker in workers:
        for name, count in worker.taken.items():
            taken[name] = taken.get(name, 0) + count
    messages, future, departed = (dict.fromkeys(group.queues, 0) for _ in range(3))
    longest_wait = dict.fromkeys(group.queues, 0.0)
    steps = []
    parts: list[tuple[float, int]] = []
    for item in lists:
        known = state.ages.setdefault(item.name, Age())
        if between:
            known = known.copy()
        age = known.update(now, item.length, taken.get(item.name, 0))
        waits = age if item.length > item.future else 0.0
        if item.length or known.departed:
            steps.append(StepSeen(item.queue, item.name, item.length, item.future, waits, known.departed))
        if item.length > item.future:
            parts += without_future(known.parts(now), item)
        longest_wait[item.queue] = max(longest_wait[item.queue], waits)
        messages[item.queue] += item.length
        future[item.queue] += item.future
        departed[item.queue] += taken.get(item.name, 0)
    state.queues = {
        queue: QueueStatus(
            messages[queue], future[queue], longest_wait[queue], departed[queue], seen.dead_letters[queue]
        )
        for queue in group.queues
    }
    # Read by the page's thread: never changed, only replaced.
    state.steps = steps
    due = [w.oldest_due for w in workers if w.oldest_due is not None]
    state.overdue = sum(w.overdue for w in workers)
    state.overdue_age = max(0.0, seen.time - min(due)) if due else 0.0
    waiting = {queue: found.waiting for queue, found in state.queues.items()}
    longest = max(waiting, key=lambda queue: waiting[queue])
    etas = [eta for eta in [*(i.next_eta for i in lists), *(w.next_eta for w in workers)] if eta is not None]
    backlog = sum(waiting.values())
    age = max(state.overdue_age, *longest_wait.values())
    busy = sum(w.active for w in workers)
    if not between:
        state.run_times.update(seen.time, {w.id: w.run_times for w in workers if w.state})
        state.throughput.update(
            now,
            state.run_times.totals,
            busy=busy,
            waiting=backlog,
            lateness=age / group.target_wait,
            starved=starved,
        )
    useful = state.throughput.useful
    consuming = members(group, seen)
    starting_since = {name: state.starting_since.get(name, now) for name in starting}
    state.starting_since = starting_since
    startup = state.startup.seconds
    return policy.GroupSeen(
        now=now,
        backlog=backlog,
        future=sum(future.values()),
        held=sum(w.reserved for w in workers),
        busy_workers=sum(w.active > 0 for w in here),
        busy=busy,
        long=sum(
            since is not None and seen.time - since > group.target_wait
            for w in workers
            for _, since in w.running
        ),
        next_eta=min(etas) - seen.time if etas else None,
        due=due_soon(seen.time, startup + SOON_SECONDS, lists, workers),
        age=age,
        parts=merged(parts),
        longest=waiting[longest],
        longest_queue=longest,
        ready=len(ready),
        slots=sum(one.has for one in consuming),
        room=sum(max(0, one.most - one.has) for one in consuming),
        starting=len(starting),
        start_left=tuple(
            sorted(start_left(now - since, state.startup.seconds) for since in starting_since.values())
        ),
        starts_at_once=int(
            sum(HostLimits.starts_at_once(HostSeen(cpus=peer.weight)) for peer in seen.peers)
            / state.start_weight.value
        )
        or None,
        arrival_fast=meter.fast.value,
        arrival_slow=meter.slow.value,
        service_time=state.run_times.mean(seen.time, waiting_names(lists)) or meter.service_time,
        startup=startup,
        useful_slots=useful.slots,
        tried_slots=useful.tried,
    )


def start_left(elapsed: float, startup: float) -> float:
    """Return the seconds until a worker probably consumes that has been starting for some seconds."""
    if elapsed > HANGING_FACTOR * startup + SOON_SECONDS:
        # It hangs: whether and when it comes is not known.
        return startup
    return round(max(0.0, startup - elapsed), 2)


def without_future(parts: Sequence[tuple[float, int]], item: ListSeen) -> list[tuple[float, int]]:
    """Return the parts of a list without the messages whose time has not come, wherever in it they are."""
    share = (item.length - item.future) / item.length
    return [(age, max(1, round(count * share))) for age, count in parts]


def waiting_names(lists: Iterable[ListSeen]) -> dict[str, float]:
    """Return about how many tasks of each name wait in some lists, going by a sample of each."""
    names: dict[str, float] = {}
    for item in lists:
        for name, count in item.names.items() if item.sample else ():
            names[name] = names.get(name, 0.0) + count * item.length / item.sample
    return names


def due_soon(now: float, seconds: float, lists: Iterable[ListSeen], workers: Iterable[WorkerSeen]) -> int:
    """Return how many tasks come due within some seconds, in the lists and in the workers."""
    horizon = min(bisect_left(HORIZONS, seconds), len(HORIZONS) - 1)
    in_lists = sum(item.due_by(now + seconds) for item in lists if item.length)
    return round(in_lists) + sum(w.due[horizon] for w in workers if len(w.due) > horizon)
