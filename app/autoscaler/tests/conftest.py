"""Real workers on a real Redis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import celery
import pytest
from support.processes.counted_tasks import SHORT_LEASE, Fleet, NewFleet
from support.processes.launched_workers import LaunchedWorker, LaunchedWorkerFactory


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what tests a part of Celery that the installed version does not have."""
    lacking = [
        item for item in items if any(mark.args > celery.VERSION for mark in item.iter_markers("celery"))
    ]
    config.hook.pytest_deselected(items=lacking)
    items[:] = [item for item in items if item not in lacking]


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


@pytest.fixture
def new_fleet(redis_url: str, tmp_path: Path) -> Iterator[NewFleet]:
    """Return a function that makes a fleet; a failed test shows what its workers printed."""
    counts_url = urlsplit(redis_url)._replace(path="/1").geturl()
    with ExitStack() as stack:

        def make(
            settings: Mapping[str, Any] | None = None,
            *,
            broker_url: str | None = None,
            server_url: str | None = None,
        ) -> Fleet:
            made = Fleet(
                tmp_path,
                broker_url or redis_url,
                counts_url,
                settings,
                server_url=server_url,
                lease=SHORT_LEASE,
            )
            stack.enter_context(made)
            stack.callback(lambda: print(made.tails()))  # noqa: T201  pytest shows it with a failure only
            return made

        yield make


@pytest.fixture
def fleet(new_fleet: NewFleet) -> Fleet:
    """Return a fleet on the session's Redis, whose tasks survive their worker."""
    return new_fleet()
