"""Workers of a replay: slots that take tasks in the order in which these come.

A slot is free from a time on; the next task begins in the slot that is free first. Nothing else happens
between two looks, so that the end of a task needs no event of its own.
"""

import heapq
from array import array
from collections import defaultdict, deque
from dataclasses import dataclass

from celery_autoscaler.protocol.ended import Ended
from celery_autoscaler.supervisor.replay.demand import Task


@dataclass
class Worker:
    """A worker: since when it is there, and when it consumes."""

    since: float
    ready_at: float


class Workers:
    """The workers of a group, what they run, and what waits for them."""

    def __init__(self, concurrency: int) -> None:
        self.concurrency = concurrency
        self.ready: dict[int, Worker] = {}
        self.starting: dict[int, Worker] = {}
        self.draining: dict[int, tuple[Worker, list[tuple[float, int, float]]]] = {}
        """With their slots: when each is free, and since when it is not."""
        self.waiting: deque[Task] = deque()
        self.waits = array("d")
        """Of the tasks that had to wait."""
        self.at_once = 0
        """Tasks that did not."""
        self.late = 0
        self.seconds = 0.0
        """Of workers that have ended."""
        self.started = 0
        self.most = 0
        self.ended: dict[str, Ended] = {}
        """What has ended so far, by kind."""
        self._ends: defaultdict[int, list[tuple[str, float]]] = defaultdict(list)
        """What ends in each second."""
        self._ended_until = 0
        self._slots: list[tuple[float, int, float]] = []
        self._number = 0

    @property
    def counted(self) -> int:
        """Workers that consume or start."""
        return len(self.ready) + len(self.starting)

    def start(self, at: float, seconds: float) -> None:
        """Start a worker."""
        self._number += 1
        self.starting[self._number] = Worker(at, at + seconds)
        self.started += 1
        self.most = max(self.most, self.counted + len(self.draining))

    def keep(self, count: int) -> int:
        """Let draining workers go on; return how many are still missing."""
        while count > 0 and self.draining:
            number, (worker, slots) = self.draining.popitem()
            self.ready[number] = worker
            for slot in slots:
                heapq.heappush(self._slots, slot)
            count -= 1
        return count

    def drain(self, now: float, count: int) -> None:
        """Let a number of workers take nothing more: those that start, then those that run least."""
        for number in list(reversed(self.starting))[:count]:
            self.seconds += now - self.starting.pop(number).since
            count -= 1
        if count <= 0:
            return
        running = dict.fromkeys(self.ready, 0)
        for free_at, number, _ in self._slots:
            running[number] += free_at > now
        for number in sorted(running, key=running.__getitem__)[:count]:
            slots = [
                (max(now, free_at), owner, since) for free_at, owner, since in self._slots if owner == number
            ]
            self.draining[number] = self.ready.pop(number), slots
        self._slots = [slot for slot in self._slots if slot[1] in self.ready]
        heapq.heapify(self._slots)
        self.end_drained(now)

    def end_drained(self, now: float) -> None:
        """Let drained workers end."""
        for number, (worker, slots) in list(self.draining.items()):
            end = max(free_at for free_at, _, _ in slots)
            if end <= now:
                self.seconds += end - worker.since
                del self.draining[number]

    def advance(self, end: float, tasks: list[Task], target: float) -> None:
        """Let time pass until ``end``, in which some tasks come."""
        self.waiting.extend(tasks)
        slots, waiting, waits, ends = self._slots, self.waiting, self.waits, self._ends
        while waiting:
            if not slots:
                return
            free_at, number, _ = slots[0]
            at, size, kind = waiting[0]
            start = free_at if free_at > at else at
            if start >= end:
                return
            waiting.popleft()
            if start > at:
                waits.append(start - at)
                self.late += start - at > target
            else:
                self.at_once += 1
            heapq.heapreplace(slots, (start + size, number, start))
            ends[int(start + size)].append((kind, size))

    def open(self, end: float) -> None:
        """Let workers consume whose start is over before ``end``."""
        for number, worker in list(self.starting.items()):
            if worker.ready_at < end:
                self.ready[number] = self.starting.pop(number)
                for _ in range(self.concurrency):
                    heapq.heappush(self._slots, (worker.ready_at, number, worker.ready_at))

    def running(self, now: float) -> list[tuple[int, float]]:
        """Return for each task that runs its worker and since when it runs."""
        slots = [slot for _, kept in self.draining.values() for slot in kept]
        return [
            (number, since)
            for place in (self._slots, slots)
            for free_at, number, since in place
            if free_at > now
        ]

    def take_ends(self, now: int) -> bool:
        """Count the tasks that have ended before a second; return whether there were any."""
        found: dict[str, list[float]] = {}
        for second in range(self._ended_until, now):
            for kind, size in self._ends.pop(second, ()):
                found.setdefault(kind, []).append(size)
        self._ended_until = now
        for kind, sizes in found.items():
            new = Ended(len(sizes), sum(sizes), sum(size * size for size in sizes))
            self.ended[kind] = self.ended.get(kind, Ended()).plus(new)
        return bool(found)

    def close(self, now: float, target: float) -> None:
        """End the replay: what waits has waited until now, and workers end."""
        for task in self.waiting:
            self.waits.append(now - task[0])
            self.late += now - task[0] > target
        self.waiting.clear()
        self.end_drained(now)
        left = [*self.ready.values(), *self.starting.values(), *(w for w, _ in self.draining.values())]
        self.seconds += sum(now - worker.since for worker in left)
