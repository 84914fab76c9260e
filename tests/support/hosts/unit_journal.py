"""Print the journal of the units under test when a test on a host fails.

A scenario's conftest.py imports the hook:

    from support.hosts.unit_journal import pytest_runtest_makereport

A test module names its units: `units = ["redis-server"]`.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add the last lines of the journal to the report of a failed test."""
    report = yield
    host = getattr(item, "funcargs", {}).get("host")
    units: list[str] = getattr(getattr(item, "module", None), "units", [])
    if report.when == "call" and report.failed and host is not None:
        for unit in units:
            journal = host.run("journalctl --no-pager --lines=40 --output=short-iso --unit=%s", unit)
            report.sections.append((f"journal of {unit}", journal.stdout))
    return report
