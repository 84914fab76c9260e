"""Hooks of this scenario's tests."""

import os

import pytest
from support.hosts.unit_journal import pytest_runtest_makereport

__all__ = ["pytest_collection_modifyitems", "pytest_runtest_makereport"]

# An hour long: `make break-steps` plays them as well.
BY_HAND = (
    "test_a_play_that_is_cut_off_leaves_services_that_restart",
    "test_what_a_play_that_is_cut_off_leaves_undone_the_next_one_does",
    "test_everything_comes_back_after_a_reboot",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what is played by hand only."""
    if os.environ.get("BREAK_STEPS") != "all":
        items[:] = [item for item in items if not item.name.startswith(BY_HAND)]
