"""The stack of compose.yaml under a name of its own, with a copy of the example project that tests edit."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import docker
from docker.models.containers import Container
from redis import Redis

from support.processes.counted_tasks import Outcome
from support.processes.services import wait_for
from support.role_files import CHECKOUT

NAME = "celery-fleet-compose-test"
LABEL = "com.docker.compose.project"
# Seconds without any progress after which what is missing is missing for good.
NO_PROGRESS = 20.0

# Run in a container of the app: sends tasks, prints their ids.
SEND = """
import json, sys
from tasks import app
name, arguments, options, count = json.loads(sys.argv[1])
task = app.signature(name, args=arguments, kwargs=options)
print(json.dumps([task.apply_async().id for _ in range(count)]))
"""


class Stack:
    """A running stack."""

    def __init__(self) -> None:
        self.docker = docker.from_env()
        self.folder = CHECKOUT / ".cache/compose-test"
        self.project = self.folder / "project"
        self.environment = os.environ | {
            "COMPOSE_PROJECT_NAME": NAME,
            "COMPOSE_FILE": f"compose.yaml:{self.folder / 'compose.yaml'}",
            # Whatever ports are free.
            **dict.fromkeys(
                ("REDIS_PORT", "POSTGRES_PORT", "PAGE_PORTS", "FLOWER_PORT", "PROMETHEUS_PORT"), "0"
            ),
            "COMPOSE_PROFILES": "flower,prometheus",
            "MAX_WORKERS": "6",
            # This CPU is shared with other tests.
            "CPU_THRESHOLD": "100",
        }
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(CHECKOUT / "app/tasks", self.project, ignore=shutil.ignore_patterns("__pycache__"))
        mounts = {"volumes": [f"{self.project}:/project:ro"]}
        (self.folder / "compose.yaml").write_text(json.dumps({"services": {"worker": mounts}}))

    def up(self, *arguments: str) -> None:
        """Start what does not run; the arguments are those of `docker compose up`."""
        self._script("up", *arguments)

    def down(self) -> None:
        """Remove it with its data."""
        self._script("down")

    def stop(self) -> None:
        """Stop it and keep its data."""
        self._script("stop")

    def demo(self, *arguments: str) -> str:
        """Run a demo; return what it prints in the end."""
        done = self._run("scripts/compose", "demo", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def refused(self, setting: str, *, started: bool = False) -> str:
        """Start it with another setting, which fails; return the last line.

        Args:
            setting: The setting, as in .env.
            started: Whether Compose has begun by then.
        """
        name, _, value = setting.partition("=")
        done = self._run("scripts/compose", "up", **{name: value})
        lines = done.stderr.splitlines()
        assert done.returncode == 1, done.stdout + done.stderr
        assert "What to type next" not in done.stdout
        assert started or len(lines) == 1, lines
        return lines[-1]

    def compose(self, *arguments: str) -> None:
        """Run a command of Compose itself."""
        done = self._run(
            "sh", "-c", 'docker compose "$@" 2>/dev/null || docker-compose "$@"', "sh", *arguments
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def _script(self, *arguments: str) -> None:
        done = self._run("scripts/compose", *arguments)
        assert done.returncode == 0, done.stdout + done.stderr

    def _run(self, *command: str, **settings: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            check=False,
            cwd=CHECKOUT,
            env=self.environment | settings,
            capture_output=True,
            text=True,
        )

    def containers(self, service: str = "", *, all: bool = False) -> list[Container]:  # noqa: A002
        """The containers of a service, or of all."""
        labels = [f"{LABEL}={NAME}"]
        if service:
            labels.append(f"com.docker.compose.service={service}")
        found: list[Container] = self.docker.containers.list(all=all, filters={"label": labels})
        return found

    def run(self, service: str, *command: str) -> str:
        """What a command prints in a container of a service."""
        # The library loses the output of some commands that end at once.
        done = self._run("docker", "exec", str(self.containers(service)[0].id), *command)
        assert done.returncode == 0, f"{service}: {command}: {done.stdout}{done.stderr}"
        return done.stdout

    def app(self, *command: str, service: str = "worker") -> str:
        """What a command prints in a container of the app, with the settings of the app."""
        return self.run(service, "with-secrets", *command)

    def send(
        self, name: str, *arguments: Any, count: int = 1, service: str = "worker", **options: Any
    ) -> list[str]:
        """Send tasks of the example project from a container of a service and return their ids."""
        call = json.dumps([name, arguments, options, count])
        ids: list[str] = json.loads(self.app("python", "-c", SEND, call, service=service))
        return ids

    def status(self) -> dict[str, Any]:
        """What the supervisors say."""
        said: dict[str, Any] = json.loads(self.app("celery-autoscaler", "status", "--json"))
        return said

    def supervisors(self) -> dict[str, Any]:
        """What each supervisor says of its host, by host."""
        found: dict[str, Any] = self.status()["supervisors"]
        return found

    def workers(self) -> int:
        """How many workers there are, those that start or end among them."""
        group = self.status()["groups"]["default"]
        return sum(int(group[state]) for state in ("ready", "starting", "draining"))

    def result(self, name: str) -> Any:
        """What a task returned, once it has."""

        def found() -> str | None:
            with self.redis(1) as client:
                stored: str | None = client.get(f"celery-task-meta-{name}")
            return stored if stored and json.loads(stored)["status"] == "SUCCESS" else None

        return json.loads(wait_for(found, f"task {name} has no result", 60))["result"]

    def redis(self, database: int = 0) -> Redis:
        """A client with the rights of the app, from this machine."""
        secrets = self.run("worker", "cat", "/secrets/environment")
        found = re.search(r"redis://app:(\w+)@", secrets)
        assert found is not None
        return Redis(
            port=self.port("redis", 6379),
            db=database,
            username="app",
            password=found[1],
            decode_responses=True,
        )

    def port(self, service: str, port: int) -> int:
        """The port of this machine that leads to one of a service."""
        container = self.containers(service)[0]
        container.reload()
        bindings = container.ports[f"{port}/tcp"]
        assert bindings
        return int(bindings[0]["HostPort"])

    def get(self, path: str, token: str = "", service: str = "worker", port: int = 9541) -> str:
        """What a supervisor, or another service, answers to HTTP."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port(service, port)}{path}")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, timeout=5) as answer:  # noqa: S310
            text: str = answer.read().decode()
            return text

    def executions(self, trace: str, ids: Sequence[str]) -> Outcome:
        """Wait until all have ended or nothing moves any more; return what became of them."""
        with self.redis() as client:
            seen, since = -1, time.monotonic()
            while time.monotonic() - since < NO_PROGRESS:
                ended = client.lrange(f"{trace}:ended", 0, -1)
                if set(ids) <= set(ended):
                    break
                if len(ended) != seen:
                    seen, since = len(ended), time.monotonic()
                time.sleep(0.2)
            return Outcome.of(ids, Counter(client.lrange(f"{trace}:started", 0, -1)), Counter(ended))

    def says(self, service: str, text: str, within: float = 30) -> str:
        """Wait until a service has logged some text; return the log."""

        def log() -> str | None:
            found = b"".join(container.logs() for container in self.containers(service)).decode()
            return found if text in found else None

        return wait_for(log, f"{service} did not say '{text}'", within)


def edit(path: Path, before: str, after: str) -> None:
    """Change a file as an editor does."""
    content = path.read_text(encoding="utf-8")
    assert before in content
    path.write_text(content.replace(before, after), encoding="utf-8")
