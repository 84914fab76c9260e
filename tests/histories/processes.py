"""The processes of a history: workers that are restarted when they end, and supervisors."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

import psutil
from support.processes.process import PythonProcess, clean_environment, with_path

from histories.clock import Clock
from histories.proxy import Gate

# At INFO every task is named twice, which costs a busy machine a fifth of what it can do.
LOG_LEVEL = os.environ.get("LOG_LEVEL", "WARNING")
SOURCES = Path(__file__).parents[1]
SUPERVISED = ("celery", "second", "third", "news")


class Process(PythonProcess):
    """A process whose connections to the broker go through a port of their own."""

    def __init__(
        self, name: str, folder: Path, gate: Gate, command: list[str], environment: Mapping[str, str]
    ) -> None:
        """Start `python -m COMMAND`."""
        self.name = name
        self.gate = gate
        self.asked: float | None = None
        """When it was asked to end, by the recorder's clock."""
        self.frozen = False
        self.restarts = 0
        """How often it was asked to restart itself."""
        self.since = time.monotonic()
        self.clock = Clock(folder / f"{name}.clock")
        variables = clean_environment() | with_path(SOURCES) | dict(environment) | self.clock.environment()
        variables["BROKER"] = f"redis://127.0.0.1:{gate.port}/0"
        super().__init__(folder / f"{name}.log", *command, environment=variables)

    def mains(self) -> list[int]:
        """Return the process ids of the workers that it is, or has."""
        raise NotImplementedError

    @property
    def ready(self) -> bool:
        """Whether it has ever said that it consumes."""
        return "ready." in self.output()

    def words(self) -> str:
        """Return what it printed last."""
        lines = self.output().splitlines()
        telling = [
            line for line in lines if re.search("error|critical|Traceback|Fenced", line, re.IGNORECASE)
        ]
        # What has ended it, though others came after that.
        reason = [line for line in lines if "Unrecoverable error" in line][-1:]
        return " | ".join(line[:200] for line in [*reason, *(telling or lines)[-2:]])


class Worker(Process):
    """A worker that nobody supervises but this program."""

    @property
    def ready(self) -> bool:
        """Whether it has said that it consumes since it was last restarted."""
        return self.output().count("ready.") > self.restarts

    def mains(self) -> list[int]:
        """Return the process ids of the workers that it is, or has."""
        return [self.pid]


class Supervisor(Process):
    """A supervisor with its workers."""

    @property
    def ready(self) -> bool:
        """Whether it has ever said that it supervises."""
        return "Supervising" in self.output()

    def workers(self) -> list[psutil.Process]:
        """Return the main processes of its workers."""
        found = []
        for process in self.descendants():
            with suppress(psutil.NoSuchProcess):
                # Each leads a session of its own, its children do not.
                if os.getsid(process.pid) == process.pid:
                    found.append(process)
        return found

    def mains(self) -> list[int]:
        """Return the process ids of the workers that it is, or has."""
        return [process.pid for process in self.workers()]


def worker_command(
    name: str, pool: str, concurrency: int, queues: Iterable[str], more: Iterable[str]
) -> list[str]:
    """Return the command of a worker."""
    return [
        *("celery_autoscaler.launch", "-A", "histories.app", "worker", "-n", name),
        *("-P", pool, "-c", str(concurrency), "-Q", ",".join(queues)),
        *("--without-mingle", "--without-gossip", "-l", LOG_LEVEL, *more),
    ]


def supervisor_settings(
    host: str, pool: str, concurrency: str, tasks_per_child: int, max_workers: int
) -> str:
    """Return the settings of a supervisor as TOML."""
    children = f", max_tasks_per_child = {tasks_per_child}" if tasks_per_child else ""
    options = f'options = {{ loglevel = "{LOG_LEVEL}"{children} }}\n'
    return (
        f'hostname = "{host}"\nhttp = ""\ncpu_threshold = 100\nmemory_threshold = 100\n'
        "stabilisation = 3\n"
        f"[groups.general]\nqueues = {json.dumps(SUPERVISED)}\nconcurrency = {concurrency}\n"
        f'pool = "{pool}"\ntarget_wait = 2.0\nmin_workers = 1\nmax_workers = {max_workers}\n'
        f"drain_timeout = 20.0\n{options}"
    )
