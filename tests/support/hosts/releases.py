"""Releases of the example project: made from changed copies of it, rolled out and back by the playbooks."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.background import sampling
from support.hosts.deployed_app import redis
from support.hosts.fleet_workers import enlisted
from support.hosts.scenario import ROOT, Scenario

logger = logging.getLogger(__name__)

PLAYBOOKS = "../../playbooks"


@dataclass
class Source:
    """A copy of the example project that can be changed."""

    folder: Path

    @classmethod
    def copy(cls, folder: Path) -> Source:
        """Return a copy of the project as it is."""
        shutil.copytree(ROOT / "app/tasks", folder, ignore=shutil.ignore_patterns("*.egg-info", "build"))
        return cls(folder)

    def append(self, line: str, module: str = "celery") -> None:
        """Change the project: add a line to a module."""
        path = self.folder / f"src/tasks/{module}.py"
        path.write_text(f"{path.read_text()}\n{line}\n")


@dataclass
class Rollouts:
    """Runs the playbooks of releases on the hosts of a scenario."""

    scenario: Scenario

    def deploy(self, source: Source, **variables: object) -> str:
        """Deploy a project; what the playbook printed."""
        return self._play("deploy", celery_app_source=str(source.folder), **variables)

    def rollback(self, **variables: object) -> str:
        """Go back to the release before, or the one that is named; what the playbook printed."""
        return self._play("rollback", **variables)

    def refused(self, source: Source, **variables: object) -> str:
        """Deploy a project that must not stay; what the playbook printed."""
        try:
            printed = self.deploy(source, **variables)
        except AssertionError as error:
            return str(error)
        raise AssertionError(f"it was deployed:\n{printed}")

    def _play(self, name: str, **variables: object) -> str:
        begin = time.monotonic()
        try:
            return self.scenario.play(playbook=f"{PLAYBOOKS}/{name}.yml", **variables)
        finally:
            logger.info("%s.yml took %.0f s", name, time.monotonic() - begin)

    def current(self) -> dict[str, str]:
        """Return the release that each worker host points to."""
        return {
            name: str(host.check_output("basename $(readlink /opt/celery/current)"))
            for name, host in self.scenario.hosts("workers").items()
        }

    def running(self) -> set[str]:
        """Return the releases that processes of the app run."""
        command = (
            "for unit in $(systemctl list-units --plain --no-legend 'celery-*.service' | cut -d' ' -f1); do "
            "tr '\\0' '\\n' </proc/$(systemctl show --property=MainPID --value $unit)/environ "
            "| grep ^CELERY_APP_RELEASE=; done | sort -u"
        )
        hosts = self.scenario.hosts("workers").values()
        lines = [line for host in hosts for line in str(host.check_output(command)).splitlines()]
        return {line.partition("=")[2] for line in lines}


@dataclass
class Samples:
    """How many workers of each group took messages at each look, and for how long the oldest task waited."""

    groups: tuple[str, ...]
    least: dict[str, int] = field(default_factory=dict)
    longest: dict[str, float] = field(default_factory=dict)
    """Seconds for which a task waited at most, as far as a supervisor saw it."""
    releases: set[str] = field(default_factory=set)
    looks: int = 0

    def look(self) -> None:
        """Look once."""
        counts = dict.fromkeys(self.groups, 0)
        with redis().pipeline(transaction=False) as asked:
            for worker_id in enlisted():
                asked.hmget(f"fleet:worker:{worker_id}", ["state", "group", "release"])
            workers = asked.execute()
        for state, group, release in workers:
            if state == "running" and group in counts:
                counts[str(group)] += 1
                self.releases.add(str(release))
        self.least = {group: min(n, self.least.get(group, n)) for group, n in counts.items()}
        hosts: Any = redis().zrange("fleet:supervisors", 0, -1)
        for host in hosts:
            published: Any = redis().hget(f"fleet:supervisor:{host}", "status")
            status = json.loads(published or '{"groups": {}}')
            for group in self.groups:
                age = float(status["groups"].get(group, {"age": 0.0})["age"])
                self.longest[group] = max(age, self.longest.get(group, 0.0))
        self.looks += 1


@contextmanager
def sampled(*groups: str) -> Iterator[Samples]:
    """Look at the workers of groups again and again until the block ends."""
    samples = Samples(groups)
    with sampling(samples.look):
        yield samples
