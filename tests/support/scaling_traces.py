"""Loads that a fleet meets, for the simulation, and the laws of others beside ours.

Each is an hour; its tasks are drawn from a seed. The target wait is ten seconds, max_workers 60 workers of
one slot.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from celery_autoscaler.settings import Group
from celery_autoscaler.supervisor.policy.law import Decision, GroupPolicy, GroupSeen

from support.simulated_fleet import SimulatedGroup, SimulatedHost, Simulation, full_speed
from support.simulated_load import Law, Task, Trace, as_tasks, even, poisson, repeatable

HOUR = 3600.0
TARGET = 10.0
MAXIMUM = 60
GROUP = Group(name="default", queues=("celery",), target_wait=TARGET, max_workers=MAXIMUM)

Tasks = Callable[[random.Random], Sequence[Task]]


@dataclass(frozen=True)
class Load:
    """A load of one group: its tasks, and what a start and the services behind the tasks are like."""

    name: str
    tasks: Tasks
    startup: float = 3.0
    group: Group = GROUP
    speed: Callable[[int], float] = full_speed
    hosts: Sequence[SimulatedHost] = ()
    seconds: float = HOUR
    allowed: bool = True
    """Whether maximum and hosts allow that all but one of a hundred tasks start within the target wait."""

    def run(self, law: Law, seed: int, *, braked: bool = True) -> Trace:
        """Let a law meet it; without limits its workers start at once however many they are."""
        group = SimulatedGroup(
            self.group, law, self.tasks(repeatable(seed)), startup=self.startup, speed=self.speed
        )
        return Simulation([group], self.hosts if braked else ()).run(self.seconds)[0]


def our_law() -> GroupPolicy:
    """Return our law with its default settings."""
    return GroupPolicy()


# --- Arrivals and sizes ------------------------------------------------------------------------------


def exponential(times: Sequence[float], chance: random.Random, mean: float = 1.0) -> list[Task]:
    """Return tasks of very different sizes."""
    return as_tasks(times, [chance.expovariate(1 / mean) for _ in times])


def thinned(
    rate: Callable[[float], float], most: float, seconds: float, chance: random.Random
) -> list[float]:
    """Return the times of arrivals whose rate changes."""
    return [at for at in poisson(most, seconds, chance) if chance.random() < rate(at) / most]


def burst(chance: random.Random) -> list[Task]:
    """Three tasks a second, and every ten minutes 300 more within a third of a second."""
    calm = poisson(3.0, HOUR, chance)
    extra = [at for begin in range(300, 3600, 600) for at in even(900.0, 1 / 3, float(begin))]
    return exponential(sorted(calm + extra), chance)


def spiky(chance: random.Random) -> list[Task]:
    """Two tasks a second, and about each minute 5 to 15 s of up to 30 more a second."""
    times, now = poisson(2.0, HOUR, chance), 0.0
    while (now := now + chance.expovariate(1 / 60)) < HOUR - 20:
        times += poisson(chance.uniform(5, 30), chance.uniform(5, 15), chance, now)
    return exponential(sorted(times), chance)


def diurnal(chance: random.Random) -> list[Task]:
    """From one task a second to twenty and back, in an hour."""
    wave = thinned(lambda at: 10.5 - 9.5 * math.cos(2 * math.pi * at / HOUR), 20.0, HOUR, chance)
    return exponential(wave, chance)


def step(chance: random.Random) -> list[Task]:
    """Three tasks a second, for ten minutes 28."""
    return exponential(sorted(poisson(3.0, HOUR, chance) + poisson(25.0, 600, chance, 1200.0)), chance)


def flash(chance: random.Random) -> list[Task]:
    """A crowd: from two tasks a second to forty within a minute, for five minutes, and away within ten."""

    def rate(at: float) -> float:
        if at < 900:
            return 2.0
        if at < 960:
            return 2 + 38 * (at - 900) / 60
        if at < 1260:
            return 40.0
        return max(2.0, 40 - 38 * (at - 1260) / 600)

    return exponential(thinned(rate, 40.0, HOUR, chance), chance)


def on_off(chance: random.Random) -> list[Task]:
    """Ten seconds of 20 tasks a second in each hundred."""
    times = [at for begin in range(0, 3600, 100) for at in poisson(20.0, 10, chance, float(begin))]
    return exponential(times, chance)


def tiny(chance: random.Random) -> list[Task]:
    """Each five minutes 2500 tasks of 20 ms at once."""
    del chance
    times = [at for begin in range(0, 3600, 300) for at in even(5000.0, 0.5, begin + 7.3)]
    return as_tasks(times, [0.02] * len(times))


def cron(chance: random.Random) -> list[Task]:
    """Each ten minutes 120 tasks of one kind, each hour's quarter 20 long ones, few others between."""
    calm = exponential(poisson(0.2, HOUR, chance), chance, 0.5)
    jobs = [
        Task(begin + 0.01 * n, chance.uniform(1, 3), "report")
        for begin in range(60, 3600, 600)
        for n in range(120)
    ]
    long = [
        Task(begin + 0.01 * n, chance.uniform(30, 60), "export")
        for begin in range(200, 3600, 900)
        for n in range(20)
    ]
    return sorted(calm + jobs + long, key=lambda task: task.at)


