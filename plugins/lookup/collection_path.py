"""Ansible lookup: what the collection brings along, on the controller."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ansible.errors import AnsibleLookupError
from ansible.plugins.lookup import LookupBase

DOCUMENTATION = r"""
name: collection_path
short_description: What the collection brings along, on the controller
description:
  - Returns the path of a file or folder of the collection, whether it is installed or a checkout.
options:
  _terms:
    description: Paths below the folder of the collection.
    type: list
    elements: str
    required: true
"""

EXAMPLES = r"""
- name: Deploy the example project
  ansible.builtin.include_role:
    name: celery_fleet.platform.celery_app
  vars:
    celery_app_source: "{{ lookup('celery_fleet.platform.collection_path', 'app/tasks') }}"
"""

RETURN = r"""
_raw:
  description: The paths.
  type: list
  elements: path
"""

# The checkout reaches its plugins by a link.
ROOT = Path(__file__).resolve().parents[2]


class LookupModule(LookupBase):  # type: ignore[misc]
    """What Ansible loads."""

    def run(self, terms: list[str], variables: Any = None, **options: Any) -> list[str]:  # noqa: ARG002
        """Return the paths."""
        paths = [ROOT / term for term in terms]
        if absent := [str(path) for path in paths if not path.exists()]:
            raise AnsibleLookupError(f"the collection lacks {', '.join(absent)}; install it again")
        return [str(path) for path in paths]
