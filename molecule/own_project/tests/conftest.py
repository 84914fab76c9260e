"""Hooks and fixtures of this scenario's tests."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from support.hosts.unit_journal import pytest_runtest_makereport

__all__ = ["Project", "pytest_runtest_makereport"]

# Prints the ids.
SEND = """
import sys
from celery.app.utils import find_app
app, [name, task, number, *args] = find_app(sys.argv[1]), sys.argv[1:]
with app.producer_pool.acquire() as producer:
    for n in range(int(number)):
        print(app.send_task(task, (args[0], float(args[1])), producer=producer))
"""


@dataclass(frozen=True)
class Project:
    """A deployed project that is none of ours."""

    host: Any
    name: str
    task: str
    listing: str

    def send(self, trace: str, number: int, seconds: float = 0.0) -> list[str]:
        """Send a number of tasks; return their ids."""
        command = f"celery-app python -c %s {self.name} {self.task} {number} {trace} {seconds}"
        return str(self.host.check_output(command, SEND)).split()

    def executed(self, trace: str) -> list[str]:
        """Return what was recorded of the tasks that have ended, a line each, in that order."""
        return str(self.host.check_output(f"celery-app python {self.listing}", trace)).splitlines()

    def workers(self) -> int:
        """Return how many workers run, start or stop."""
        listed = self.host.check_output("systemctl list-units --output=json 'celery-worker@*.service'")
        return len(json.loads(listed))

    def supervisor_said(self, since: float) -> str:
        """Return what the supervisor has logged since a time of the host's clock."""
        show = f"journalctl --no-pager --output=cat --since=@{since:.6f} --unit=celery-autoscaler.service"
        return str(self.host.check_output(show))


@pytest.fixture
def project(host: Any) -> Project:
    """Return the project of the host under test."""
    if host.backend.get_pytest_id().endswith("single"):
        show = "import sys, app; print(*app.results.lrange(sys.argv[1], 0, -1), sep=chr(10))"
        return Project(host, "app", "app.record", f"-c '{show}' %s")
    return Project(host, "shop", "orders.tasks.place", "manage.py orders %s")


@pytest.fixture
def trace() -> str:
    """Return the name under which a test's executions are recorded."""
    return f"test-{uuid4()}"
