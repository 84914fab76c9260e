"""The smoke test finds out whether every worker executes tasks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.processes.launched_workers import LaunchedWorkerFactory
from support.processes.process import clean_environment, with_path


@pytest.fixture
def run_smoke_test(redis_url: str, tmp_path: Path) -> Any:
    def run(*arguments: str) -> tuple[int, dict[str, Any]]:
        done = subprocess.run(
            [sys.executable, "-m", "celery_autoscaler.smoke_test", "-A", "single", *arguments],
            check=False,
            capture_output=True,
            text=True,
            env=clean_environment() | {"BROKER": redis_url} | with_path(tmp_path),
            cwd=tmp_path,
        )
        assert done.stdout, done.stderr
        return done.returncode, json.loads(done.stdout)

    return run


@pytest.mark.versions
def test_every_worker_executes_tasks_of_its_queues(
    launched_worker: LaunchedWorkerFactory, run_smoke_test: Any
) -> None:
    for name in ("one", "two"):
        launched_worker("worker", "-n", f"{name}@here", "-Q", "shared", "-c", "1")
    launched_worker("worker", "-n", "three@here", "-Q", "own", "-c", "1", "-P", "threads")

    status, report = run_smoke_test("--workers", "3", "--queue", "shared", "--queue", "own")

    assert status == 0
    assert report["queues"]["shared"]["workers"] == ["one@here", "two@here"]
    assert report["queues"]["own"]["workers"] == ["three@here"]
    for queue in report["queues"].values():
        assert queue["sent"] == queue["executed"] > 0
        assert queue["failed"] == 0
    assert sorted(report["workers"]) == ["one@here", "three@here", "two@here"]
    assert all(report["workers"].values())


def test_a_queue_without_a_worker_fails_the_test(
    launched_worker: LaunchedWorkerFactory, run_smoke_test: Any
) -> None:
    launched_worker("worker", "-Q", "served", "-c", "1")

    status, report = run_smoke_test(
        "--workers", "1", "--queue", "served", "--queue", "orphan", "--timeout", "8"
    )

    assert status == 1
    assert report["queues"]["orphan"] == {"sent": 20, "executed": 0, "failed": 0, "workers": []}
    assert report["queues"]["served"]["executed"] == report["queues"]["served"]["sent"]


def test_more_workers_than_asked_for_may_answer_and_all_do_their_share(
    launched_worker: LaunchedWorkerFactory, run_smoke_test: Any
) -> None:
    for name in ("one", "two"):
        launched_worker("worker", "-n", f"{name}@here", "-Q", "shared", "-c", "1")

    status, report = run_smoke_test("--workers", "1", "--at-least", "--queue", "shared")

    assert status == 0
    assert sorted(report["workers"]) == ["one@here", "two@here"]
    assert all(report["workers"].values())


def test_a_missing_worker_fails_the_test(launched_worker: LaunchedWorkerFactory, run_smoke_test: Any) -> None:
    launched_worker("worker", "-Q", "served", "-c", "1")

    status, report = run_smoke_test("--workers", "2", "--queue", "served", "--timeout", "8")

    assert status == 1
    assert len(report["workers"]) == 1