def bimodal(chance: random.Random) -> list[Task]:
    """Four tasks a second of 0.1 s, and one of a minute among a hundred."""
    times = poisson(4.0, HOUR, chance)
    return [Task(at, 60.0, "slow") if chance.random() < 0.01 else Task(at, 0.1, "quick") for at in times]


def mixed(chance: random.Random) -> list[Task]:
    """The same under one name."""
    return [replace(task, kind="task") for task in bimodal(chance)]


def pareto(chance: random.Random) -> list[Task]:
    """Five tasks a second whose sizes have a heavy tail: Pareto, 0.9 s on average, up to 300 s."""
    return as_tasks(
        times := poisson(5.0, HOUR, chance), [min(300.0, 0.3 * chance.paretovariate(1.5)) for _ in times]
    )


def lognormal(chance: random.Random) -> list[Task]:
    """Bursts whose sizes are lognormal: mean 1 s, standard deviation 3 s."""
    sigma = math.sqrt(math.log(10.0))
    return [replace(task, size=chance.lognormvariate(-(sigma**2) / 2, sigma)) for task in burst(chance)]


def long_task(chance: random.Random) -> list[Task]:
    """A task of five minutes each ten, and a short one each 20 s."""
    long = [Task(float(begin), 300.0, "long") for begin in range(100, 3600, 600)]
    short = [Task(at, 0.2, "short") for at in poisson(0.05, HOUR, chance)]
    return sorted(long + short, key=lambda task: task.at)


def rare(chance: random.Random) -> list[Task]:
    """A task each two minutes."""
    return exponential(poisson(1 / 120, HOUR, chance), chance)


def eta_waves(chance: random.Random) -> list[Task]:
    """Each ten minutes 200 tasks that come due together and were sent five minutes before; few others."""
    calm = exponential(poisson(0.5, HOUR, chance), chance)
    waves = [
        Task(begin + chance.random() / 10, chance.expovariate(1.0), "wave", begin - 300.0)
        for begin in range(400, 3600, 600)
        for _ in range(200)
    ]
    return sorted(calm + waves, key=lambda task: task.at)


def saturating(chance: random.Random) -> list[Task]:
    """From three tasks a second to 18 for ten minutes, where a database bears 20 at a time."""
    return exponential(sorted(poisson(3.0, HOUR, chance) + poisson(15.0, 600, chance, 600.0)), chance)


def overloading(chance: random.Random) -> list[Task]:
    """From three tasks a second to 26 for five minutes, where a database bears 20 at a time."""
    return exponential(sorted(poisson(3.0, HOUR, chance) + poisson(23.0, 300, chance, 600.0)), chance)


def knee(bears: int, exponent: float) -> Callable[[int], float]:
    """Return the speed of tasks behind a service of limited capacity.

    With an exponent of one, more of them finish no more; with a greater one, fewer.
    """
    return lambda running: 1.0 if running <= bears else (bears / running) ** exponent


