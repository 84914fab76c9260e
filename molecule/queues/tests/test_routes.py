"""Where a task goes when its sender names no queue, and who executes it."""

from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from support.hosts.deployed_app import Batch, results, send, waiting
from support.hosts.worker_units import Workers
from tasks import app

testinfra_hosts = ["ansible://worker1"]
units = ["celery-worker@*"]

SEPARATOR = "\x06\x16"  # kombu's, between a queue and a priority


@dataclass(frozen=True)
class Route:
    """Where a task is expected to go."""

    queue: str
    priority: int
    group: str
    kwargs: dict[str, Any]

    @property
    def key(self) -> str:
        """The list in Redis in which the task's messages wait."""
        return f"{self.queue}{SEPARATOR}{self.priority}" if self.priority else self.queue


ROUTES = {
    "tasks.default.echo": Route("default", 5, "general", {}),
    "tasks.default.fail": Route("default", 5, "general", {}),
    "tasks.cpu_intensive.burn": Route("cpu_intensive", 5, "cpu", {"seconds": 0}),
    "tasks.cpu_intensive.digest": Route("cpu_intensive", 5, "cpu", {"size": 1}),
    "tasks.io_intensive.wait": Route("io_intensive", 5, "io", {"seconds": 0}),
    "tasks.io_intensive.write_file": Route("io_intensive", 5, "io", {"size": 1}),
    "tasks.io_intensive.log_in_users": Route("io_intensive", 5, "io", {"users": 1}),
    "tasks.priority.notify": Route("priority", 2, "general", {}),
    "tasks.priority.health_check": Route("priority", 0, "general", {}),
    "tasks.scheduled.cleanup_expired_sessions": Route("scheduled", 7, "general", {}),
    "tasks.scheduled.generate_daily_reports": Route("scheduled", 7, "general", {}),
    "celery.accumulate": Route("default", 5, "general", {}),  # as any task that has no route of its own
}


@dataclass(frozen=True)
class Sent:
    """What became of one message of each task."""

    lists: dict[str, str]  # task → list in Redis in which its message waited
    results: dict[str, dict[str, Any]]  # task → its result


@pytest.fixture(scope="module")
def sent(workers: Workers) -> Sent:
    """Send each task while no worker runs, see where it waits, let it be executed."""
    workers.stop()
    ids = send(f"test-{uuid4()}", *(Batch(task, kwargs=route.kwargs) for task, route in ROUTES.items()))
    tasks = dict(zip(ids, ROUTES, strict=True))
    lists = {
        tasks[message["id"]]: key
        for key, messages in waiting().items()
        for message in messages
        if message["id"] in tasks
    }
    workers.start()
    return Sent(lists, {tasks[task_id]: result for task_id, result in results(ids).items()})


def test_every_task_of_the_project_has_an_expected_route() -> None:
    assert {name for name in ROUTES if name.startswith("tasks.")} == {
        name for name in app.tasks if name.startswith("tasks.")
    }


@pytest.mark.parametrize("task", ROUTES)
def test_a_task_waits_in_its_queue_with_its_priority(sent: Sent, task: str) -> None:
    assert sent.lists[task] == ROUTES[task].key


@pytest.mark.parametrize("task", ROUTES)
def test_a_task_is_executed_by_a_worker_of_its_group(sent: Sent, task: str) -> None:
    result = sent.results[task]

    assert result["queue"] == ROUTES[task].queue
    assert result["worker"].rpartition("-")[0] == ROUTES[task].group
    assert result["status"] == ("FAILURE" if task == "tasks.default.fail" else "SUCCESS")
