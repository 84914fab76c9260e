"""Ansible filter: a pattern of hosts that names nothing which an inventory does not have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

DOCUMENTATION = r"""
name: hosts_pattern
short_description: A pattern of hosts that names nothing which an inventory does not have
description:
  - Ansible warns of each name in the pattern of a play that is neither a group nor a host, on every run.
  - An inventory without PostgreSQL has no group for it, and a group that a run makes is missing where nothing
    belongs to it.
options:
  _input:
    description: Names of groups or hosts.
    type: list
    elements: str
    required: true
  groups:
    description: The groups of the inventory.
    type: dict
    required: true
  among:
    description: A group to which the hosts must belong as well.
    type: str
"""

EXAMPLES = r"""
- name: Deploy the app, wherever it belongs
  hosts: "{{ ['workers', 'beat'] | celery_fleet.platform.hosts_pattern(groups, 'fleet_answering') }}"
"""

RETURN = r"""
_value:
  description: The pattern; one of no hosts where nothing belongs to it.
  type: str
"""

NO_HOSTS = "!all"


def hosts_pattern(names: Iterable[str], groups: Mapping[str, Sequence[str]], among: str | None = None) -> str:
    """Return a pattern of those that an inventory has."""
    known = [name for name in names if name in groups or name in groups["all"]]
    if not known or (among is not None and among not in groups):
        return NO_HOSTS
    return ",".join(known if among is None else [*known, f"&{among}"])


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., str]]:
        """Return the filter by its name."""
        return {"hosts_pattern": hosts_pattern}
