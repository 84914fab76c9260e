"""Hooks and fixtures of this scenario's tests."""

import pytest
from support.hosts.deployed_app import use_settings_of
from support.hosts.scenario import Scenario
from support.hosts.unit_journal import pytest_runtest_makereport

__all__ = ["pytest_runtest_makereport"]


@pytest.fixture(scope="session", autouse=True)
def deployment() -> None:
    """Send to the scenario's app."""
    use_settings_of(Scenario("upgrade_toolkit"))
