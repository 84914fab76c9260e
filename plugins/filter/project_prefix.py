"""Ansible filter: what the names of a project begin with on its hosts."""

from __future__ import annotations

from collections.abc import Callable

from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_project import prefix_of

DOCUMENTATION = r"""
name: project_prefix
short_description: What the names of a project begin with on its hosts
description:
  - Units, the user, folders and commands of a project begin with it.
options:
  _input:
    description: The name of the project.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show the folder of the releases of the project shop, /opt/celery-shop
  ansible.builtin.debug:
    msg: "/opt/{{ 'shop' | celery_fleet.platform.project_prefix }}"
"""

RETURN = r"""
_value:
  description: The prefix, C(celery) for the project C(celery), and C(celery-NAME) for others.
  type: str
"""


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., str]]:
        """Return the filter by its name."""
        return {"project_prefix": prefix_of}
