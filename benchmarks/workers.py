"""Throughput and wake-up of our workers beside plain Celery's, on the same machine in the same run.

``make bench`` runs it. It starts a Redis of its own and prints ratios; bare times mean little on a machine
that does other things as well.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import docker
from celery import Celery
from redis import Redis
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from support.processes.services import RedisServer

ROUNDS = 5
NOOP_TASKS = 4000
SLEEP_TASKS = 1500
WAKE_UPS = 60
IDLE_SECONDS = 10
# The agent's cost is a few thousandths: it takes many turns within one worker to see it.
TURNS = 40
TURN_SECONDS = 2.0
# More than a worker executes in all turns.
PLENTY = 3000 * int(2 * TURNS * TURN_SECONDS)

T = TypeVar("T")
Pairs = list[tuple[float, float]]

APP = """
import os, time
from celery import Celery
from redis import Redis

app = Celery("bench", broker=os.environ["BROKER"])
app.conf.update(task_acks_late=True, task_ignore_result=True, worker_prefetch_multiplier=4,
                broker_connection_retry_on_startup=True)

@app.task(name="noop")
def noop(): pass

@app.task(name="sleep")
def sleep(): time.sleep(0.005)

@app.task(name="mark")
def mark(): Redis.from_url(os.environ["BROKER"]).set("marked", time.time())
"""

# Beats only while the file is there; its lease outlasts the benchmark.
SWITCHED = """
import os, sys
from pathlib import Path
from celery_autoscaler import launch
from celery_autoscaler.consuming import agent

os.environ["CELERY_APP_LEASE"] = "1e6"
beat = agent.HeartbeatThread.beat
agent.HeartbeatThread.beat = lambda self: beat(self) if Path("agent-on").exists() else None
launch.main()
"""
LAUNCHERS = {
    "plain": "from celery.__main__ import main; main()",
    "ours": "from celery_autoscaler.launch import main; main()",
    "switched": SWITCHED,
}


@contextmanager
def worker(kind: str, broker: str, concurrency: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker of a kind, in a folder of its own, for as long as the block lasts."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "bench.py").write_text(APP)
        arguments = ["-A", "bench", "worker", "-c", str(concurrency), "-l", "ERROR"]
        arguments += ["--without-mingle", "--without-gossip"]
        process = subprocess.Popen(
            [sys.executable, "-c", LAUNCHERS[kind], *arguments],
            cwd=folder,
            env={**os.environ, "BROKER": broker, "PYTHONPATH": folder, "C_FORCE_ROOT": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            # A stop of plain Celery's may take half a minute.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, for at most two minutes."""
    deadline = time.monotonic() + 120
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.002)


def fill(redis: Redis, broker: str, task: str, count: int) -> None:
    """Put messages of a task into the queue: one as Celery sends it, the others with other ids."""
    redis.flushall()
    task_id = str(Celery(broker=broker).send_task(task).id)
    message: Any = redis.lindex("celery", 0)
    tag = json.loads(message)["properties"]["delivery_tag"]
    with redis.pipeline(transaction=False) as pipe:
        for number in range(count - 1):
            other = message
            for name in (task_id, tag):
                other = other.replace(name.encode(), str(uuid4()).encode())
            pipe.lpush("celery", other)
            if number % 1000 == 0:
                pipe.execute()
        pipe.execute()


def throughput(redis: Redis, broker: str, kind: str, load: tuple[int, str, int]) -> tuple[float, float]:
    """Return what a worker executes that finds its queue full.

    Tasks a second; and tasks for each second of processor time of its main process, which does not change
    much with what else the machine does.
    """
    concurrency, task, count = load
    fill(redis, broker, task, count)
    with worker(kind, broker, concurrency) as process:
        until(lambda: redis.llen("celery") < count * 0.9)
        begin, waiting, cpu = time.monotonic(), redis.llen("celery"), cpu_seconds(process.pid)
        until(lambda: redis.llen("celery") == 0)
        return waiting / (time.monotonic() - begin), waiting / (cpu_seconds(process.pid) - cpu)


def agent_cost(redis: Redis, broker: str) -> tuple[Pairs, Pairs, float]:
    """Return what a worker executes with the agent and without it, for each pair of its turns.

    Tasks a second, tasks for each second of processor time of its main process; and the share of that time
    that the agent's thread takes while there is an agent.
    """
    fill(redis, broker, "noop", PLENTY)
    rates: dict[bool, list[float]] = {True: [], False: []}
    work: dict[bool, list[float]] = {True: [], False: []}
    spent = {"agent": 0.0, "all": 0.0}
    with worker("switched", broker, 2) as process:
        switch = Path(f"/proc/{process.pid}/cwd/agent-on")
        until(lambda: redis.llen("celery") < PLENTY * 0.99)
        for turn in range(2 * TURNS):
            # On, off, off, on: what drifts cancels out.
            on = turn % 4 in (0, 3)
            switch.touch() if on else switch.unlink(missing_ok=True)
            begin, waiting, before = time.monotonic(), redis.llen("celery"), thread_seconds(process.pid)
            time.sleep(TURN_SECONDS)
            done, after = waiting - redis.llen("celery"), thread_seconds(process.pid)
            used = {thread: seconds - before[thread] for thread, seconds in after.items()}
            rates[on].append(done / (time.monotonic() - begin))
            work[on].append(done / sum(used.values()))
            if on:
                spent["all"] += sum(used.values())
                spent["agent"] += sum(used.values()) - used[process.pid]
        if not redis.llen("celery"):
            raise RuntimeError("the worker is too fast: give it more tasks")
    return in_pairs(rates), in_pairs(work), spent["agent"] / spent["all"]


