"""The supervisor measured on a real Redis with real workers: its reaction, its cost, and one burst drawn.

``make bench-scaling`` runs all of it and draws docs/burst.svg anew; ``--help`` tells how to run a part. The
tasks are those of the single-file app of the tests, and one more that also notes its process. Times depend
on the machine: what counts is the ratio between rows of the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import burst_picture
import docker
from redis import Redis
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from support.processes.counted_tasks import SETTINGS, Tasks
from support.processes.launched_workers import APP, LaunchedWorker, settings_variable
from support.processes.services import RedisServer, wait_for
from support.processes.supervisors import SupervisedFleet, Supervisor, toml
from workers import cpu_seconds

# The task that bursts are made of: it also notes which process runs it.
WORK = """

@app.task(bind=True)
def work(task, seconds):
    counts.hset("pids", task.request.id, os.getpid())
    begin(task)
    time.sleep(seconds)
    end(task)
"""

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

# Cost: queues; lists of each; workers; groups that share them. The first is measured for longer.
STEPS = list(range(10))
SIZES = ((50, 20, 5), (10, 20, 5), (1, 20, 1), (50, 5, 5), (50, 1, 1), (50, 20, 50))
COST_SECONDS, GROWTH_SECONDS, SETTLE = 60.0, 20.0, 15.0

# Burst: seconds, tasks a second all the time, the burst's size and moment, seconds a task.
BURST_SECONDS, TRICKLE, BURST, BURST_AT, BURST_TASK = 120, 1.0, 100, 10, 0.5
PICTURE = Path(__file__).parents[1] / "docs/burst.svg"

console = Console()


# --- Reaction -----------------------------------------------------------------------------------------------


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
    group = {"concurrency": 1, "min_workers": 1, "max_workers": MAXIMUM, "target_wait": 10.0}
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
    "our supervisor": ours,
    "celery --autoscale": autoscale,
    f"a look every {PERIOD:g} s": polling,
}


def counts(url: str) -> str:
    """Return where tasks are counted: beside the broker, so that both are emptied at once."""
    return url.removesuffix("/0") + "/1"


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
    """Return what the kernel tells of a process, from its state on, proc(5)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def run_delay(pid: int) -> float:
    """Return for how many seconds a process could have run and had no CPU (sched-stats)."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def reaction(url: str, rounds: int) -> Table:
    """Measure the contenders in turn; return the table."""
    polling_rounds = max(1, rounds * POLLING_ROUNDS // ROUNDS)
    found: dict[str, list[Reaction]] = {name: [] for name in CONTENDERS}
    with Progress(console=console) as progress:
        bar = progress.add_task("reaction", total=2 * rounds + polling_rounds)
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
    table.add_row("second worker at work, median", *(f"{medians[name]:.2f}" for name in names))
    table.add_row("in relation to ours", *(f"{medians[name] / medians[names[0]]:.2f}" for name in names))
    calm = {name: statistics.median(one.second - one.queued for one in found[name]) for name in names}
    table.add_row("without its waiting for a CPU, median", *(f"{calm[name]:.2f}" for name in names))
    table.add_row("fastest round", *(f"{min(seconds[name]):.2f}" for name in names))
    table.add_row("slowest round", *(f"{max(seconds[name]):.2f}" for name in names))
    for field, text in (
        ("last", "all workers at work, median"),
        ("wait", "95 % of the tasks waited at most, median"),
        ("done", "all tasks had begun, median"),
    ):
        values = {name: [getattr(one, field) for one in found[name]] for name in names}
        table.add_row(text, *(f"{statistics.median(values[name]):.1f}" for name in names))
    return table


# --- Cost ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """What a supervisor takes that has nothing to do."""

    cpu: float
    """Share of a core."""
    memory: float
    """Resident, in bytes."""
    ticks: Sequence[float]
    """Seconds that each took."""


def cost(url: str, size: tuple[int, int, int], seconds: float) -> Cost:
    """Measure a supervisor with queues and with real, idle workers that it has started itself."""
    queues, workers, groups = size
    redis: Any = Redis.from_url(url, decode_responses=True)
    redis.flushall()
    environment = settings_variable(SETTINGS | {"broker_transport_options": {"priority_steps": STEPS}})
    with app_folder() as folder:
        config = idle_config(queues, workers, groups, folder)
        supervisor = Supervisor(folder, url, "here", config, environment | {"COUNTS": counts(url)})
        try:
            wait_for(lambda: ready_workers(redis) == workers, f"there are not {workers} workers", 120)
            time.sleep(SETTLE)
            pid = supervisor.process.pid
            begin, cpu = time.monotonic(), cpu_seconds(pid)
            ticks = watch_ticks(redis, seconds)
            cpu = (cpu_seconds(pid) - cpu) / (time.monotonic() - begin)
            return Cost(cpu, resident(pid), ticks)
        finally:
            supervisor.kill()


def idle_config(queues: int, workers: int, groups: int, folder: Path) -> str:
    """Return the settings of groups that share the queues and the workers."""
    config = toml({"hostname": "here", "cpu_threshold": 100, "http": f"unix:{folder}/http"})
    for group in range(groups):
        some = workers // groups + (group < workers % groups)
        config += f"\n[groups.group{group}]\n" + toml(
            {
                "queues": [f"queue{queue}" for queue in range(group, queues, groups)],
                "pool": "solo",
                "min_workers": some,
                "max_workers": max(1, some),
            }
        )
    return config


def ready_workers(redis: Any) -> int:
    """Return how many workers of the supervisor consume."""
    return sum(worker["state"] == "ready" for worker in status(redis).get("workers", ()))


def status(redis: Any) -> dict[str, Any]:
    """Return what the supervisor has published last."""
    found: dict[str, Any] = json.loads(redis.hget("fleet:supervisor:here", "status") or "{}")
    return found


def watch_ticks(redis: Any, seconds: float) -> list[float]:
    """Return how long each tick took, read from what it publishes."""
    ticks: dict[float, float] = {}
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        seen = status(redis)
        ticks[seen["at"]] = seen["tick"]["took"]
        time.sleep(0.3)
    return list(ticks.values())


def resident(pid: int) -> float:
    """Return the resident memory of a process in bytes, proc(5)."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return float(pages * os.sysconf("SC_PAGE_SIZE"))


