#!/usr/bin/python
"""Ansible module: wait until a Redis server is ready, after a restart if wanted."""

from __future__ import annotations

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.celery_fleet.platform.plugins.module_utils.redis_server import (
    RedisError,
    login_arguments,
    wait_until_ready,
)

DOCUMENTATION = """
module: redis_ready
short_description: Wait until a Redis server has its data and follows its primary
description:
  - A server is ready when it has loaded its data and, if it is a replica, has all of its primary's.
options:
  restart:
    description: Unit to restart first; none if empty.
    type: str
    default: ""
  timeout:
    description: Seconds to wait.
    type: int
    default: 600
extends_documentation_fragment: [celery_fleet.platform.redis_login]
"""

EXAMPLES = """
- name: Restart the replicas, one after the other
  redis_ready:
    socket: /run/redis/redis-server.sock
    username: operator
    passwords: ["{{ operator_password }}"]
    restart: redis-server.service
  throttle: 1
"""

RETURN = """
role: {description: Whether the server is a C(master) or a C(slave)., type: str, returned: always}
"""


def main() -> None:
    """Run as a module."""
    module = AnsibleModule(
        argument_spec={
            **login_arguments(),
            "restart": {"type": "str", "default": ""},
            "timeout": {"type": "int", "default": 600},
        },
        supports_check_mode=True,
    )
    params = module.params
    unit = params["restart"]
    if module.check_mode:
        module.exit_json(changed=bool(unit))
    if unit:
        module.run_command(["systemctl", "restart", unit], check_rc=True)
    try:
        role = wait_until_ready(params["socket"], params["username"], params["passwords"], params["timeout"])
    except RedisError as error:
        module.fail_json(msg=str(error))
    else:
        module.exit_json(changed=bool(unit), role=role)


if __name__ == "__main__":
    main()
