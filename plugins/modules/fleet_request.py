"""Documentation of the action that refuses what was typed wrong."""

from __future__ import annotations

DOCUMENTATION = r"""
module: fleet_request
short_description: Refuse what was typed wrong, before any host is asked anything
description:
  - Looks at the extra variables of a playbook (C(-e)) and at its C(--limit) and names all that is wrong with
    them.
  - Opens no connection, so that it works on a host that is dead.
options:
  variables:
    description: What the playbook reads, by name. Of each what it is (C(kind)), whether it must be given
      (C(required)) and in which words it is asked for (C(ask)), the names that it may be (C(among)), a
      regular expression for it (C(pattern)) with what that allows in words (C(allowed)), and the name that it
      had in earlier versions (C(formerly)).
    type: dict
    default: {}
  any_of:
    description: Variables of which at least one must be given.
    type: list
    elements: str
    default: []
  hosts:
    description: Hosts of which C(--limit) must leave at least one, by what they are.
    type: dict
    default: {}
  within:
    description: Hosts none of which C(--limit) may leave out.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Check what was typed
  celery_fleet.platform.fleet_request:
    variables:
      host: {kind: worker host, required: true, among: [worker1, worker2]}
"""

RETURN = r"""
msg:
  description: What is wrong, in one line.
  type: str
  returned: always
"""
