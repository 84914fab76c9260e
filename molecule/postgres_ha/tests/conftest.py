"""Hooks and fixtures of this scenario's tests."""

from collections.abc import Callable
from typing import Any

import pytest
from support.hosts.unit_journal import pytest_runtest_makereport

__all__ = ["pytest_runtest_makereport"]


@pytest.fixture
def say(pytestconfig: pytest.Config, capfd: pytest.CaptureFixture[str]) -> Callable[[str], None]:
    """Return a function that shows what was measured, in a line between the tests."""
    reporter: Any = pytestconfig.pluginmanager.get_plugin("terminalreporter")

    def write(line: str) -> None:
        with capfd.disabled():
            reporter.write_line(f"\n{line}")

    return write
