#!/usr/bin/python
"""Ansible module: make a new Redis server a replica, and leave alone what a failover decided."""

from __future__ import annotations

import socket
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.celery_fleet.platform.plugins.module_utils.redis_server import (
    RedisError,
    answer,
    connect,
    login_arguments,
    sentinel_arguments,
    sentinels,
    wait_until_ready,
)

DOCUMENTATION = """
module: redis_replication
short_description: Make a new Redis server a replica
description:
  - A server that has neither data nor replicas becomes a replica of the primary, which is the one that a
    sentinel names, if one answers, else C(primary). The module ends when it has that one's data.
  - A primary that has data or replicas stays what it is, whatever the inventory says, and so does a replica
    that sentinels look after.
options:
  primary:
    description: Name or address of the first primary.
    type: str
    required: true
  port:
    description: Its port.
    type: int
    default: 6379
  sentinels:
    description: Names or addresses of the sentinels.
    type: list
    elements: str
    default: []
extends_documentation_fragment:
  - celery_fleet.platform.redis_login
  - celery_fleet.platform.redis_login.sentinels
"""

EXAMPLES = """
- name: Join the replication
  redis_replication:
    socket: /run/redis/redis-server.sock
    username: operator
    passwords: ["{{ operator_password }}"]
    primary: 192.0.2.11
    sentinels: [192.0.2.11, 192.0.2.12, 192.0.2.13]
    sentinel_master: celery
"""

RETURN = """
primary: {description: "Address of the primary, host:port.", type: str, returned: always}
"""

FOLLOWS_WITHIN_SECONDS = 600


def shown(host: str, port: int | str) -> str:
    """The address in one word."""
    return f"{host}:{port}"


def is_local(host: str) -> bool:
    """Whether the name or address is this host's own."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
    except OSError as error:
        raise RedisError(f"the primary's name {host} cannot be resolved here: {error}") from error
    for family, kind, _protocol, _name, address in found:
        with socket.socket(family, kind) as probe:
            try:
                probe.bind((address[0], 0))
            except OSError:
                continue
            return True
    return False


def elected(params: dict[str, Any]) -> tuple[str, int] | None:
    """The primary that the first sentinel to answer names."""
    for sentinel in sentinels(params):
        (named,) = sentinel.ask(("SENTINEL", "GET-MASTER-ADDR-BY-NAME", params["sentinel_master"]))
        if named and not isinstance(named, RedisError):
            return named[0], int(named[1])
    return None


def run(module: AnsibleModule) -> dict[str, Any]:
    """Ask, decide, tell the server."""
    params = module.params
    server = connect(params["socket"], params["username"], params["passwords"])
    info = server.info()
    by_sentinel = elected(params)
    host, port = by_sentinel or (params["primary"], params["port"])
    if info["role"] == "slave":
        follows = shown(info["master_host"], info["master_port"])
        if params["sentinels"] or follows == shown(host, port):
            return {"changed": False, "primary": follows}
    elif is_local(host):
        return {"changed": False, "primary": shown(host, port)}
    elif info["connected_slaves"] != "0" or any(name.startswith("db") for name in info):
        module.warn(
            f"this server runs as a primary and has data or replicas: it does not become a replica of {host}"
        )
        return {"changed": False, "primary": shown(host, port)}

    if not module.check_mode:
        server.do(("REPLICAOF", host, str(port)), ("CONFIG", "REWRITE"))
        wait_until_ready(params["socket"], params["username"], params["passwords"], FOLLOWS_WITHIN_SECONDS)
    return {
        "changed": True,
        "primary": shown(host, port),
        "diff": {
            "before_header": "Redis, running",
            "after_header": "Redis, wanted",
            "before": f"{info['role']} {info.get('master_host', '')}".strip() + "\n",
            "after": f"replica of {shown(host, port)}\n",
        },
    }


def main() -> None:
    """Run as a module."""
    module = AnsibleModule(
        argument_spec={
            **login_arguments(),
            "primary": {"type": "str", "required": True},
            "port": {"type": "int", "default": 6379},
            "sentinels": {"type": "list", "elements": "str", "default": []},
            **sentinel_arguments(),
        },
        supports_check_mode=True,
    )
    answer(module, run)


if __name__ == "__main__":
    main()
