"""Real workers on a real Redis."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from launched_workers import LaunchedWorker, LaunchedWorkerFactory


@pytest.fixture
def launched_worker(redis_url: str, tmp_path: Path) -> Iterator[LaunchedWorkerFactory]:
    """Return a factory of workers; it waits for each that is not asked to notify."""
    with ExitStack() as stack:

        def launch(*arguments: str, notify_socket: Path | None = None) -> LaunchedWorker:
            worker = LaunchedWorker(tmp_path, redis_url, *arguments, notify_socket=notify_socket)
            stack.callback(worker.kill)
            if notify_socket is None:
                worker.wait_until_ready()
            return worker

        yield launch
