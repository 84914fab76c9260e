"""A discrete-event simulation of worker groups and hosts that follow the real control law, without a process.

Arrivals, sizes of tasks and the time that a start takes are given. The estimates, the law, the shares of the
hosts and their limits are the real ones and see no more than a supervisor sees: lengths, counters, workers.
Drains are ideal.
"""

from __future__ import annotations

import heapq
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from celery_autoscaler.protocol.ended import Ended
from celery_autoscaler.settings import Group
from celery_autoscaler.supervisor.policy.estimates import Age, Meter, WorkerCounters, merged
from celery_autoscaler.supervisor.policy.law import Decision, GroupSeen
from celery_autoscaler.supervisor.policy.limits import (
    HostLimits,
    HostSeen,
    StartNeed,
    start_turns,
    starting_load,
)
from celery_autoscaler.supervisor.policy.run_times import RunTimes
from celery_autoscaler.supervisor.policy.shares import Offer, moves
from celery_autoscaler.supervisor.policy.start_weight import StartWeight
from celery_autoscaler.supervisor.policy.throughput import Throughput

from support.simulated_load import Law, Task, Tick, Trace

QUEUE = "celery"


HOST = "host"


# Messages of the queue whose kind a supervisor sees.
PEEK = 100


# Seconds ahead for which a supervisor is told how many tasks come due, at most.
HORIZON = 120.0


@dataclass(frozen=True)
class SimulatedHost:
    """A host and what starting workers and tasks use of its CPUs, in CPUs each."""

    name: str = HOST
    cpus: float = 2.0
    start_cpu: float = 0.5
    task_cpu: float = 0.0


@dataclass
class SimulatedWorker:
    """A worker: where it runs, since when, when it consumes, what it has done, whether it takes more."""

    host: str
    since: float
    ready_at: float
    draining: bool = False
    running: int = 0
    processed: int = 0
    worked: float = 0.0

    def counters(self, now: float, slots: int) -> WorkerCounters:
        """Return what its heartbeat would show."""
        return WorkerCounters(
            processed=self.processed,
            held=0,
            busy_seconds=self.worked + now * self.running,
            running=self.running,
            slots=slots,
        )


def full_speed(_running: int) -> float:
    """Let tasks not disturb each other."""
    return 1.0


