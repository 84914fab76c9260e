"""Prove that a Celery app executes tasks.

``python -m celery_autoscaler.smoke_test -A proj --workers 6 …`` sends tasks to each queue until
every worker that consumes it has executed one, and prints what was sent, executed and failed as JSON. The
task is ``celery.accumulate``, which every Celery app has and which only returns its arguments, so that
nothing is asked of the user's project.
"""

# The results of older versions of Celery are no generics.
from __future__ import annotations

import json
import os
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, field
from typing import Any

import click
from celery import Celery
from celery.app.utils import find_app
from celery.result import AsyncResult

TASK = "celery.accumulate"
BATCH = 20
INSPECT_TIMEOUT_SECONDS = 3.0


@dataclass
class QueueReport:
    """What the test did to one queue."""

    sent: int = 0
    executed: int = 0
    failed: int = 0
    workers: list[str] = field(default_factory=list)


def workers_by_queue(
    app: Celery, queues: list[str], expected: int, at_least: bool, deadline: float
) -> dict[str, list[str]]:
    """Return the names of the workers that consume each queue, as they answer themselves.

    Asks until the expected number has answered, and where more may do so each queue has one, as far as the
    deadline allows: a worker that has just started does not hear the first call.
    """
    limit = None if at_least else expected
    while True:
        answers = app.control.inspect(timeout=INSPECT_TIMEOUT_SECONDS, limit=limit).active_queues() or {}
        found = defaultdict(list)
        for worker, consumed in answers.items():
            for queue in consumed:
                found[queue["name"]].append(worker)
        complete = len(answers) >= expected and (not at_least or set(queues) <= set(found))
        if complete or time.monotonic() + 2 * INSPECT_TIMEOUT_SECONDS > deadline:
            return dict(found)


def executed_by_worker(app: Celery, workers: set[str]) -> Counter[str]:
    """Return how many tasks each worker that answers has executed since it started."""
    inspect = app.control.inspect(
        destination=sorted(workers), timeout=INSPECT_TIMEOUT_SECONDS, limit=len(workers)
    )
    stats = inspect.stats() or {}
    return Counter({worker: sum(answer["total"].values()) for worker, answer in stats.items()})


def send_batch(app: Celery, queue: str, deadline: float) -> list[AsyncResult[Any]]:
    """Send one batch of tasks to a queue; they expire at the deadline, so that none is left behind."""
    expires = max(1.0, deadline - time.monotonic())
    return [app.send_task(TASK, args=(n,), queue=queue, expires=expires) for n in range(BATCH)]


def wait_for(results: list[AsyncResult[Any]], deadline: float) -> None:
    """Wait until all results are there, or the deadline has passed."""
    while time.monotonic() < deadline and not all(result.ready() for result in results):
        time.sleep(0.05)


def smoke_test(
    app: Celery, queues: list[str], expected: int, at_least: bool, timeout: float
) -> dict[str, Any]:
    """Send tasks to the queues until each of their workers has executed one, unless it ended meanwhile.

    Args:
        app: The Celery app.
        queues: The queues to send to.
        expected: How many workers should answer.
        at_least: Whether more may answer.
        timeout: Seconds for everything.
    """
    deadline = time.monotonic() + timeout
    consumers = workers_by_queue(app, queues, expected, at_least, deadline)
    reports = {queue: QueueReport(workers=sorted(consumers.get(queue, []))) for queue in queues}
    workers = {worker for report in reports.values() for worker in report.workers}
    before = executed_by_worker(app, workers) if workers else Counter()
    executed: Counter[str] = Counter()
    idle = set(workers)
    results: dict[str, list[AsyncResult[Any]]] = defaultdict(list)
    while True:
        for queue, report in reports.items():
            if not results[queue] or idle.intersection(report.workers):
                results[queue] += send_batch(app, queue, deadline)
        wait_for([result for sent in results.values() for result in sent], deadline)
        if workers:
            answered = executed_by_worker(app, workers)
            executed |= answered - before
            if at_least:  # who does not answer has been stopped
                workers = set(answered) | set(executed)
            idle = workers - set(executed)
        if not idle or time.monotonic() >= deadline:
            break
    for queue, report in reports.items():
        report.sent = len(results[queue])
        report.executed = sum(result.successful() for result in results[queue])
        report.failed = sum(result.failed() for result in results[queue])
        for result in results[queue]:
            result.forget()
    return {
        "queues": {queue: vars(report) for queue, report in reports.items()},
        "workers": {worker: executed[worker] for worker in sorted(workers)},
    }


@contextmanager
def on_standard_error() -> Iterator[None]:
    """Have whatever is printed meanwhile, by child processes too, go to the standard error."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def end_of_answer() -> None:
    """Have what is printed from now on, such as at the end of the process, go to the standard error."""
    sys.stdout.flush()
    sys.stdout = sys.stderr


@click.command()
@click.option("-A", "--app", "name", required=True, help="The Celery app, as for `celery -A`.")
@click.option("--queue", "queues", multiple=True, required=True, help="A queue to send to; may be repeated.")
@click.option("--workers", type=int, required=True, help="How many workers should answer.")
@click.option("--at-least", is_flag=True, help="More may answer, for their number changes.")
@click.option("--timeout", type=float, default=30.0, show_default=True, help="Seconds for everything.")
def main(name: str, queues: tuple[str, ...], workers: int, at_least: bool, timeout: float) -> None:
    """Send tasks until every worker has executed one; exit 1 if a task or a worker is missing."""
    with on_standard_error():
        report = smoke_test(find_app(name), list(queues), workers, at_least, timeout)
    json.dump(report, sys.stdout)
    end_of_answer()
    whole = all(queue["sent"] == queue["executed"] for queue in report["queues"].values())
    consumers = {worker for queue in report["queues"].values() for worker in queue["workers"]}
    enough = len(consumers) >= workers if at_least else len(consumers) == workers
    shared = bool(report["workers"]) and all(report["workers"].values())
    sys.exit(0 if whole and enough and shared else 1)


if __name__ == "__main__":
    main()
