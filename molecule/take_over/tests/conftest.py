"""Hooks of this scenario's tests."""

import os

from unit_journal import pytest_runtest_makereport

__all__ = ["pytest_runtest_makereport"]

# An hour long: `make break-steps` plays them.
collect_ignore = [] if os.environ.get("BREAK_STEPS") else ["test_broken_steps.py"]
