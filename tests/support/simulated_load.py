"""What a simulation of worker groups is given, tasks and their times, and what it returns."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

from celery_autoscaler.settings import Group
from celery_autoscaler.supervisor.policy.law import Decision, GroupSeen


class Law(Protocol):
    """Anything that wants a number of workers once a tick."""

    def decide(self, group: Group, seen: GroupSeen) -> Decision:
        """Return what is wanted."""
        ...


@dataclass(frozen=True)
class Task:
    """A task: when it can run, how long it takes alone, what it is called, when an ETA task was sent."""

    at: float
    size: float
    kind: str = "task"
    sent: float | None = None


@dataclass(frozen=True)
class Tick:
    """What one tick saw and decided."""

    seen: GroupSeen
    decision: Decision
    true_age: float

    @property
    def have(self) -> int:
        """Workers that consumed or started."""
        return self.seen.ready + self.seen.starting


@dataclass
class Trace:
    """What happened to the tasks of a group, and to its workers."""

    waits: list[float] = field(default_factory=list)
    """Of each task that has begun, in seconds."""
    unfinished: int = 0
    """Tasks that had not begun at the end."""
    ticks: list[Tick] = field(default_factory=list)
    worker_seconds: float = 0.0

    @property
    def hours(self) -> float:
        """Hours of workers."""
        return self.worker_seconds / 3600

    def wait(self, part: float) -> float:
        """Return the wait that a part of the tasks stays below; infinite if that part never began."""
        ordered = sorted(self.waits)
        place = int(part * (len(ordered) + self.unfinished))
        if place >= len(ordered):
            return math.inf if self.unfinished else ordered[-1]
        return ordered[place]

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


def repeatable(seed: int) -> random.Random:
    """Return chance that is the same each time."""
    return random.Random(seed)  # noqa: S311  nothing is kept secret by it


def even(rate: float, seconds: float, begin: float = 0.0) -> list[float]:
    """Return the times of a number of arrivals a second, evenly spread."""
    return [begin + number / rate for number in range(round(rate * seconds))]


def poisson(rate: float, seconds: float, chance: random.Random, begin: float = 0.0) -> list[float]:
    """Return the times of arrivals that do not depend on each other."""
    times, now = [], begin
    while (now := now + chance.expovariate(rate)) < begin + seconds:
        times.append(now)
    return times


def as_tasks(arrivals: Sequence[float], sizes: Sequence[float], kind: str = "task") -> list[Task]:
    """Return tasks of one kind."""
    return [Task(at, size, kind) for at, size in zip(arrivals, sizes, strict=True)]
