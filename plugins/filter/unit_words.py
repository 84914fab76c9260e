"""Ansible filter: a command as a unit of systemd has it."""

from __future__ import annotations

from collections.abc import Callable, Iterable

DOCUMENTATION = r"""
name: unit_words
short_description: A command as a unit of systemd has it
description:
  - Returns the words of a command in quotes, so that systemd passes each on as it is.
options:
  _input:
    description: The program and its arguments.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Show a line of a unit
  ansible.builtin.debug:
    msg: "ExecStart=/usr/bin/env {{ ['printf', '100 %'] | celery_fleet.platform.unit_words }}"
"""

RETURN = r"""
_value:
  description: The words, separated by blanks.
  type: str
"""

# In quotes a backslash escapes; a unit has specifiers (%n) and variables ($HOME), too (systemd.service(5)).
ESCAPES = str.maketrans(
    {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t", "%": "%%", "$": "$$"}
)


def unit_words(words: Iterable[object]) -> str:
    """Return a command as a unit has it."""
    return " ".join(f'"{str(word).translate(ESCAPES)}"' for word in words)


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[[Iterable[object]], str]]:
        """Return the filter by its name."""
        return {"unit_words": unit_words}
