"""Hooks and fixtures of this scenario's tests."""

from uuid import uuid4

import pytest
from support.hosts.deployed_app import redis, use_settings_of
from support.hosts.fleet_workers import forget_everything
from support.hosts.scenario import Scenario
from support.hosts.supervised_fleet import SupervisedHost, one_worker
from support.hosts.unit_journal import pytest_runtest_makereport
from support.processes.services import wait_for

__all__ = ["pytest_runtest_makereport"]


@pytest.fixture(scope="session", autouse=True)
def deployment() -> None:
    """Send to the scenario's app."""
    use_settings_of(Scenario("scaling"))


@pytest.fixture(scope="session")
def hosts() -> dict[str, SupervisedHost]:
    """Return the worker hosts, by name."""
    found = Scenario("scaling").hosts("workers")
    return {name: SupervisedHost(name, host) for name, host in found.items()}


@pytest.fixture
def trace(hosts: dict[str, SupervisedHost]) -> str:
    """Return the name under which a test's executions are traced; its tasks' ids begin with it."""
    forget_everything()  # of a test that failed
    wait_for(lambda: redis().zcard("fleet:supervisors") == len(hosts), "a supervisor is missing")
    return f"test-{uuid4()}"


@pytest.fixture
def idle(hosts: dict[str, SupervisedHost], trace: str) -> None:
    """Begin with nothing to do, and with the one worker that always runs."""
    del trace
    with one_worker(*hosts.values()):
        pass
