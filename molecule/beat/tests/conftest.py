"""Hooks and fixtures of this scenario's tests."""

import pytest
from beat_schedule import scratch, shortened
from deployed_app import use_settings_of
from scenario import Scenario
from unit_journal import pytest_runtest_makereport

__all__ = ["pytest_runtest_makereport", "scratch", "shortened"]


@pytest.fixture(scope="session", autouse=True)
def deployment() -> None:
    """Read and change the schedule of the scenario's app."""
    use_settings_of(Scenario("beat"))