class SimulatedGroup:
    """One group of workers, its queue, and what a supervisor knows of both."""

    def __init__(
        self,
        group: Group,
        law: Law,
        tasks: Sequence[Task],
        *,
        startup: float = 3.0,
        workers: int | None = None,
        speed: Callable[[int], float] = full_speed,
        starts: int | None = None,
    ) -> None:
        """Prepare.

        Args:
            group: Its settings.
            law: What decides.
            tasks: In the order of time.
            startup: Seconds of a start.
            workers: Those that are there at the beginning; the group's minimum if not given.
            speed: The part of its full speed at which each task goes on while a number of them run.
            starts: Workers that the hosts start at a time.
        """
        self.group, self.law, self.startup, self.speed, self.starts = group, law, startup, speed, starts
        self.trace = Trace()
        self.workers: dict[int, SimulatedWorker] = {}
        self.initial = group.min_workers if workers is None else workers
        self.decision = Decision(self.initial, "")
        self.seen = GroupSeen(now=0.0)
        self._tasks = deque(sorted(tasks, key=lambda task: task.at))
        self._etas = sorted(task.at for task in tasks if task.sent is not None)
        self._sent = {task.at: task.sent for task in tasks if task.sent is not None}
        self._waiting: deque[Task] = deque()
        # Ends in seconds of undisturbed work, of which `_progress` are done.
        self._ends: list[tuple[float, int, int]] = []
        self._begun: dict[int, tuple[float, Task]] = {}
        self._progress = 0.0
        self._clock = 0.0
        self._free: list[int] = []
        """Number of a worker for each of its free slots; those that have ended since among them."""
        self._taken = 0
        self._number = 0
        self._ended: dict[str, Ended] = {}
        self._age, self._meter = Age(), Meter()
        self._run_times, self._throughput = RunTimes(), Throughput()
        self.start_weight = StartWeight()
        self.start_cpu = 0.0
        """CPUs that each of its starts uses."""

    # --- What a supervisor sees --------------------------------------------------------------------

    def look(self, now: float) -> None:
        """See what there is and decide."""
        self.seen = self._observe(now)
        self.decision = self.law.decide(self.group, self.seen)
        age = now - self._waiting[0].at if self._waiting else 0.0
        self.trace.ticks.append(Tick(self.seen, self.decision, age))

    def _observe(self, now: float) -> GroupSeen:
        workers, slots = self.workers, self.group.concurrency
        consuming = {n: w for n, w in workers.items() if w.ready_at <= now}
        backlog, busy = len(self._waiting), len(self._begun)
        age = self._age.update(now, backlog, self._taken)
        self._meter.update(now, backlog, {str(n): w.counters(now, slots) for n, w in consuming.items()})
        self._run_times.update(now, {"fleet": self._ended})
        service = self._run_times.mean(now, self._next_kinds(backlog)) or self._meter.service_time
        ready = sum(not worker.draining for worker in consuming.values())
        limit = self._throughput.update(
            now, self._run_times.totals, busy=busy, waiting=backlog, lateness=age / self.group.target_wait
        )
        return GroupSeen(
            now=now,
            backlog=backlog,
            busy=busy,
            long=sum(now - begun > self.group.target_wait for begun, _ in self._begun.values()),
            next_eta=self._next_eta(now),
            due=self._due(now),
            age=age,
            parts=merged(self._age.parts(now)),
            longest=backlog,
            longest_queue=QUEUE,
            ready=ready,
            busy_workers=sum(worker.running > 0 for worker in consuming.values()),
            starting=len(workers) - len(consuming),
            start_left=tuple(sorted(w.ready_at - now for w in workers.values() if w.ready_at > now)),
            starts_at_once=self.starts and int(self.starts / self.start_weight.value),
            arrival_fast=self._meter.fast.value,
            arrival_slow=self._meter.slow.value,
            service_time=service,
            startup=self.startup,
            useful_slots=limit.slots,
            tried_slots=limit.tried,
        )

    def _next_kinds(self, backlog: int) -> Mapping[str, float]:
        """Return how many tasks of each kind wait, going by those that are taken next."""
        peeked = Counter(task.kind for task in islice(self._waiting, PEEK))
        return {kind: count * backlog / sum(peeked.values()) for kind, count in peeked.items()}

    def _next_eta(self, now: float) -> float | None:
        place = bisect_right(self._etas, now)
        while place < len(self._etas):
            if self._sent[self._etas[place]] <= now:
                return self._etas[place] - now
            place += 1
        return None

    def _due(self, now: float) -> int:
        horizon = min(HORIZON, self.startup + 2.0)
        begin, end = bisect_right(self._etas, now), bisect_right(self._etas, now + horizon)
        return sum(self._sent[eta] <= now for eta in self._etas[begin:end])

    # --- Workers -----------------------------------------------------------------------------------

    def start(self, at: float, host: str) -> None:
        """Start a worker."""
        self._number += 1
        self.workers[self._number] = SimulatedWorker(host, at, at + self.startup)

    def keep(self, count: int) -> int:
        """Let draining workers go on; return how many are still missing."""
        for number, worker in self.workers.items():
            if count > 0 and worker.draining:
                worker.draining = False
                self._offer(number, self.group.concurrency - worker.running)
                count -= 1
        return count

    def drain(self, count: int) -> None:
        """Let a number of workers take nothing more, those that run least first."""
        counted = [n for n, worker in self.workers.items() if not worker.draining]
        for number in sorted(counted, key=lambda n: self.workers[n].running)[: max(0, count)]:
            self.workers[number].draining = True
            self._end_if_drained(number)

    def counted(self) -> list[SimulatedWorker]:
        """Return the workers that consume or start."""
        return [worker for worker in self.workers.values() if not worker.draining]

    def _offer(self, number: int, slots: int) -> None:
        for _ in range(slots):
            heapq.heappush(self._free, number)

    def _end_if_drained(self, number: int) -> None:
        if self.workers[number].draining and not self.workers[number].running:
            del self.workers[number]

    # --- Time --------------------------------------------------------------------------------------

    def advance(self, begin: float, end: float) -> None:
        """Let the time of one tick pass."""
        for now in self._events(begin, end):
            while self._waiting and self._free:
                number = heapq.heappop(self._free)
                worker = self.workers.get(number)
                if worker is None or worker.draining or worker.running >= self.group.concurrency:
                    continue
                task = self._waiting.popleft()
                self.trace.waits.append(now - task.at)
                self._taken += 1
                worker.running += 1
                worker.processed += 1
                worker.worked -= now
                self._begun[self._taken] = (now, task)
                heapq.heappush(self._ends, (self._progress + task.size, number, self._taken))
        self.trace.worker_seconds += len(self.workers) * (end - begin)

    def _events(self, begin: float, end: float) -> Iterator[float]:
        """Let what happens in a span happen; yield the time of each event."""
        starts = sorted((w.ready_at, n) for n, w in self.workers.items() if begin <= w.ready_at < end)
        yield begin
        while True:
            speed = self.speed(len(self._begun)) if self._begun else 1.0
            next_end = self._clock + (self._ends[0][0] - self._progress) / speed if self._ends else end
            now: float = min(
                self._tasks[0].at if self._tasks else end, next_end, starts[0][0] if starts else end, end
            )
            now = max(now, self._clock)
            self._progress += (now - self._clock) * speed
            self._clock = now
            if now >= end:
                return
            if starts and starts[0][0] <= now:
                self._offer(starts.pop(0)[1], self.group.concurrency)
                self.start_weight.add(self.start_cpu * self.startup, self.startup)
            elif self._tasks and self._tasks[0].at <= now:
                self._waiting.append(self._tasks.popleft())
            else:
                self._end_task(now)
            yield now

    def _end_task(self, now: float) -> None:
        _, number, key = heapq.heappop(self._ends)
        begun, task = self._begun.pop(key)
        took = now - begun
        self._ended[task.kind] = self._ended.get(task.kind, Ended()).plus(Ended(1, took, took**2))
        worker = self.workers[number]
        worker.running -= 1
        worker.worked += now
        if worker.draining:
            self._end_if_drained(number)
        else:
            self._offer(number, 1)

    def close(self) -> Trace:
        """Return what happened."""
        self.trace.unfinished = len(self._waiting)
        return self.trace


