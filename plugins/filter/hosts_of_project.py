"""Ansible filter: the hosts that belong to a project."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from typing import Any

from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_project import DEFAULT

DOCUMENTATION = r"""
name: hosts_of_project
short_description: The hosts that belong to a project
description:
  - A host belongs to the project that its variable C(celery_app_project) names, by default C(celery).
options:
  _input:
    description: Names of hosts.
    type: list
    elements: str
    required: true
  hostvars:
    description: The variables of all hosts.
    type: dict
    required: true
  project:
    description: The name of the project.
    type: str
    required: true
  most:
    description: How many hosts to return at most, which saves looking at the others.
    type: int
"""

EXAMPLES = r"""
- name: Show the worker hosts of the project shop
  ansible.builtin.debug:
    msg: "{{ groups['workers'] | celery_fleet.platform.hosts_of_project(hostvars, 'shop') }}"
"""

RETURN = r"""
_value:
  description: The names of the hosts, in their order.
  type: list
  elements: str
"""


def hosts_of_project(
    names: Iterable[str], hostvars: Mapping[str, Mapping[str, Any]], project: str, most: int | None = None
) -> list[str]:
    """Return the hosts of a project."""
    found = (name for name in names if hostvars[name].get("celery_app_project", DEFAULT) == project)
    return list(islice(found, most))


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., list[str]]]:
        """Return the filter by its name."""
        return {"hosts_of_project": hosts_of_project}
