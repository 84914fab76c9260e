"""Workers as child processes, for a container or a laptop.

Each worker is the leader of a session of its own, so that a terminal's Ctrl-C does not reach it. Its output
goes to a file and from there, with its name, to the supervisor's: a pipe would fill up and hold the worker
up if the supervisor did not read. A worker notices when its supervisor dies and ends by itself
(:mod:`celery_autoscaler.protocol.orphan_guard`).
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from celery_autoscaler.logs import json_line, of_worker, wants_json
from celery_autoscaler.protocol.description import Description
from celery_autoscaler.protocol.orphan_guard import DRAIN_VARIABLE, SUPERVISOR_VARIABLE
from celery_autoscaler.protocol.slots import MOST_SLOTS_VARIABLE
from celery_autoscaler.protocol.text import as_text, in_json
from celery_autoscaler.settings import Group
from celery_autoscaler.supervisor.launchers import LAST_WORDS, LaunchError, State, StopSignal

SIGNALS = {StopSignal.TERM: signal.SIGTERM, StopSignal.QUIT: signal.SIGQUIT, StopSignal.KILL: signal.SIGKILL}
# Seconds between two looks at what workers printed.
PASS_ON_SECONDS = 0.2
# Bytes of passed on output after which a file is emptied.
KEEP_BYTES = 2**20


@dataclass
class Child:
    """A worker, and how far its output was passed on."""

    process: subprocess.Popen[bytes]
    log: Path
    passed: int = 0
    asked: bool = False
    last: list[str] = field(default_factory=list)


class ProcessLauncher:
    """Starts workers with ``python -m celery_autoscaler.launch``."""

    outlived = False
    gives_settings = True

    def __init__(self, app: Description, host: str) -> None:
        """Launch workers of an app in its own environment, named after a host."""
        self.app = app
        self.host = host
        self._children: dict[str, Child] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="celery-autoscaler-"))
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._reader = threading.Thread(target=self._read, name="output", daemon=True)
        self._reader.start()

    def start(self, group: Group, worker: str) -> None:
        """Start a worker."""
        log = self._folder / worker
        options = [
            f"--{name.replace('_', '-')}={value}" for name, value in group.options.items() if value != ""
        ]
        command = [
            *(self.app.python, "-m", "celery_autoscaler.launch", "-A", self.app.name, "worker"),
            *("--hostname", f"{worker}@{self.host}", "--queues", ",".join(group.queues)),
            *("--pool", group.pool, "--concurrency", str(group.concurrency)),
            *("--without-mingle", "--without-gossip", "--loglevel", "INFO", *options),
        ]
        environment = os.environ | {
            SUPERVISOR_VARIABLE: str(os.getpid()),
            DRAIN_VARIABLE: f"{group.drain_timeout:g}",
        }
        environment.pop("NOTIFY_SOCKET", None)
        environment.pop(MOST_SLOTS_VARIABLE, None)
        if group.max_concurrency:
            environment[MOST_SLOTS_VARIABLE] = str(group.max_concurrency)
        try:
            with log.open("ab") as output:
                process = subprocess.Popen(
                    command,
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        except OSError as error:
            raise LaunchError(f"{command[0]} cannot be started: {error}") from error
        with self._lock:
            self._children[worker] = Child(process, log)

    def workers(self) -> dict[str, State]:
        """Return the workers that there are; those that ended when asked to are forgotten."""
        states = {}
        for name, child in list(self._children.items()):
            if child.process.poll() is None:
                states[name] = State.STOPPING if child.asked else State.RUNNING
                continue
            # What the main process left behind must not go on without it.
            self._signal(child, signal.SIGKILL)
            if child.asked:
                self.forget_failed(name)
            else:
                states[name] = State.FAILED
        return states

    def send_signal(self, worker: str, how: StopSignal) -> None:
        """Send a signal: to the main process, or to kill to all."""
        child = self._children[worker]
        child.asked = True
        if how is StopSignal.KILL:
            self._signal(child, signal.SIGKILL)
        elif child.process.poll() is None:
            child.process.send_signal(SIGNALS[how])

    def forget_failed(self, worker: str) -> None:
        """Forget a worker, once what it printed was passed on."""
        with self._lock:
            child = self._children.pop(worker, None)
            if child is not None:
                with suppress(OSError):
                    self._pass_on(worker, child)
                    child.log.unlink(missing_ok=True)

    def last_words(self, worker: str) -> list[str]:
        """Return the last lines that a worker printed."""
        with self._lock:
            child = self._children.get(worker)
            if child is None:
                return []
            with suppress(OSError):
                self._pass_on(worker, child)
            return child.last

    def where_to_look(self, worker: str) -> str:
        """Return that the supervisor passes on what its workers print."""
        return f"the supervisor's log, lines of {worker}"

    def close(self) -> None:
        """Pass on what is left and remove the files."""
        self._closed.set()
        self._reader.join()
        for name in list(self._children):
            self.forget_failed(name)
        shutil.rmtree(self._folder, ignore_errors=True)

    @staticmethod
    def _signal(child: Child, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(child.process.pid, number)

    def _read(self) -> None:
        while not self._closed.wait(PASS_ON_SECONDS):
            with self._lock:
                for name, child in self._children.items():
                    # Such as no file left to open: the others', and the next time, may do.
                    with suppress(OSError):
                        self._pass_on(name, child)

    def _pass_on(self, name: str, child: Child) -> None:
        """Print what a worker has printed since last time, each line with its name."""
        with child.log.open("rb") as log:
            log.seek(child.passed)
            content = log.read()
        whole, newline, rest = content.rpartition(b"\n")
        if child.process.returncode is not None and rest:
            whole, newline = content, b""
        if not whole:
            return
        child.passed += len(whole) + len(newline)
        lines = whole.decode(errors="replace").splitlines()
        child.last = [*child.last, *(line for line in lines if line.strip())][-LAST_WORDS:]
        sys.stdout.write("".join(f"{shown(name, self.host, line)}\n" for line in lines))
        sys.stdout.flush()
        if child.passed > KEEP_BYTES and child.passed == child.log.stat().st_size:
            # Opened to append, the worker goes on at the new end.
            os.truncate(child.log, 0)
            child.passed = 0


def shown(name: str, host: str, line: str) -> str:
    """Return a line of a worker with the worker's name; lines of JSON have it already."""
    if not wants_json():
        return f"{name} | {as_text(line)}"
    if line.startswith("{"):
        return in_json(line)
    return json_line(time.time(), "INFO", "worker", line, **of_worker(f"{name}@{host}"))
