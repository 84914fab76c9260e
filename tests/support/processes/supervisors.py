"""Supervisors of the single-file app, their workers being child processes, and the tasks that are counted."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from support.processes.counted_tasks import SETTINGS, Tasks
from support.processes.launched_workers import LaunchedProcess, settings_variable
from support.processes.services import wait_for

WITHIN = 30.0  # seconds
GROUP = "default"
# Of the group, for tests: what happens in a minute shall happen in seconds.
GROUP_SETTINGS: dict[str, Any] = {
    "queues": ["celery"],
    "concurrency": 2,
    "target_wait": 2.0,
    "min_workers": 1,
    "max_workers": 3,
    "drain_timeout": 20.0,
}
# Of the supervisor: a busy machine shall be no reason to wait.
FLEET_SETTINGS: dict[str, Any] = {"cpu_threshold": 100, "memory_threshold": 100, "http": ""}


class Supervisor(LaunchedProcess):
    """A supervisor, with the workers that it starts."""

    def __init__(self, folder: Path, broker: str, host: str, config: str, environment: Mapping[str, str]):
        self.host = host
        self.config = folder / f"{host}.toml"
        self.config.write_text(config)
        super().__init__(
            folder, broker, "celery_autoscaler.cli", "-A", "single", "run", "--config", str(self.config),
            environment=environment,
        )  # fmt: skip

    def kill_alone(self) -> None:
        """Kill the supervisor, but not its workers."""
        self.descendants()
        self.signal(signal.SIGKILL)
        self.process.wait()

    def kill(self) -> None:
        """Kill it and all its workers; does nothing to those that have ended."""
        self.kill_family()


class SupervisedFleet:
    """Supervisors on one broker. Ends them all when it is left."""

    def __init__(
        self,
        folder: Path,
        broker_url: str,
        counts_url: str,
        app_settings: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        settings = SETTINGS | dict(app_settings or {})
        self.folder = folder
        self.broker_url = broker_url
        self.environment = settings_variable(settings) | {"COUNTS": counts_url} | dict(environment or {})
        self.tasks = Tasks(broker_url, broker_url, counts_url, settings)
        self.supervisors: list[Supervisor] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for supervisor in self.supervisors:
            supervisor.kill()
        self.tasks.close()

    def start(
        self,
        host: str = "here",
        *,
        group: Mapping[str, Any] | None = None,
        others: Mapping[str, Mapping[str, Any]] | None = None,
        more: str = "",
        **fleet: Any,
    ) -> Supervisor:
        """Start a supervisor; its settings are those above but for the given ones, then `more` TOML."""
        config = self.config(host, group=group, others=others, **fleet) + more
        supervisor = Supervisor(self.folder, self.broker_url, host, config, self.environment)
        self.supervisors.append(supervisor)
        return supervisor

    @staticmethod
    def config(
        host: str,
        *,
        group: Mapping[str, Any] | None = None,
        others: Mapping[str, Mapping[str, Any]] | None = None,
        **fleet: Any,
    ) -> str:
        """Return the settings of a supervisor: those above but for the given ones, with other groups."""
        groups = {GROUP: group or {}, **(others or {})}
        return toml(FLEET_SETTINGS | {"hostname": host} | fleet) + "".join(
            f"[groups.{name}]\n" + toml(GROUP_SETTINGS | dict(settings)) for name, settings in groups.items()
        )

    def living(self) -> list[str]:
        """Return the names of the workers whose lease lives."""
        found: Any = self.tasks.redis.zrange("fleet:workers", 0, -1)
        return sorted(
            worker_id.rpartition(":")[0]
            for worker_id in found
            if self.tasks.redis.exists(f"fleet:worker:{worker_id}")
        )

    def consuming(self) -> list[str]:
        """Return the names of the workers that take messages."""
        found: Any = self.tasks.redis.zrange("fleet:workers", 0, -1)
        states = {name: self.tasks.redis.hget(f"fleet:worker:{name}", "state") for name in found}
        return sorted(name.rpartition(":")[0] for name, state in states.items() if state == "running")

    def wait_for_workers(self, count: int, within: float = WITHIN) -> list[str]:
        """Return the workers that take messages once there are exactly that number, and no other lives."""
        return wait_for(
            lambda: names if len(names := self.consuming()) == count and names == self.living() else None,
            f"there are not {count} workers",
            within,
        )

    def pid_of(self, worker: str) -> int:
        """Return the process id of a worker, by its name."""
        found: Any = self.tasks.redis.zrange("fleet:workers", 0, -1)
        [worker_id] = [name for name in found if name.startswith(f"{worker}:")]
        return int(str(self.tasks.redis.hget(f"fleet:worker:{worker_id}", "pid")))

    def by_host(self) -> Counter[str]:
        """Return how many tasks began on each host."""
        found: Any = self.tasks.counts.hvals("by")
        return Counter(name.partition("@")[2] for name in found)

    def status(self, host: str) -> dict[str, Any]:
        """Return what a supervisor says of itself; on a busy machine it may be silent for a moment."""

        def said() -> Any:
            return self.tasks.redis.hget(f"fleet:supervisor:{host}", "status")

        return dict(json.loads(wait_for(said, f"the supervisor of {host} is silent")))

    def decisions(self) -> list[dict[str, str]]:
        """Return the decisions that were written down."""
        found: Any = self.tasks.redis.xrange("fleet:decisions")
        return [entry for _, entry in found]

    def tails(self) -> str:
        """Return the end of what each supervisor printed."""
        return "\n".join(f"--- {one.host}\n{one.tail(150)}" for one in self.supervisors)


class Sampler:
    """Looks at a number again and again while a test goes on."""

    def __init__(self, fleet: SupervisedFleet) -> None:
        self.fleet = fleet
        self.most = 0

    def look(self) -> None:
        """Look once."""
        self.most = max(self.most, len(self.fleet.living()))

    def watch(self, seconds: float) -> None:
        """Look for so long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.look()
            time.sleep(0.05)


def toml(settings: Mapping[str, Any]) -> str:
    """Return settings as TOML."""
    shown = {
        name: str(value).replace("'", '"') if isinstance(value, list) else value
        for name, value in settings.items()
    }
    return "".join(
        f"{name} = {value}\n"
        if not isinstance(value, str) or value.startswith("[")
        else f'{name} = "{value}"\n'
        for name, value in shown.items()
    )


class NewSupervisedFleet(Protocol):
    """Makes a fleet that ends with the test."""

    def __call__(
        self,
        app_settings: Mapping[str, Any] | None = None,
        *,
        broker_url: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> SupervisedFleet:
        """Return a fleet on the session's Redis, or on another one."""
