"""Hooks and fixtures of this scenario's tests."""

from pathlib import Path
from uuid import uuid4

import pytest
from support.hosts.deployed_app import redis, use_settings_of
from support.hosts.fleet_workers import forget_everything
from support.hosts.releases import Rollouts, Source
from support.hosts.scenario import Scenario
from support.hosts.supervised_fleet import SupervisedHost
from support.hosts.unit_journal import pytest_runtest_makereport
from support.processes.services import wait_for

__all__ = ["pytest_runtest_makereport"]

SCENARIO = Scenario("deploy")


@pytest.fixture(scope="session", autouse=True)
def deployment() -> None:
    """Send to the scenario's app."""
    use_settings_of(SCENARIO)


@pytest.fixture(scope="session")
def hosts() -> dict[str, SupervisedHost]:
    """Return the worker hosts, by name."""
    return {name: SupervisedHost(name, host) for name, host in SCENARIO.hosts("workers").items()}


@pytest.fixture(scope="session")
def rollouts() -> Rollouts:
    """Return what deploys and goes back."""
    return Rollouts(SCENARIO)


@pytest.fixture
def source(tmp_path: Path) -> Source:
    """Return a copy of the example project that can be changed."""
    return Source.copy(tmp_path / "tasks")


@pytest.fixture
def trace(hosts: dict[str, SupervisedHost]) -> str:
    """Return the name under which a test's executions are traced; its tasks' ids begin with it."""
    forget_everything()  # of a test that failed
    wait_for(lambda: redis().zcard("fleet:supervisors") == len(hosts), "a supervisor is missing")
    return f"test-{uuid4()}"
