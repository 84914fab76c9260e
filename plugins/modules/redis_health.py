#!/usr/bin/python
"""Ansible module: wait until the server and the sentinel of a host find their set of servers complete."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.celery_fleet.platform.plugins.module_utils.redis_server import (
    RedisError,
    Server,
    answer,
    connect,
    lacking,
    login_arguments,
)

DOCUMENTATION = """
module: redis_health
short_description: Wait until the server and the sentinel of a host find their set of servers complete
description:
  - A server must have its data and run the installed program; a replica must follow its primary, and a
    primary must have all replicas. A sentinel must see the primary, all replicas and all other sentinels,
    and reach the quorum. Changes nothing, and fails with one line that says what is missing.
options:
  socket:
    description: Unix socket of the server. None if the host has no server.
    type: path
  sentinel_socket:
    description: Unix socket of the sentinel. None if the host has no sentinel.
    type: path
  replicas:
    description: How many replicas the primary has.
    type: int
    required: true
  sentinels:
    description: How many sentinels there are.
    type: int
    default: 0
  sentinel_master:
    description: Name under which they know the primary.
    type: str
    default: ""
  timeout:
    description: Seconds to wait. 0 looks once.
    type: int
    default: 0
extends_documentation_fragment: [celery_fleet.platform.redis_login]
"""

EXAMPLES = """
- name: Wait until the set is complete
  redis_health:
    socket: /run/redis/redis-server.sock
    username: operator
    passwords: ["{{ operator_password }}"]
    replicas: 2
    timeout: 600
"""

RETURN = """
role: {description: Whether the server is a C(master) or a C(slave)., type: str, returned: with a server}
"""

AGAIN_AFTER_SECONDS = 0.2


def server_lacks(info: dict[str, str], replicas: int) -> list[str]:
    """What is missing on a server, from INFO."""
    missing = [reason for reason in [lacking(info)] if reason]
    if info["role"] == "master":
        states = [value for name, value in info.items() if name.startswith("slave") and "state=" in value]
        online = sum("state=online" in state for state in states)
        if online < replicas:
            missing.append(f"{online} of {replicas} replicas follow it")
    return missing


def sentinel_lacks(
    master: dict[str, str],
    replicas_seen: list[dict[str, str]],
    sentinels_seen: list[dict[str, str]],
    replicas: int,
    sentinels: int,
) -> list[str]:
    """What is missing in the eyes of a sentinel."""
    missing = []
    if master["flags"] != "master":
        missing.append(f"its sentinel finds the primary {master['ip']} {master['flags']}")
    following = sum(seen["flags"] == "slave" and seen["master-link-status"] == "ok" for seen in replicas_seen)
    if following < replicas:
        missing.append(f"its sentinel sees {following} of {replicas} replicas follow")
    others = sum(seen["flags"] == "sentinel" for seen in sentinels_seen)
    if others < sentinels - 1:
        missing.append(f"its sentinel sees {others} of {sentinels - 1} other sentinels")
    return missing


def ask_sentinel(sentinel: Server, master: str, replicas: int, sentinels: int) -> list[str]:
    """Ask a sentinel what it sees, and whether it has the quorum."""
    seen, replicas_seen, sentinels_seen = sentinel.do(
        ("SENTINEL", "MASTER", master), ("SENTINEL", "REPLICAS", master), ("SENTINEL", "SENTINELS", master)
    )
    missing = sentinel_lacks(seen, replicas_seen, sentinels_seen, replicas, sentinels)
    (quorum,) = sentinel.ask(("SENTINEL", "CKQUORUM", master))
    return [*missing, str(quorum)] if isinstance(quorum, RedisError) else missing


def runs_a_former_program(info: dict[str, str]) -> bool:
    """Whether the program of the server was replaced since it started."""
    return str(Path(f"/proc/{info['process_id']}/exe").readlink()).endswith(" (deleted)")


def look(params: dict[str, Any]) -> tuple[str, list[str]]:
    """The role of the server, and what is missing."""
    role, missing = "", []
    if params["socket"]:
        info = connect(params["socket"], params["username"], params["passwords"]).info()
        role, missing = info["role"], server_lacks(info, params["replicas"])
        if runs_a_former_program(info):
            missing.append("it runs the program of before the upgrade")
    if params["sentinel_socket"]:
        sentinel = connect(params["sentinel_socket"], params["username"], params["passwords"])
        missing += ask_sentinel(sentinel, params["sentinel_master"], params["replicas"], params["sentinels"])
    return role, missing


def run(module: AnsibleModule) -> dict[str, Any]:
    """Look until nothing is missing."""
    params = module.params
    deadline = time.monotonic() + params["timeout"]
    while True:
        role, missing = "", list[str]()
        try:
            role, missing = look(params)
        except (RedisError, OSError, subprocess.TimeoutExpired) as error:
            missing = [str(error)]
        if not missing:
            return {"changed": False, "role": role}
        if time.monotonic() >= deadline:
            raise RedisError("; ".join(missing))
        time.sleep(AGAIN_AFTER_SECONDS)


def main() -> None:
    """Run as a module."""
    module = AnsibleModule(
        argument_spec={
            **login_arguments(socket_required=False),
            "sentinel_socket": {"type": "path"},
            "replicas": {"type": "int", "required": True},
            "sentinels": {"type": "int", "default": 0},
            "sentinel_master": {"type": "str", "default": ""},
            "timeout": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    answer(module, run)


if __name__ == "__main__":
    main()