class Simulation:
    """Groups of workers on some hosts, from the first arrival on."""

    def __init__(
        self, groups: Sequence[SimulatedGroup], hosts: Sequence[SimulatedHost] = (), *, tick: float = 1.0
    ) -> None:
        """Prepare; without hosts, any number of workers may start at a time."""
        self.groups, self.hosts, self.tick = groups, hosts, tick
        self._host_limits = HostLimits(cpu_threshold=90.0, memory_threshold=85.0)
        starts = sum(HostLimits.starts_at_once(HostSeen(cpus=host.cpus)) for host in hosts) or None
        for group in groups:
            group.starts = starts
            group.start_cpu = max((host.start_cpu for host in hosts), default=0.0)
            for number in range(group.initial):
                group.start(0.0, hosts[number % len(hosts)].name if hosts else HOST)

    def run(self, until: float) -> list[Trace]:
        """Run for a number of seconds; return what happened to each group."""
        for number in range(round(until / self.tick)):
            now = number * self.tick
            for group in self.groups:
                group.look(now)
            self._act(now)
            for group in self.groups:
                group.advance(now, now + self.tick)
        return [group.close() for group in self.groups]

    def _act(self, now: float) -> None:
        missing: dict[SimulatedGroup, Mapping[str, int]] = {}
        for group in self.groups:
            delta = group.decision.want - len(group.counted())
            if delta < 0:
                group.drain(-delta)
            wanted = group.keep(delta) if delta > 0 else 0
            if not self.hosts:
                for _ in range(wanted):
                    group.start(now, HOST)
            missing[group] = self._by_host(group, wanted)
        for host in self.hosts:
            self._start_on(host, now, {group: found.get(host.name, 0) for group, found in missing.items()})

    def _by_host(self, group: SimulatedGroup, wanted: int) -> Mapping[str, int]:
        if not self.hosts or wanted <= 0:
            return {}
        have = Counter(worker.host for worker in group.counted())
        offers = [Offer(host.name, host.cpus) for host in self.hosts]
        total = sum(have.values()) + wanted
        return moves(total, max(total, group.group.max_workers), have, offers, rebalance=False)

    def _start_on(self, host: SimulatedHost, now: float, missing: Mapping[SimulatedGroup, int]) -> None:
        """Start what the host bears at a time."""
        workers = [w for group in self.groups for w in group.workers.values() if w.host == host.name]
        starting = [w for w in workers if w.ready_at > now]
        used = len(starting) * host.start_cpu + sum(w.running for w in workers) * host.task_cpu
        seen = HostSeen(cpus=host.cpus, cpu=min(100.0, 100 * used / host.cpus))
        if self._host_limits.against_starts(seen, slowing=False, worker_memory=0, starting=len(starting)):
            # A busy CPU keeps no group below its minimum, or its tasks waiting for nobody.
            missing = {
                group: min(count, max(group.group.min_workers, 1) - len(group.counted()))
                for group, count in missing.items()
            }
        needs = [
            StartNeed(
                group=group.group.name,
                missing=count,
                starting=sum(w in starting for w in group.workers.values()),
                weight=group.start_weight.value,
                below_minimum=len(group.counted()) < group.group.min_workers,
                overdue=group.seen.age / group.group.target_wait,
            )
            for group, count in missing.items()
        ]
        free: float = HostLimits.starts_at_once(seen)
        for group in missing:
            begun = [w.since for w in group.workers.values() if w in starting]
            free += group.start_weight.value * (len(begun) - starting_load(now, begun, seen))
        turns = start_turns(needs, free)
        for group in missing:
            for _ in range(turns[group.group.name]):
                group.start(now, host.name)


def simulate(
    group: Group,
    law: Law,
    tasks: Sequence[Task],
    until: float,
    *,
    startup: float = 3.0,
    tick: float = 1.0,
    workers: int | None = None,
    speed: Callable[[int], float] = full_speed,
    hosts: Sequence[SimulatedHost] = (),
) -> Trace:
    """Simulate one group; see :class:`SimulatedGroup`."""
    run = SimulatedGroup(group, law, tasks, startup=startup, workers=workers, speed=speed)
    return Simulation([run], hosts, tick=tick).run(until)[0]
