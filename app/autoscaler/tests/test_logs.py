"""Log lines as JSON, of real workers and supervisors."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.processes.counted_tasks import Fleet
from support.processes.launched_workers import write_app
from support.processes.services import wait_for
from support.processes.supervisors import SupervisedFleet

JSON: Mapping[str, str] = {"LOG_FORMAT": "json", "CELERY_APP_RELEASE": "r1"}


def parsed(output: str, release: str | None = None) -> list[dict[str, Any]]:
    """Return the lines, each of which has what all have."""
    lines = [json.loads(line) for line in output.splitlines()]
    for line in lines:
        assert {"time", "level", "logger", "message"} <= line.keys(), line
        assert datetime.fromisoformat(line["time"]).utcoffset() == timedelta(0)
        assert line.get("release") == release
    return lines


def test_each_line_of_a_worker_is_json(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOG_FORMAT", "json")
    worker = fleet.start(name="mails-3")
    [failed] = fleet.tasks.send(1, "a", 1, name="add")
    [done] = fleet.tasks.send(1)
    fleet.tasks.wait_until_ended([done])
    worker.wait_for_output("raised unexpected")
    assert worker.stop() == 0

    lines = parsed(worker.output())
    assert any(line["message"] == "worker: Warm shutdown (MainProcess)" for line in lines)
    [failure] = [line for line in lines if "raised unexpected" in line["message"]]
    assert failure["level"] == "ERROR"
    assert (failure["task_id"], failure["task"]) == (failed, "single.add")
    assert (failure["worker"], failure["group"], failure["queue"]) == ("mails-3@here", "mails", "celery")
    assert failure["exception"].startswith("Traceback")
    assert {(line["task_id"], line["task"]) for line in lines if "received" in line["message"]} == {
        (failed, "single.add"),
        (done, "single.count"),
    }


def test_each_line_of_a_supervisor_and_its_workers_is_json(redis_url: str, tmp_path: Path) -> None:
    counts = urlsplit(redis_url)._replace(path="/1").geturl()
    with SupervisedFleet(tmp_path, redis_url, counts, environment=JSON) as fleet:
        supervisor = fleet.start()
        fleet.wait_for_workers(1)
        fleet.tasks.send(1, "a", 1, name="add")
        supervisor.wait_for_output("raised unexpected")
        assert supervisor.stop() == 0
        wait_for(lambda: "Supervisor stopped" in supervisor.output(), "it does not say so")

    lines = parsed(supervisor.output(), "r1")
    assert {line.get("worker") for line in lines} == {None, "default-1@here"}
    assert any(line["logger"] == "celery_autoscaler.supervisor.loop" for line in lines)


@pytest.mark.parametrize("command", [["launch", "-A", "single", "worker"], ["cli", "-A", "single", "run"]])
def test_another_format_is_refused_in_one_line(tmp_path: Path, command: list[str], redis_url: str) -> None:
    write_app(tmp_path)
    refused = subprocess.run(
        [sys.executable, "-m", f"celery_autoscaler.{command[0]}", *command[1:]],
        env={"LOG_FORMAT": "xml", "PYTHONPATH": str(tmp_path), "BROKER": redis_url},
        capture_output=True,
        text=True,
        check=False,
    )

    assert refused.returncode != 0
    [line] = (refused.stdout + refused.stderr).splitlines()
    assert line.removeprefix("Error: ") == "LOG_FORMAT='xml' is wrong: allowed is plain or json"
