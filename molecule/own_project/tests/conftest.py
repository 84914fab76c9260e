"""Hooks and fixtures of this scenario's tests."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from support.hosts.unit_journal import pytest_runtest_makereport

__all__ = ["Project", "pytest_runtest_makereport"]

# Prints what was recorded.
SHOW = "import sys, app; print(*app.results.lrange(sys.argv[1], 0, -1), sep=chr(10))"
# Prints the ids.
SEND = """
import sys
from celery.app.utils import find_app
app, [name, task, number, *args] = find_app(sys.argv[1]), sys.argv[1:]
with app.producer_pool.acquire() as producer:
    for n in range(int(number)):
        print(app.send_task(task, (args[0], float(args[1])), producer=producer))
"""


def records(printed: str) -> list[str]:
    """Return the lines that begin with the id of a task; a project may print others when it is imported."""
    return [
        line
        for line in printed.splitlines()
        if re.match(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b", line)
    ]


@dataclass(frozen=True)
class Project:
    """A deployed project that is none of ours."""

    host: Any
    name: str
    task: str
    listing: str
    prefix: str = "celery"
    """What its units, folders and commands begin with."""

    def run(self, command: str, *arguments: str) -> str:
        """Run a command of its release; return what it prints."""
        return str(self.host.check_output(f"{self.prefix}-app {command}", *arguments))

    def send(self, trace: str, number: int, seconds: float = 0.0) -> list[str]:
        """Send a number of tasks; return their ids."""
        command = f"python -c %s {self.name} {self.task} {number} {trace} {seconds}"
        return [line.split()[0] for line in records(self.run(command, SEND))]

    def executed(self, trace: str) -> list[str]:
        """Return what was recorded of the tasks that have ended, a line each, in that order."""
        return records(self.run(f"python {self.listing}", trace))

    def workers(self) -> int:
        """Return how many workers run, start or stop."""
        listed = self.host.check_output(
            f"systemctl list-units --output=json '{self.prefix}-worker@*.service'"
        )
        return len(json.loads(listed))

    def supervisor_said(self, since: float) -> str:
        """Return what the supervisor has logged since a time of the host's clock."""
        show = (
            f"journalctl --no-pager --output=cat --since=@{since:.6f} --unit={self.prefix}-autoscaler.service"
        )
        return str(self.host.check_output(show))


@pytest.fixture
def project(host: Any) -> Project:
    """Return the project of the host under test."""
    name = host.backend.get_pytest_id().removeprefix("ansible://")
    if name == "django":
        return Project(host, "shop", "orders.tasks.place", "manage.py orders %s", "celery-shop")
    prefix = "celery" if name == "single" else f"celery-{name}"
    return Project(host, "app", "app.record", f"-c '{SHOW}' %s", prefix)


@pytest.fixture
def other(host: Any) -> Project:
    """Return the other project of the host that has two."""
    return Project(host, "app", "app.record", f"-c '{SHOW}' %s")


@pytest.fixture
def trace() -> str:
    """Return the name under which a test's executions are recorded."""
    return f"test-{uuid4()}"
