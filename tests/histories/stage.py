"""A fleet on its servers: it is started, watched, healed, and ended; what happens to it is noted."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from celery_autoscaler.protocol.keys import Keys
from redis.exceptions import RedisError

from histories.app import QUEUES
from histories.checker import SLOTS
from histories.events import Death, Fault, FaultKind, Overdue
from histories.processes import Process, Supervisor, Worker, supervisor_settings, worker_command
from histories.script import LEASE, Script
from histories.servers import Servers, client_of

# Seconds between two looks at the processes.
LOOK = 0.1
# Seconds by which a look comes late when the machine runs nobody else either.
STALL = 1.0
# Seconds after which a process that was asked to end is killed.
STOP_WITHIN = 60.0
# Seconds after the end of a lease within which the messages are back, on a busy machine; the guarantee is 2.
RESCUED = 12.0
# Seconds from a worker's start after which it can be expected to rescue others.
SETTLED_IN = LEASE + 8.0
KEYS = Keys()


class Stage:
    """The processes of one history."""

    def __init__(self, servers: Servers, script: Script, folder: Path) -> None:
        self.servers = servers
        self.script = script
        self.folder = folder
        self.faults: list[Fault] = []
        self.deaths: list[Death] = []
        self.overdue: list[Overdue] = []
        self.workers: list[Worker] = []
        self.supervisors: list[Supervisor] = []
        self.retired: list[Process] = []
        self.leaving: list[Worker] = []
        """Workers that were replaced and have not ended yet."""
        self.silent = False
        """Whether no connection to the broker carries anything."""
        self.maximum = 2
        self.closing = False
        self.lock = threading.RLock()
        self._number = 0
        self._suspects: dict[str, float] = {}
        self._reported: set[str] = set()
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._look_on, name="watch", daemon=True)

    def open(self) -> None:
        """Start everybody."""
        for number in range(self.script.seats):
            self.workers.append(self.new_worker(f"w{number}@here"))
        for number in range(self.script.supervisors):
            self.supervisors.append(self.new_supervisor(f"host{number}"))
        self._watch.start()

    # --- Processes -------------------------------------------------------------------------------------

    def new_worker(self, name: str) -> Worker:
        """Start a worker."""
        script = self.script
        more = [f"--prefetch-multiplier={script.prefetch}"]
        if script.tasks_per_child:
            more.append(f"--max-tasks-per-child={script.tasks_per_child}")
        concurrency = SLOTS.get(script.pool, 2)
        command = worker_command(name, script.pool, concurrency, (*QUEUES, "news"), more)
        return Worker(
            *self._called(name),
            command,
            self.environment() | {"CELERY_APP_MAX_CONCURRENCY": str(script.most)},
        )

    def new_supervisor(self, host: str) -> Supervisor:
        """Start a supervisor."""
        self.write_settings(host)
        command = [
            "celery_autoscaler.cli",
            "-A",
            "histories.app",
            "run",
            "--config",
            str(self.settings_of(host)),
        ]
        return Supervisor(*self._called(host), command, self.environment())

    def _called(self, name: str) -> tuple[str, Path, Any]:
        with self.lock:
            self._number += 1
            return f"{name}.{self._number}", self.folder, self.servers.proxy.gate()

    def settings_of(self, host: str) -> Path:
        """Return the file with a supervisor's settings."""
        return self.folder / f"{host}.toml"

    def write_settings(self, host: str) -> None:
        """Write a supervisor's settings down."""
        script = self.script
        concurrency = f"[2, {script.most}]" if script.most else "1" if script.pool == "solo" else "2"
        text = supervisor_settings(host, script.pool, concurrency, script.tasks_per_child, self.maximum)
        self.settings_of(host).write_text(text)

    def environment(self) -> dict[str, str]:
        """Return the environment of every process but for the broker."""
        return {
            "RECORDER": self.servers.recorder.url,
            "RESULTS": self.servers.results.url,
            "CELERY_APP_LEASE": str(LEASE),
            "OWN_CONSUMER": "1" if self.script.own_consumer else "",
        }

    def mains(self) -> list[int]:
        """Return the process ids of all workers, supervised ones included."""
        with self.lock:
            return [pid for owner in (*self.workers, *self.supervisors) for pid in owner.mains()]

    def owner(self, main: int) -> Worker | None:
        """Return the worker with this process id, if nobody supervises it."""
        with self.lock:
            return next((worker for worker in self.workers if worker.pid == main), None)

    # --- What happens ----------------------------------------------------------------------------------

    @contextmanager
    def fault(self, kind: FaultKind, *pids: int, subject: str = "") -> Iterator[list[int]]:
        """Note a fault that lasts until the block ends; the block may add processes that it concerns."""
        concerned = list(pids)
        since = time.time()
        try:
            yield concerned
        finally:
            with self.lock:
                self.faults.append(Fault(kind, since, time.time(), tuple(concerned), subject))

    def _look_on(self) -> None:
        before, looked = time.monotonic(), 0.0
        while not self._ended.wait(LOOK):
            now = time.monotonic()
            if now - before > STALL + LOOK:
                with self.lock:
                    self.faults.append(Fault(FaultKind.STALL, time.time() - (now - before), time.time()))
            with self.lock:
                self._look_at_processes()
            if now - looked > 1.0:
                looked = now
                # Their workers are ended with them at last, also when they have died meanwhile.
                with self.lock:
                    for supervisor in self.supervisors:
                        supervisor.descendants()
                self._look_at_records(now)
            before = time.monotonic()

    def _look_at_processes(self) -> None:
        for old in list(self.leaving):
            if old.status is not None:
                self.leaving.remove(old)
                self._note_death(old)
        for seats in (self.workers, self.supervisors):
            for number, process in enumerate(list(seats)):
                if process.asked is not None and time.time() - process.asked > STOP_WITHIN:
                    process.signal_group(signal.SIGKILL)
                if process.status is not None:
                    self._note_death(process)
                    if not self.closing:
                        seats[number] = self._again(process)  # type: ignore[call-overload]

    def _note_death(self, process: Process) -> None:
        if process in self.retired:
            return
        words = process.words() if process.status else ""
        death = Death(
            time.time(), process.name, process.pid, process.status or 0, process.asked, words, process.ready
        )
        self.deaths.append(death)
        self.retired.append(process)
        self.servers.proxy.drop(process.gate)

    def _again(self, process: Process) -> Process:
        name = process.name.rpartition(".")[0]
        return self.new_supervisor(name) if isinstance(process, Supervisor) else self.new_worker(name)

    def _look_at_records(self, now: float) -> None:
        """Note whose messages are not given back in time, while the broker answers and somebody could."""
        try:
            dead = self._dead_records() if self._rescuers() else set()
        except (RedisError, OSError):
            dead = set()
        self._suspects = {name: self._suspects.get(name, now) for name in dead}
        for name, since in self._suspects.items():
            if now - since > RESCUED and name not in self._reported:
                self._reported.add(name)
                self.overdue.append(Overdue(time.time(), name, now - since))

    def _dead_records(self) -> set[str]:
        with client_of(self.servers.primary.port, decode_responses=True, socket_timeout=0.5) as client:
            if client.info("replication")["role"] != "master" or int(
                client.config_get("maxmemory")["maxmemory"]
            ):
                return set()
            prefix = KEYS.unacked("")
            held = [key.removeprefix(prefix) for key in client.scan_iter(match=f"{prefix}*", count=1000)]
            return {name for name in held if not client.exists(KEYS.worker(name))}

    def _rescuers(self) -> bool:
        with self.lock:
            return any(
                isinstance(process, Worker)
                and process.status is None
                and process.asked is None
                and not process.frozen
                and not self.silent
                and time.monotonic() - process.since > SETTLED_IN
                for process in self.workers
            )

    # --- Its end ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """Ask everybody to end, wait, and note how they did."""
        with self.lock:
            self.closing = True
            everybody = [*self.workers, *self.supervisors, *self.leaving]
            for process in everybody:
                process.asked = process.asked or time.time()
                process.signal(signal.SIGTERM)
        deadline = time.monotonic() + STOP_WITHIN
        while any(process.status is None for process in everybody) and time.monotonic() < deadline:
            time.sleep(LOOK)
        time.sleep(2 * LOOK)
        with self.lock:
            self._look_at_processes()

    def end(self) -> None:
        """End the processes that are still there."""
        self.closing = True
        self._ended.set()
        if self._watch.ident is not None:
            self._watch.join(20)
        for process in (*self.workers, *self.supervisors, *self.leaving, *self.retired):
            process.kill_family()
        for gate in list(self.servers.proxy.gates):
            with suppress(ValueError):
                self.servers.proxy.remove(gate)
