"""Ansible filter: what of a list belongs on a host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: on_host
short_description: What of a list belongs on a host
description:
  - Returns the dictionaries whose key C(hosts) names the host or one of its groups.
options:
  _input:
    description: The dictionaries.
    type: list
    elements: dict
    required: true
  host:
    description: The name of the host.
    type: str
    required: true
  groups:
    description: The names of its groups.
    type: list
    elements: str
    required: true
  usual:
    description: What C(hosts) is where it is missing or empty. Without this, every host.
    type: list
    elements: str
"""

EXAMPLES = r"""
- name: Show the services of this host
  ansible.builtin.debug:
    msg: "{{ celery_app_services | celery_fleet.platform.on_host(inventory_hostname, group_names) }}"
"""

RETURN = r"""
_value:
  description: The dictionaries, in their order.
  type: list
  elements: dict
"""


def on_host(
    records: Iterable[Mapping[str, Any]], host: str, groups: Iterable[str], usual: Iterable[str] | None = None
) -> list[Mapping[str, Any]]:
    """Return what belongs on a host."""
    names = {host, *groups}
    everywhere = [host] if usual is None else list(usual)
    return [record for record in records if names & set(record.get("hosts") or everywhere)]


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., list[Mapping[str, Any]]]]:
        """Return the filter by its name."""
        return {"on_host": on_host}
