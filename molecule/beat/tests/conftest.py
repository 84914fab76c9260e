"""Hooks and fixtures of this scenario's tests."""

import pytest
from support.hosts.beat_schedule import scratch, shortened
from support.hosts.deployed_app import use_settings_of
from support.hosts.scenario import Scenario
from support.hosts.unit_journal import pytest_runtest_makereport

__all__ = ["pytest_runtest_makereport", "scratch", "shortened"]


@pytest.fixture(scope="session", autouse=True)
def deployment() -> None:
    """Read and change the schedule of the scenario's app."""
    use_settings_of(Scenario("beat"))
