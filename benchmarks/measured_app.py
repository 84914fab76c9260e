"""The app, its folder and the tables of the measurements of the supervisor."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from support.processes.launched_workers import APP

# The task that bursts are made of: it also notes which process runs it.
WORK = """

@app.task(bind=True)
def work(task, seconds):
    counts.hset("pids", task.request.id, os.getpid())
    begin(task)
    time.sleep(seconds)
    end(task)
"""


# Cost: queues; lists of each; workers; groups that share them. The first is measured for longer.
STEPS = list(range(10))


console = Console()


def counts(url: str) -> str:
    """Return where tasks are counted: beside the broker, so that both are emptied at once."""
    return url.removesuffix("/0") + "/1"


def status(redis: Any) -> dict[str, Any]:
    """Return what the supervisor has published last."""
    found: dict[str, Any] = json.loads(redis.hget("fleet:supervisor:here", "status") or "{}")
    return found


@contextmanager
def app_folder() -> Iterator[Path]:
    """Make a folder with the single-file app and the task that bursts are made of."""
    with tempfile.TemporaryDirectory() as name:
        (Path(name) / "single.py").write_text(APP + WORK)
        yield Path(name)


def hash_of(redis: Any, key: str) -> dict[str, str]:
    """Return a hash."""
    found: dict[str, str] = redis.hgetall(key)
    return found


def new_table(title: str, *columns: str) -> Table:
    """Return a table whose first column is text and whose others are figures."""
    table = Table(title=title, title_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left")
    return table
