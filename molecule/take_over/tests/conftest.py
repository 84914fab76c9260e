"""Hooks of this scenario's tests."""

from unit_journal import pytest_runtest_makereport

__all__ = ["pytest_runtest_makereport"]
