"""Supervised fleets on a real Redis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from support.processes.supervisors import NewSupervisedFleet, SupervisedFleet


@pytest.fixture
def new_fleet(redis_url: str, tmp_path: Path) -> Iterator[NewSupervisedFleet]:
    """Return a function that makes a fleet; a failed test shows what its supervisors printed."""
    counts_url = urlsplit(redis_url)._replace(path="/1").geturl()
    with ExitStack() as stack:

        def make(
            app_settings: Mapping[str, Any] | None = None,
            *,
            broker_url: str | None = None,
            environment: Mapping[str, str] | None = None,
        ) -> SupervisedFleet:
            fleet = SupervisedFleet(tmp_path, broker_url or redis_url, counts_url, app_settings, environment)
            stack.enter_context(fleet)
            stack.callback(lambda: print(fleet.tails()))  # noqa: T201  pytest shows it with a failure only
            return fleet

        yield make


@pytest.fixture
def fleet(new_fleet: NewSupervisedFleet) -> SupervisedFleet:
    """Return a fleet on the session's Redis."""
    return new_fleet()
