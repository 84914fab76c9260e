"""The processes of a history: workers that are started anew when they end, and supervisors."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from signal import SIGCONT, SIGKILL, Signals

import psutil
from celery_processes import clean_environment

from histories.clock import Clock
from histories.proxy import Gate

# At INFO every task is named twice, which costs a busy machine a fifth of what it can do.
LOG_LEVEL = os.environ.get("LOG_LEVEL", "WARNING")
SOURCES = Path(__file__).parents[1]
SUPERVISED = ("celery", "second", "third", "news")


class Process:
    """A process in a session of its own, whose connections to the broker go through a port of their own."""

    def __init__(
        self, name: str, folder: Path, gate: Gate, command: list[str], environment: Mapping[str, str]
    ) -> None:
        """Start `python -m COMMAND`."""
        self.name = name
        self.gate = gate
        self.log = folder / f"{name}.log"
        self.asked: float | None = None
        """When it was asked to end, by the recorder's clock."""
        self.frozen = False
        self.restarts = 0
        """How often it was asked to start itself anew."""
        self.since = time.monotonic()
        self.family: set[psutil.Process] = set()
        paths = [str(SOURCES), *filter(None, [os.environ.get("PYTHONPATH")])]
        variables = clean_environment() | {"PYTHONPATH": os.pathsep.join(paths)} | dict(environment)
        self.clock = Clock(folder / f"{name}.clock")
        variables |= self.clock.environment()
        variables["BROKER"] = f"redis://127.0.0.1:{gate.port}/0"
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command],
                env=variables,
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    @property
    def status(self) -> int | None:
        """The exit status, once it has ended."""
        return self.process.poll()

    def descendants(self) -> list[psutil.Process]:
        """Return the processes that it has started, with theirs, as far as they live."""
        with suppress(psutil.NoSuchProcess):
            self.family.update(psutil.Process(self.pid).children(recursive=True))
        return [process for process in self.family if process.is_running()]

    def mains(self) -> list[int]:
        """Return the process ids of the workers that it is, or has."""
        raise NotImplementedError

    def tell(self, number: Signals) -> None:
        """Send a signal to the process alone."""
        if self.status is None:
            self.process.send_signal(number)

    def tell_group(self, number: Signals) -> None:
        """Send a signal to the process and its children."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    @property
    def ready(self) -> bool:
        """Whether it has ever said that it consumes."""
        return "ready." in self.log.read_text(errors="replace")

    def words(self) -> str:
        """Return what it printed last."""
        lines = self.log.read_text(errors="replace").splitlines()
        telling = [
            line for line in lines if re.search("error|critical|Traceback|Fenced", line, re.IGNORECASE)
        ]
        # What has ended it, though others came after that.
        reason = [line for line in lines if "Unrecoverable error" in line][-1:]
        return " | ".join(line[:200] for line in [*reason, *(telling or lines)[-2:]])

    def end(self) -> None:
        """End it with all that belongs to it, at once."""
        everybody = self.descendants()
        self.tell_group(SIGCONT)
        self.tell_group(SIGKILL)
        for process in everybody:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(30)


class Worker(Process):
    """A worker that nobody supervises but this program."""

    @property
    def ready(self) -> bool:
        """Whether it has said that it consumes since it was last started anew."""
        return self.log.read_text(errors="replace").count("ready.") > self.restarts

    def mains(self) -> list[int]:
        """Return the process ids of the workers that it is, or has."""
        return [self.pid]


class Supervisor(Process):
    """A supervisor with its workers."""

    @property
    def ready(self) -> bool:
        """Whether it has ever said that it supervises."""
        return "Supervising" in self.log.read_text(errors="replace")

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
    host: str, pool: str, tasks_per_child: int, maximum: int, stabilisation: float
) -> str:
    """Return the settings of a supervisor as TOML."""
    children = f", max_tasks_per_child = {tasks_per_child}" if tasks_per_child else ""
    options = f'options = {{ loglevel = "{LOG_LEVEL}"{children} }}\n'
    return (
        f'hostname = "{host}"\nhttp = ""\ncpu_threshold = 100\nmemory_threshold = 100\n'
        f"stabilisation = {stabilisation:g}\n"
        f"[groups.general]\nqueues = {json.dumps(SUPERVISED)}\nconcurrency = {1 if pool == 'solo' else 2}\n"
        f'pool = "{pool}"\npromise = 2.0\nmin_workers = 1\nmax_workers = {maximum}\n'
        f"drain_timeout = 20.0\n{options}"
    )
