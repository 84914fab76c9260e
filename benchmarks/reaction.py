"""How soon a second slot runs tasks of a burst: our supervisor, celery --autoscale, a polling one."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measured_app import app_folder, console, counts, hash_of, new_table
from redis import Redis
from rich.progress import Progress
from rich.table import Table
from support.processes.counted_tasks import SETTINGS, Tasks
from support.processes.launched_workers import LaunchedWorker, settings_variable
from support.processes.services import wait_for
from support.processes.supervisors import SupervisedFleet

# Reaction: a burst at one idle worker.
ROUNDS = 10


TASKS, TASK_SECONDS = 200, 0.2


MAXIMUM = 4


# Seconds from a contender's readiness to the burst.
IDLE = 3.0


# The polling supervisor: seconds between two looks, and messages above which it starts a worker. Rounds are
# fewer, for each takes a minute; bursts come evenly spread over its period.
PERIOD, THRESHOLD = 30.0, 10


POLLING_ROUNDS = 5


@dataclass(frozen=True)
class Reaction:
    """What followed a burst, in seconds from its first message."""

    second: float
    """Until a second process ran one of its tasks."""
    queued: float
    """Of these, for which the new process was ready and all CPUs were busy with others."""
    last: float
    """Until the last of the processes that ran any had begun to."""
    wait: float
    """For which 95 of 100 tasks waited at most."""
    done: float
    """Until all tasks had begun."""


class PollingSupervisor(threading.Thread):
    """The comparison, not ours: looks at the length of one list now and then and starts one worker a look."""

    def __init__(self, redis: Redis, start: Callable[[], LaunchedWorker], first_look: float) -> None:
        super().__init__(daemon=True)
        self.redis = redis
        self.start_worker = start
        self.first_look = first_look
        self.workers = [start()]
        self.stopped = threading.Event()

    def run(self) -> None:
        """Look until stopped."""
        wait = self.first_look
        while not self.stopped.wait(wait):
            waiting: Any = self.redis.llen("celery")
            if waiting > THRESHOLD and len(self.workers) < MAXIMUM:
                self.workers.append(self.start_worker())
            wait = PERIOD

    def end(self) -> None:
        """Stop looking and end the workers."""
        self.stopped.set()
        self.join()
        for worker in self.workers:
            worker.kill()


@contextmanager
def ours(url: str, folder: Path, phase: float) -> Iterator[float]:
    """Run our supervisor with one idle worker; yield the seconds to wait before the burst."""
    yield from supervised(url, folder, phase, {"concurrency": 1, "max_workers": MAXIMUM})


@contextmanager
def stretching(url: str, folder: Path, phase: float) -> Iterator[float]:
    """Run our supervisor with one idle worker that stretches to as many slots."""
    yield from supervised(url, folder, phase, {"concurrency": [1, MAXIMUM], "max_workers": 1})


def supervised(url: str, folder: Path, phase: float, group: dict[str, Any]) -> Iterator[float]:
    """Run our supervisor with one idle worker of a group; yield the seconds to wait before the burst."""
    group |= {"min_workers": 1, "target_wait": 10.0}
    with SupervisedFleet(folder, url, counts(url)) as fleet:
        fleet.start(group=group)
        fleet.wait_for_workers(1)
        # Its looks come once a second.
        yield IDLE + phase


@contextmanager
def autoscale(url: str, folder: Path, phase: float) -> Iterator[float]:
    """Run one worker of plain Celery that adds processes to its own pool."""
    worker = plain_worker(url, folder, f"--autoscale={MAXIMUM},1")
    worker.wait_until_ready()
    try:
        yield IDLE + phase
    finally:
        worker.kill()


@contextmanager
def polling(url: str, folder: Path, phase: float) -> Iterator[float]:
    """Run a supervisor that polls, with one idle worker of plain Celery."""
    supervisor = PollingSupervisor(
        Redis.from_url(url), lambda: plain_worker(url, folder, "--concurrency=1"), IDLE + phase * PERIOD
    )
    try:
        supervisor.workers[0].wait_until_ready()
        supervisor.start()
        yield IDLE
    finally:
        supervisor.end()


CONTENDERS = {
    "our supervisor, whole workers": ours,
    "our supervisor, a worker that stretches": stretching,
    "celery --autoscale": autoscale,
    f"a look every {PERIOD:g} s": polling,
}


def plain_worker(url: str, folder: Path, *options: str) -> LaunchedWorker:
    """Start a worker of plain Celery."""
    name = f"plain-{time.monotonic_ns()}@here"
    options = ("worker", "-n", name, "--without-mingle", "--without-gossip", *options)
    environment = settings_variable(SETTINGS) | {"COUNTS": counts(url)}
    return LaunchedWorker(folder, url, *options, environment=environment, plain=True)


def react(url: str, contender: str, phase: float) -> Reaction:
    """Send a burst at one idle worker; return what followed."""
    Redis.from_url(url).flushall()
    with app_folder() as folder, CONTENDERS[contender](url, folder, phase) as wait:
        tasks = Tasks(url, url, counts(url), SETTINGS)
        due = time.monotonic() + wait
        # The worker has run a task before, as idle ones have.
        tasks.wait_until_ended(tasks.send(1, TASK_SECONDS, name="work"))
        time.sleep(due - time.monotonic())
        sent = {}
        for _ in range(TASKS):
            at = time.time()
            sent[tasks.send(1, TASK_SECONDS, name="work")[0]] = at
        queued = wait_for(lambda: second_waited(tasks.counts), "no second process", 3 * PERIOD)
        tasks.wait_until_started(sent, within=2 * PERIOD + TASKS * TASK_SECONDS)
        begun = {name: float(at) for name, at in hash_of(tasks.counts, "at").items() if name in sent}
        pids = hash_of(tasks.counts, "pids")
        tasks.close()
    start = min(sent.values())
    firsts: dict[str, float] = {}
    for name, at in begun.items():
        firsts[pids[name]] = min(at, firsts.get(pids[name], at))
    seconds = sorted(at - start for at in firsts.values())
    waits = sorted(begun[name] - at for name, at in sent.items())
    return Reaction(
        second=seconds[1] if len(seconds) > 1 else float("inf"),
        queued=queued,
        last=seconds[-1],
        wait=waits[int(0.95 * len(waits))],
        done=max(begun.values()) - start,
    )


def second_waited(redis: Any) -> float | None:
    """Return for how long the second process to run tasks had to wait for a CPU; nothing before there is one.

    A new worker's own pool process waits together with it, so of the two the worker counts.
    """
    pids = sorted({int(pid) for pid in redis.hvals("pids")}, key=started)
    if len(pids) < 2:
        return None
    first, second = (parent(pid) for pid in pids[:2])
    return run_delay(pids[1] if first == second else second)


def parent(pid: int) -> int:
    """Return the parent of a process, proc(5)."""
    return int(stat(pid)[1])


def started(pid: int) -> int:
    """Return when a process was started, in ticks of the clock, proc(5)."""
    return int(stat(pid)[19])


def stat(pid: int) -> list[str]:
    """Return what the kernel reports of a process, from its state on, proc(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def run_delay(pid: int) -> float:
    """Return for how many seconds a process could have run and had no CPU (sched-stats)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def reaction(url: str, rounds: int) -> Table:
    """Measure the contenders in turn; return the table."""
    polling_rounds = max(1, rounds * POLLING_ROUNDS // ROUNDS)
    found: dict[str, list[Reaction]] = {name: [] for name in CONTENDERS}
    with Progress(console=console) as progress:
        bar = progress.add_task("reaction", total=3 * rounds + polling_rounds)
        for number in range(rounds):
            for name, contender in CONTENDERS.items():
                of = polling_rounds if contender is polling else rounds
                if number < of:
                    found[name].append(react(url, name, (number + 0.5) / of))
                    progress.advance(bar)
    names = list(found)
    table = new_table(
        f"a burst of {TASKS} tasks of {TASK_SECONDS:g} s at one idle worker, at most {MAXIMUM}: seconds from "
        "its first message",
        "", *names,
    )  # fmt: skip
    seconds = {name: [one.second for one in found[name]] for name in names}
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    table.add_row("rounds", *(str(len(found[name])) for name in names))
    table.add_row("second slot at work, median", *(f"{medians[name]:.2f}" for name in names))
    table.add_row("in relation to ours", *(f"{medians[name] / medians[names[0]]:.2f}" for name in names))
    calm = {name: statistics.median(one.second - one.queued for one in found[name]) for name in names}
    table.add_row("without its waiting for a CPU, median", *(f"{calm[name]:.2f}" for name in names))
    table.add_row("fastest round", *(f"{min(seconds[name]):.2f}" for name in names))
    table.add_row("slowest round", *(f"{max(seconds[name]):.2f}" for name in names))
    for field, text in (
        ("last", "all slots at work, median"),
        ("wait", "95 % of the tasks waited at most, median"),
        ("done", "all tasks had begun, median"),
    ):
        values = {name: [getattr(one, field) for one in found[name]] for name in names}
        table.add_row(text, *(f"{statistics.median(values[name]):.1f}" for name in names))
    return table
