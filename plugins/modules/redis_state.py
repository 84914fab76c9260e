#!/usr/bin/python
"""Ansible module: say what a Redis server is and does."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.celery_fleet.platform.plugins.module_utils.redis_server import (
    answer,
    connect,
    lacking,
    login_arguments,
)

DOCUMENTATION = """
module: redis_state
short_description: Say what a Redis server is and does
description:
  - Changes nothing.
extends_documentation_fragment: [celery_fleet.platform.redis_login]
"""

RETURN = """
role: {description: Whether the server is a C(primary) or a C(replica)., type: str, returned: always}
replicas: {description: How many replicas a primary has., type: int, returned: always}
memory: {description: Bytes in use., type: int, returned: always}
maxmemory: {description: Bytes that may be in use; 0 means no limit., type: int, returned: always}
lacking: {description: What the server lacks to be ready; nothing if it is., type: str, returned: always}
"""


def run(module: AnsibleModule) -> dict[str, Any]:
    """Return what the server says."""
    params = module.params
    info = connect(params["socket"], params["username"], params["passwords"]).info()
    return {
        "changed": False,
        "role": {"master": "primary", "slave": "replica"}[info["role"]],
        "replicas": int(info["connected_slaves"]),
        "memory": int(info["used_memory"]),
        "maxmemory": int(info["maxmemory"]),
        "lacking": lacking(info),
    }


def main() -> None:
    """Run as a module."""
    module = AnsibleModule(
        argument_spec={
            **login_arguments(),
        },
        supports_check_mode=True,
    )
    answer(module, run)


if __name__ == "__main__":
    main()
