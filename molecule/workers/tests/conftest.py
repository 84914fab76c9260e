"""Hooks and fixtures of this scenario's tests."""

from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import pytest
from support.hosts.deployed_app import use_settings_of
from support.hosts.fleet_workers import Worker, forget_everything
from support.hosts.scenario import Scenario
from support.hosts.unit_journal import pytest_runtest_makereport

__all__ = ["pytest_runtest_makereport"]


@pytest.fixture(scope="session", autouse=True)
def deployment() -> None:
    """Send to the scenario's app."""
    use_settings_of(Scenario("workers"))


@pytest.fixture
def worker1(host: Any) -> Iterator[Worker]:
    """Return the worker of the host under test; it runs before and after the test."""
    worker = Worker("worker1", host)
    worker.start()
    yield worker
    worker.start()


@pytest.fixture
def worker2() -> Iterator[Worker]:
    """Return the worker of the other host; it runs before and after the test."""
    worker = Worker("worker2", Scenario("workers").hosts("workers")["worker2"])
    worker.start()
    yield worker
    worker.start()


@pytest.fixture
def trace() -> str:
    """Return the name under which a test's executions are traced; its tasks' ids begin with it."""
    forget_everything()  # of a test that failed
    return f"test-{uuid4()}"
