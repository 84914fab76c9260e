"""What a supervisor costs that has nothing to do."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measured_app import STEPS, app_folder, console, counts, new_table, status
from redis import Redis
from rich.progress import Progress
from rich.table import Table
from support.processes.counted_tasks import SETTINGS
from support.processes.launched_workers import settings_variable
from support.processes.services import wait_for
from support.processes.supervisors import Supervisor, toml
from workers import cpu_seconds

SIZES = ((50, 20, 5), (10, 20, 5), (1, 20, 1), (50, 5, 5), (50, 1, 1), (50, 20, 50))


COST_SECONDS, GROWTH_SECONDS, SETTLE = 60.0, 20.0, 15.0


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
