"""A discrete-event simulation of a worker group that follows the real control law, without a process.

Arrivals, sizes of tasks and the time that a start takes are given; Age, Meter and GroupPolicy are the real
ones and see no more than a supervisor sees: lengths, counters, workers. Drains are ideal.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from celery_autoscaler.estimates import Age, Meter, WorkerCounters
from celery_autoscaler.policy import Decision, GroupPolicy, Seen
from celery_autoscaler.settings import Group

QUEUE = "celery"


@dataclass
class SimulatedWorker:
    """A worker: when it consumes, what it has done, whether it takes more."""

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


@dataclass(frozen=True)
class Tick:
    """What one tick saw and decided."""

    seen: Seen
    decision: Decision
    true_age: float

    @property
    def have(self) -> int:
        """Workers that consumed or started."""
        return self.seen.ready + self.seen.starting


@dataclass
class Trace:
    """What happened."""

    waits: list[float] = field(default_factory=list)
    """Of each task that has begun, in seconds."""
    ticks: list[Tick] = field(default_factory=list)
    worker_seconds: float = 0.0

    def wait(self, part: float) -> float:
        """Return the wait that so great a part of the tasks stays below."""
        ordered = sorted(self.waits)
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))]

    def turns(self, after: float) -> int:
        """Return how often the number of workers changed its direction."""
        counts = [tick.have for tick in self.ticks if tick.seen.now >= after]
        steps = [b - a for a, b in pairwise(counts) if a != b]
        return sum((a > 0) != (b > 0) for a, b in pairwise(steps))

    def quickest_regret(self) -> float:
        """Return the shortest time from a start until a stop, in seconds."""
        shortest, grown = math.inf, -math.inf
        for before, tick in pairwise(self.ticks):
            if tick.have > before.have:
                grown = tick.seen.now
            elif tick.have < before.have:
                shortest = min(shortest, tick.seen.now - grown)
        return shortest


class Simulation:
    """One group of workers and one queue, from the first arrival on."""

    def __init__(
        self,
        group: Group,
        law: GroupPolicy,
        arrivals: Sequence[float],
        sizes: Sequence[float],
        *,
        startup: float = 3.0,
        tick: float = 1.0,
        workers: int | None = None,
    ) -> None:
        """Prepare; `workers` are there at the beginning, the group's minimum if not given."""
        self.group = group
        self.law = law
        self.startup = startup
        self.tick = tick
        self.trace = Trace()
        self._tasks = deque(zip(arrivals, sizes, strict=True))
        self._waiting: deque[tuple[float, float]] = deque()
        self._ends: list[tuple[float, int]] = []
        self._workers: dict[int, SimulatedWorker] = {}
        self._free: list[int] = []
        """Number of a worker for each of its free slots; those that have ended since among them."""
        self._taken = 0
        self._number = 0
        self._age, self._meter = Age(), Meter()
        for _ in range(group.min_workers if workers is None else workers):
            self._start(0.0)

    def run(self, until: float) -> Trace:
        """Run for so many seconds; return what happened."""
        for number in range(round(until / self.tick)):
            now = number * self.tick
            self._act(now, self._look(now))
            self._pass(now, now + self.tick)
        return self.trace

    def _look(self, now: float) -> Decision:
        workers = self._workers
        consuming = {n: w for n, w in workers.items() if w.ready_at <= now}
        age = self._age.update(now, len(self._waiting), self._taken)
        counters = {
            str(number): worker.counters(now, self.group.concurrency) for number, worker in consuming.items()
        }
        self._meter.update(now, len(self._waiting), counters)
        seen = Seen(
            now=now,
            backlog=len(self._waiting),
            busy=sum(worker.running for worker in workers.values()),
            age=age,
            longest=len(self._waiting),
            longest_queue=QUEUE,
            ready=sum(not worker.draining for worker in consuming.values()),
            starting=len(workers) - len(consuming),
            arrival_fast=self._meter.fast.value,
            arrival_slow=self._meter.slow.value,
            service_time=self._meter.service_time,
            startup=self.startup,
        )
        decision = self.law.decide(self.group, seen)
        self.trace.ticks.append(Tick(seen, decision, now - self._waiting[0][0] if self._waiting else 0.0))
        return decision

    def _act(self, now: float, decision: Decision) -> None:
        counted = [n for n, worker in self._workers.items() if not worker.draining]
        missing = decision.want - len(counted)
        for number, worker in self._workers.items():
            if missing > 0 and worker.draining:
                worker.draining = False
                self._offer(number, self.group.concurrency - worker.running)
                missing -= 1
        for _ in range(missing):
            self._start(now)
        for number in sorted(counted, key=lambda n: self._workers[n].running)[: max(0, -missing)]:
            self._workers[number].draining = True
            self._end_if_drained(number)

    def _start(self, at: float) -> None:
        self._number += 1
        self._workers[self._number] = SimulatedWorker(ready_at=at + self.startup)

    def _offer(self, number: int, slots: int) -> None:
        for _ in range(slots):
            heapq.heappush(self._free, number)

    def _end_if_drained(self, number: int) -> None:
        if self._workers[number].draining and not self._workers[number].running:
            del self._workers[number]

    def _pass(self, begin: float, end: float) -> None:
        """Let the time of one tick pass."""
        for now in self._events(begin, end):
            while self._waiting and self._free:
                number = heapq.heappop(self._free)
                worker = self._workers.get(number)
                if worker is None or worker.draining:
                    continue
                sent, size = self._waiting.popleft()
                self.trace.waits.append(now - sent)
                self._taken += 1
                worker.running += 1
                worker.processed += 1
                worker.worked -= now
                heapq.heappush(self._ends, (now + size, number))
        self.trace.worker_seconds += len(self._workers) * (end - begin)

    def _events(self, begin: float, end: float) -> Iterator[float]:
        """Let what happens in a span happen; yield the time of each event."""
        starts = sorted((w.ready_at, n) for n, w in self._workers.items() if begin <= w.ready_at < end)
        yield begin
        while True:
            times = [
                self._tasks[0][0] if self._tasks else end,
                self._ends[0][0] if self._ends else end,
                starts[0][0] if starts else end,
            ]
            now = min(times)
            if now >= end:
                return
            if times[2] == now:
                self._offer(starts.pop(0)[1], self.group.concurrency)
            elif times[1] == now:
                _, number = heapq.heappop(self._ends)
                worker = self._workers[number]
                worker.running -= 1
                worker.worked += now
                if worker.draining:
                    self._end_if_drained(number)
                else:
                    self._offer(number, 1)
            else:
                self._waiting.append(self._tasks.popleft())
            yield now


def repeatable(seed: int) -> random.Random:
    """Return chance that is the same each time."""
    return random.Random(seed)  # noqa: S311  nothing is kept secret by it


def even(rate: float, seconds: float, begin: float = 0.0) -> list[float]:
    """Return the times of so many arrivals a second, evenly spread."""
    return [begin + number / rate for number in range(round(rate * seconds))]


def poisson(rate: float, seconds: float, chance: random.Random, begin: float = 0.0) -> list[float]:
    """Return the times of arrivals that do not depend on each other."""
    times, now = [], begin
    while (now := now + chance.expovariate(rate)) < begin + seconds:
        times.append(now)
    return times
