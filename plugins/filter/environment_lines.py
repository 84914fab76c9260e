"""Ansible filter: variables as a shell and systemd read them alike."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

DOCUMENTATION = r"""
name: environment_lines
short_description: Variables as a shell and systemd read them alike
description:
  - Returns a line C(NAME="value") for each variable, in the order of their names, as a shell and
    C(EnvironmentFile=) of systemd read it.
options:
  _input:
    description: The variables.
    type: dict
    required: true
"""

EXAMPLES = r"""
- name: Show a file of variables
  ansible.builtin.debug:
    msg: "{{ {'DB_PASSWORD': 'a$b'} | celery_fleet.platform.environment_lines }}"
"""

RETURN = r"""
_value:
  description: The lines, each with its line feed.
  type: str
"""


def environment_lines(variables: Mapping[str, Any]) -> str:
    """Return the lines of a file of variables."""
    quoted = {name: re.sub(r'([\\"$`])', r"\\\1", str(value)) for name, value in variables.items()}
    return "".join(f'{name}="{quoted[name]}"\n' for name in sorted(quoted, key=str.lower))


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[[Mapping[str, Any]], str]]:
        """Return the filter by its name."""
        return {"environment_lines": environment_lines}
