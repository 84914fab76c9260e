"""Ansible filter: what is wrong with the servers of a PostgreSQL cluster as they are found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible_collections.celery_fleet.platform.plugins.module_utils.postgres_cluster import RULES

DOCUMENTATION = r"""
name: postgres_errors
short_description: What is wrong with the servers of a PostgreSQL cluster as they are found
description:
  - Returns one line for each fault; an empty list if there is none.
options:
  _input:
    description: What was found. Which keys it needs depends on the question.
    type: dict
    required: true
  question:
    description: What is asked.
    type: str
    choices: [backup, health, host, promotion, restore, restore_state, state]
    required: true
"""

EXAMPLES = r"""
- name: Refuse a wrong moment
  ansible.builtin.assert:
    that: "{'repository': 'backup1', 'to': 'latest'} | celery_fleet.platform.postgres_errors('restore') == []"
"""

RETURN = r"""
_value:
  description: The faults.
  type: list
  elements: str
"""


def postgres_errors(found: Mapping[str, Any], question: str) -> list[str]:
    """Return the faults that a question is about."""
    return RULES[question](found)


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[[Mapping[str, Any], str], list[str]]]:
        """Return the filter by its name."""
        return {"postgres_errors": postgres_errors}
