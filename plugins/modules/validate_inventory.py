"""Documentation of the action that says what the roles cannot do with an inventory."""

from __future__ import annotations

DOCUMENTATION = r"""
module: validate_inventory
short_description: Say what the roles cannot do with an inventory, before any host is touched
description:
  - Looks at the variables of all hosts, whatever C(--limit) says, and connects to none.
  - Prints a line for each finding, and fails if there is one. With C(--limit) a finding that concerns other
    hosts only is a warning.
  - A value that needs facts, or that is encrypted with a key that is not here, is left to the host's own
    preflight.
  - With C(role) it looks at the variables of the host of the task with the eyes of one role.
options:
  role:
    description: The role; without it, all roles and all hosts.
    type: str
  found:
    description: What the role has found itself, such as in the facts of the host.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Validate the variables of all hosts
  celery_fleet.platform.validate_inventory:
  run_once: true
"""

RETURN = r"""
msg:
  description: What is wrong, in one line.
  type: str
  returned: always
"""
