"""Hooks of this scenario's tests."""

from support.hosts.unit_journal import pytest_runtest_makereport

__all__ = ["pytest_runtest_makereport"]
