"""Who sends a command: the person, not the user that the command runs as."""

from __future__ import annotations

import getpass

import pytest
from celery_autoscaler.operations.operator import LONGEST_NAME, operator


@pytest.mark.parametrize(
    ("environment", "name"),
    [
        ({"FLEET_OPERATOR": "anna", "SUDO_USER": "ansible"}, "anna"),
        ({"SUDO_USER": "anna"}, "anna"),
        ({"FLEET_OPERATOR": " ", "SUDO_USER": ""}, getpass.getuser()),
        ({"FLEET_OPERATOR": "an\x1bna"}, "an\\x1bna"),
        ({"FLEET_OPERATOR": "a" * 500}, "a" * (LONGEST_NAME - 1) + "…"),
    ],
)
def test_the_name_is_that_of_the_person(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], name: str
) -> None:
    for variable in ("FLEET_OPERATOR", "SUDO_USER"):
        monkeypatch.delenv(variable, raising=False)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)

    assert operator() == name