def idle_cost(url: str, scale: float) -> Table:
    """Measure supervisors of several sizes; return the table."""
    table = new_table(
        f"an idle supervisor, {len(STEPS)} priority steps a queue, solo workers that it has started",
        "queues", "lists", "workers", "groups", "CPU, % of a core", "memory, MiB", "tick, ms", "95 %, ms",
    )  # fmt: skip
    with Progress(console=console) as progress:
        for size in progress.track(SIZES, description="cost"):
            found = cost(url, size, scale * (COST_SECONDS if size == SIZES[0] else GROWTH_SECONDS))
            ticks, (queues, workers, groups) = sorted(found.ticks), size
            table.add_row(
                *map(str, (queues, queues * len(STEPS), workers, groups)), f"{100 * found.cpu:.2f}",
                f"{found.memory / 2**20:.0f}", f"{1000 * statistics.mean(ticks):.1f}",
                f"{1000 * ticks[int(0.95 * len(ticks))]:.1f}",
            )  # fmt: skip
    return table


# --- One burst ----------------------------------------------------------------------------------------------


def burst(url: str, picture: Path) -> Table:
    """Let our supervisor follow a burst with its default settings; draw what happened."""
    redis: Any = Redis.from_url(url, decode_responses=True)
    redis.flushall()
    seen: list[dict[str, Any]] = []
    with app_folder() as folder, SupervisedFleet(folder, url, counts(url)) as fleet:
        group = {"concurrency": 1, "min_workers": 1, "max_workers": 10, "target_wait": 10.0}
        fleet.start(group=group)
        fleet.wait_for_workers(1)
        begin, sent = time.time(), {}
        for second in range(BURST_SECONDS):
            for _ in range(int(TRICKLE) + (BURST if second == BURST_AT else 0)):
                at = time.time()
                sent[fleet.tasks.send(1, BURST_TASK, name="work")[0]] = at
            time.sleep(max(0.0, begin + second + 1 - time.time()))
            seen.append(status(redis) | {"length": int(redis.llen("celery"))})
        begun = {name: float(at) for name, at in hash_of(fleet.tasks.counts, "at").items()}
        decisions = fleet.decisions()
    rows = [row(one, begin, sent, begun) for one in seen]
    picture.write_text(burst_picture.draw(rows, target_wait=group["target_wait"]))
    for decision in decisions:
        at = float(decision["at"]) - begin
        change = f"{decision['have']} → {decision['want']}"
        console.print(f"{at:4.0f} s  {change}: {decision['reason']}", highlight=False, soft_wrap=True)
    waits = sorted(at - sent[name] for name, at in begun.items())
    table = new_table(f"a burst of {BURST} tasks of {BURST_TASK:g} s, drawn in {picture.name}", "", "")
    table.add_row("95 % of the tasks waited at most, s", f"{waits[int(0.95 * len(waits))]:.1f}")
    table.add_row("longest wait, s", f"{waits[-1]:.1f}")
    table.add_row("most workers", str(max(one["ready"] for one in rows)))
    return table


def row(
    seen: Mapping[str, Any], begin: float, sent: Mapping[str, float], begun: Mapping[str, float]
) -> dict[str, Any]:
    """Return a second of the burst: what the supervisor saw, and how long the oldest task had waited."""
    at, group = seen["at"], seen["groups"]["default"]
    waiting = [since for name, since in sent.items() if since < at < begun.get(name, at + 1)]
    return {
        "second": round(at - begin, 2),
        "messages": seen["length"],
        "ready": group["ready"],
        "starting": group["starting"],
        "draining": group["draining"],
        "wait": round(at - min(waiting), 2) if waiting else 0.0,
        "estimate": group["age"],
    }


# --- All of it ----------------------------------------------------------------------------------------------


@contextmanager
def app_folder() -> Iterator[Path]:
    """Make a folder with the single-file app and the task that bursts are made of."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "single.py").write_text(APP + WORK)
        yield Path(name)


def hash_of(redis: Any, key: str) -> dict[str, str]:
    """Return a hash."""
    found: dict[str, str] = redis.hgetall(key)
    return found


def new_table(title: str, *columns: str) -> Table:
    """Return a table whose first column is text and whose others are figures."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table


def main() -> None:
    """Run the parts that are asked for, or all of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help="reaction, cost, burst; by default all")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"of the reaction (default: {ROUNDS})")
    parser.add_argument("--scale", type=float, default=1.0, help="of the seconds for the cost (default: 1)")
    parser.add_argument("--picture", type=Path, default=PICTURE, help="where to draw the burst")
    options = parser.parse_args()
    server = RedisServer(docker.from_env())
    parts: dict[str, Callable[[], Table]] = {
        "reaction": lambda: reaction(server.url, options.rounds),
        "cost": lambda: idle_cost(server.url, options.scale),
        "burst": lambda: burst(server.url, options.picture),
    }
    if unknown := set(options.parts) - set(parts):
        parser.error(f"no part {', '.join(unknown)}; there are {', '.join(parts)}")
    try:
        for name in options.parts or parts:
            console.print(parts[name]())
    finally:
        server.kill()


if __name__ == "__main__":
    main()