# --- Loads --------------------------------------------------------------------------------------------

TWO_HOSTS = (SimulatedHost("a"), SimulatedHost("b"))
TO_ZERO = replace(GROUP, min_workers=0)
# Workers whose start waits for other things than a CPU.
PATIENT = (SimulatedHost("a", start_cpu=0.02), SimulatedHost("b", start_cpu=0.02))

LOADS = (
    Load("burst", burst),
    Load("spiky", spiky),
    Load("diurnal", diurnal),
    Load("step", step),
    Load("flash crowd", flash),
    Load("on-off", on_off),
    Load("tiny tasks", tiny),
    Load("cron", cron),
    Load("bimodal", bimodal),
    Load("bimodal, one name", mixed),
    Load("heavy tail", pareto),
    Load("heavy bursts", lognormal),
    Load("long task", long_task),
    Load("ETA waves", eta_waves),
    Load("ETA waves from 0", eta_waves, group=TO_ZERO),
    Load("saturated", saturating, speed=knee(20, 1.5), allowed=False),
    Load("saturated, flat", saturating, speed=knee(20, 1.0)),
    Load("overloaded", overloading, speed=knee(20, 1.5), allowed=False),
    Load("burst, 2 hosts", burst, hosts=TWO_HOSTS, allowed=False),
    Load("step, 2 hosts", step, hosts=TWO_HOSTS),
    Load("diurnal, 2 hosts", diurnal, hosts=TWO_HOSTS),
    Load("burst, start 30 s", burst, startup=30.0, allowed=False),
    Load("burst, 2 hosts, 30 s", burst, startup=30.0, hosts=PATIENT, allowed=False),
    Load("diurnal, start 30 s", diurnal, startup=30.0),
    Load("flash, start 30 s", flash, startup=30.0, allowed=False),
    Load("rare from 0, 30 s", rare, startup=30.0, group=TO_ZERO, allowed=False),
)


# --- Laws of others ----------------------------------------------------------------------------------


@dataclass
class Hpa:
    """Kubernetes' horizontal autoscaler, as KEDA drives it.

    Every 15 s the metric over its target for a worker; at most twice as many or four more, whichever is
    more; down to the most of the last 300 s.
    """

    a_worker: float
    """Metric for each worker."""
    running: bool = False
    """Whether tasks that run count: Airflow's law; otherwise those that wait, KEDA's with ``listLength``."""
    every: float = 15.0
    window: float = 300.0
    _next: float = 0.0
    _want: int | None = None
    _wanted: deque[tuple[float, int]] = field(default_factory=deque)

    def decide(self, group: Group, seen: GroupSeen) -> Decision:
        """Return what is wanted."""
        have = seen.ready + seen.starting
        if self._want is None:
            self._want = have
        if seen.now >= self._next:
            self._next = seen.now + self.every
            metric = seen.backlog + (seen.busy if self.running else 0)
            wish = math.ceil(metric / self.a_worker / group.concurrency)
            wish = max(group.min_workers, min(group.max_workers, wish))
            self._wanted.append((seen.now, wish))
            while self._wanted[0][0] < seen.now - self.window:
                self._wanted.popleft()
            if wish > have:
                self._want = min(wish, max(2 * have, have + 4))
            else:
                self._want = min(have, max(number for _, number in self._wanted))
        return Decision(self._want, "")


@dataclass
class Fixed:
    """Always the same number."""

    workers: int

    def decide(self, group: Group, seen: GroupSeen) -> Decision:
        """Return it."""
        del group, seen
        return Decision(self.workers, "")


def keda() -> Hpa:
    """Return KEDA's law with its usual setting for Redis lists."""
    return Hpa(5.0)


def airflow() -> Hpa:
    """Return the law of Airflow's chart: a worker for each task that waits or runs, by slots."""
    return Hpa(1.0, running=True)


LAWS: dict[str, Callable[[], Any]] = {"ours": our_law, "KEDA": keda, "Airflow": airflow}
