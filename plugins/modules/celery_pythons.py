#!/usr/bin/python
"""Ansible module: remove the Pythons that no release uses any more."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_pythons import prune

DOCUMENTATION = r"""
---
module: celery_pythons
short_description: Remove the Pythons that no release uses any more
description:
  - Runs on the host, after releases were removed. celery_release brings a Python there; celery_current, which
    removes old releases, removes what only these have used.
options: {}
"""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    dropped = prune(check_mode=module.check_mode)
    module.exit_json(changed=bool(dropped), dropped=dropped)


if __name__ == "__main__":
    main()
