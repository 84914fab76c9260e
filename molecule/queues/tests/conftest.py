"""Hooks and fixtures of this scenario's tests."""

from uuid import uuid4

import pytest
from support.hosts.deployed_app import forget_messages, use_settings_of
from support.hosts.scenario import Scenario
from support.hosts.unit_journal import pytest_runtest_makereport
from support.hosts.worker_units import no_worker, one_worker, workers

__all__ = ["no_worker", "one_worker", "pytest_runtest_makereport", "workers"]


@pytest.fixture(scope="session", autouse=True)
def deployment() -> None:
    """Send to the scenario's app."""
    use_settings_of(Scenario("queues"))


@pytest.fixture
def trace() -> str:
    """Return the name under which a test's executions are traced; its tasks' ids begin with it."""
    forget_messages()  # of a test that failed
    return f"test-{uuid4()}"
