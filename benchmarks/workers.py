"""Throughput and wake-up of our workers beside plain Celery's, on the same machine in the same run.

``make bench`` runs it. It starts a Redis of its own and prints ratios; bare times mean little on a machine
that does other things as well.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
from celery import Celery
from redis import Redis
from rich.console import Console
from rich.progress import track
from rich.table import Table
from services import RedisServer

ROUNDS = 3
NOOP_TASKS = 4000
SLEEP_TASKS = 1500
WAKE_UPS = 60
IDLE_SECONDS = 10

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

QUIET = "import celery_autoscaler.agent as agent; agent.BEAT = agent.LEASE = 1e6; "
LAUNCHERS = {
    "plain": "from celery.__main__ import main; main()",
    "ours": "from celery_autoscaler.launch import main; main()",
    "ours, agent off": f"{QUIET}from celery_autoscaler.launch import main; main()",
}


@contextmanager
def worker(kind: str, broker: str, concurrency: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker of a kind for as long as the block lasts."""
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
        )
        try:
            yield process
        finally:
            process.terminate()
            process.wait()


def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition, for at most two minutes."""
    deadline = time.monotonic() + 120
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.002)


def throughput(redis: Redis, broker: str, kind: str, load: tuple[int, str, int]) -> float:
    """Return the tasks a second of a worker that finds its queue full."""
    concurrency, task, count = load
    redis.flushall()
    app = Celery(broker=broker)
    with app.producer_pool.acquire() as producer:
        for _ in range(count):
            app.send_task(task, producer=producer)
    with worker(kind, broker, concurrency):
        until(lambda: redis.llen("celery") < count * 0.9)
        begin, waiting = time.monotonic(), redis.llen("celery")
        until(lambda: redis.llen("celery") == 0)
        return float(waiting) / (time.monotonic() - begin)


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


def compare(measure: Callable[[str], float], kinds: tuple[str, str]) -> tuple[float, float, float]:
    """Measure two kinds in turn; return both medians and the median of the ratios, first to second."""
    pairs = [(measure(kinds[0]), measure(kinds[1])) for _ in range(ROUNDS)]
    first, second = (statistics.median(values) for values in zip(*pairs, strict=True))
    return first, second, statistics.median(a / b for a, b in pairs)


def main() -> None:
    """Run everything and print one table."""
    server = RedisServer(docker.from_env())
    redis, console = Redis.from_url(server.url), Console()
    table = Table(title="ours beside plain Celery, median of ratios", title_justify="left")
    for column in ("what", "ours", "plain", "ratio"):
        table.add_column(column, justify="left" if column == "what" else "right")
    try:
        loads = [(n, t, c) for n in (1, 2, 4) for t, c in (("noop", NOOP_TASKS), ("sleep", SLEEP_TASKS))]
        for children, task, count in track(loads, "throughput", console=console):

            def rate(kind: str, load: tuple[int, str, int] = (children, task, count)) -> float:
                return throughput(redis, server.url, kind, load)

            ours, plain, ratio = compare(rate, ("ours", "plain"))
            name = f"{children} children, {'no-op' if task == 'noop' else '5 ms'} tasks, tasks/s"
            table.add_row(name, f"{ours:.0f}", f"{plain:.0f}", f"{ratio:.2f}")
        on, off, ratio = compare(
            lambda kind: throughput(redis, server.url, kind, (2, "noop", NOOP_TASKS)),
            ("ours", "ours, agent off"),
        )
        table.add_row("2 children, no-op, agent on beside off", f"{on:.0f}", f"{off:.0f}", f"{ratio:.2f}")
        ours, plain, ratio = compare(lambda kind: 1000 * wake_up(redis, server.url, kind), ("ours", "plain"))
        table.add_row("wake-up of an idle worker, ms", f"{ours:.1f}", f"{plain:.1f}", f"{ratio:.2f}")
        (cpu, sent), (plain_cpu, plain_sent) = (
            idle_cost(redis, server.url, kind) for kind in ("ours", "plain")
        )
        table.add_row("idle: % of a core", f"{100 * cpu:.2f}", f"{100 * plain_cpu:.2f}", "")
        table.add_row("idle: commands/s in Redis", f"{sent:.0f}", f"{plain_sent:.0f}", "")
        console.print(table)
    finally:
        server.kill()


if __name__ == "__main__":
    main()