def in_pairs(found: dict[bool, list[float]]) -> Pairs:
    """Return what was found with the agent beside what was found without it."""
    return list(zip(found[True], found[False], strict=True))


def wake_up(redis: Redis, broker: str, kind: str) -> float:
    """Return the median of the seconds from sending to an idle worker until the task runs."""
    redis.flushall()
    app = Celery(broker=broker)
    waits = []
    with worker(kind, broker, 1):
        for number in range(WAKE_UPS + 1):
            redis.delete("marked")
            time.sleep(0.05 + 0.013 * (number % 7))
            begin = time.time()
            app.send_task("mark")
            until(lambda: redis.exists("marked") == 1)
            waits.append(float(redis.get("marked")) - begin)  # type: ignore[arg-type]
    return statistics.median(waits[1:])


def idle_cost(redis: Redis, broker: str, kind: str) -> tuple[float, float]:
    """Return the share of a core and the commands a second of an idle worker."""
    redis.flushall()
    app = Celery(broker=broker)
    with worker(kind, broker, 1) as process:
        app.send_task("mark")
        until(lambda: redis.exists("marked") == 1)
        time.sleep(1)
        before = commands(redis), cpu_seconds(process.pid)
        time.sleep(IDLE_SECONDS)
        after = commands(redis), cpu_seconds(process.pid)
    return (after[1] - before[1]) / IDLE_SECONDS, (after[0] - before[0]) / IDLE_SECONDS


def commands(redis: Redis) -> int:
    """Return how many commands the server has run, those inside scripts included."""
    return sum(statistic["calls"] for statistic in redis.info("commandstats").values())


def cpu_seconds(pid: int) -> float:
    """Return the processor time of a process, proc(5)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def thread_seconds(pid: int) -> dict[int, float]:
    """Return the processor time of each thread of a process; the main thread has the process's number."""
    return {
        int(task.name): int((task / "schedstat").read_text().split()[0]) / 1e9
        for task in Path(f"/proc/{pid}/task").iterdir()
    }


def in_turn(measure: Callable[[str], T], progress: Callable[[], None]) -> list[tuple[T, T]]:
    """Measure ours and plain Celery's several times, each first as often as second."""
    pairs = []
    for number in range(ROUNDS):
        measured = {kind: measure(kind) for kind in (("ours", "plain"), ("plain", "ours"))[number % 2]}
        pairs.append((measured["ours"], measured["plain"]))
        progress()
    return pairs


def row(what: str, pairs: Pairs, digits: int = 0) -> list[str]:
    """Return a row of the table: medians, the median of the ratios, and how far it can be trusted."""
    ratios = [first / second for first, second in pairs]
    error = statistics.stdev(ratios) / len(ratios) ** 0.5
    medians = [f"{statistics.median(values):.{digits}f}" for values in zip(*pairs, strict=True)]
    return [what, *medians, f"{statistics.median(ratios):.3f}", f"± {error:.3f}"]


def main() -> None:
    """Run everything and print one table."""
    server = RedisServer(docker.from_env())
    redis, console = Redis.from_url(server.url), Console()
    table = Table(title="ours beside plain Celery, medians of pairs", title_justify="left")
    for column in ("what", "ours", "plain", "ratio", "std. error"):
        table.add_column(column, justify="left" if column == "what" else "right")
    loads = [(n, t, c) for n in (1, 2, 4) for t, c in (("noop", NOOP_TASKS), ("sleep", SLEEP_TASKS))]
    try:
        with Progress(console=console) as progress:
            bar = progress.add_task("measuring", total=ROUNDS * (len(loads) + 1) + 2)

            def advance() -> None:
                progress.advance(bar)

            for load in loads:
                pairs = in_turn(partial(throughput, redis, server.url, load=load), advance)
                task = "no-op" if load[1] == "noop" else "5 ms"
                for which, what in enumerate(("tasks/s", "tasks/CPU s")):
                    chosen = [(ours[which], plain[which]) for ours, plain in pairs]
                    table.add_row(*row(f"{load[0]} children, {task}, {what}", chosen))
            delays = in_turn(lambda kind: 1000 * wake_up(redis, server.url, kind), advance)
            table.add_row(*row("wake-up of an idle worker, ms", delays, 1))
            idle = [idle_cost(redis, server.url, kind) for kind in ("ours", "plain")]
            table.add_row("idle: % of a core", *(f"{100 * cpu:.2f}" for cpu, _ in idle), "", "")
            table.add_row("idle: commands/s in Redis", *(f"{sent:.0f}" for _, sent in idle), "", "")
            advance()
            table.add_section()
            table.add_row("", "agent on", "agent off", "", "")
            rates, work, share = agent_cost(redis, server.url)
            table.add_row(*row("2 children, no-op, tasks/s", rates))
            table.add_row(*row("2 children, no-op, tasks/CPU s", work))
            table.add_row("the agent's share of CPU time, %", f"{100 * share:.2f}", "", "", "")
            advance()
        console.print(table)
    finally:
        server.kill()


if __name__ == "__main__":
    main()
