#!/usr/bin/python
"""Ansible module: have the sentinels replace a working primary by one of its replicas, and lose no write."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.celery_fleet.platform.plugins.module_utils.redis_server import (
    RedisError,
    Server,
    answer,
    connect,
    login_arguments,
    sentinel_arguments,
    sentinels,
)

DOCUMENTATION = """
module: redis_switchover
short_description: Have the sentinels replace a working primary by one of its replicas, and lose no write
description:
  - Sentinel alone leaves the old primary a primary for some seconds, and whatever it takes meanwhile is
    lost. So writes are held back first, until the replicas have all that was written. When the sentinels name
    the new primary the old one becomes its replica, and only then are the clients sent away; what they wanted
    to write they send again, to the new one.
  - Does nothing on a replica. If no other primary is elected the old one goes on.
options:
  sentinels:
    description: Names or addresses of the sentinels.
    type: list
    elements: str
    required: true
  timeout:
    description: Seconds to wait for the new primary, during which nothing can be written.
    type: int
    default: 30
extends_documentation_fragment:
  - celery_fleet.platform.redis_login
  - celery_fleet.platform.redis_login.sentinels
"""

EXAMPLES = """
- name: Hand the primary's role over
  redis_switchover:
    socket: /run/redis/redis-server.sock
    username: operator
    passwords: ["{{ operator_password }}"]
    sentinels: [192.0.2.11, 192.0.2.12, 192.0.2.13]
    sentinel_master: celery
"""

RETURN = """
primary: {description: Address of the new primary., type: str, returned: when there is one}
seconds: {description: For how long nothing could be written., type: float, returned: when there is a new one}
"""

Found = TypeVar("Found")
AGAIN_AFTER_SECONDS = 0.05


def until(find: Callable[[], Found | None], deadline: float, failure: str) -> Found:
    """What is found before the deadline."""
    while True:
        found = find()
        if found is not None:
            return found
        if time.monotonic() > deadline:
            raise RedisError(failure)
        time.sleep(AGAIN_AFTER_SECONDS)


def behind(info: dict[str, str]) -> int:
    """How many bytes a replica lacks at most, from INFO of its primary."""
    offsets = [
        int(dict(field.split("=", 1) for field in value.split(","))["offset"])
        for name, value in info.items()
        if name.startswith("slave") and "state=online" in value
    ]
    if not offsets:
        raise RedisError("no replica follows this primary")
    return int(info["master_repl_offset"]) - min(offsets)


def agreed(answers: list[tuple[str, ...]], old: tuple[str, ...]) -> tuple[str, ...] | None:
    """The new primary, if all sentinels name the same one."""
    return answers[0] if set(answers) == {answers[0]} and answers[0] != old else None


def hand_over(server: Server, watchers: list[Server], master: str, timeout: int) -> str:
    """Have a replica elected that has everything, and follow it; its address."""

    def named() -> list[tuple[str, ...]]:
        # What clients go by. GET-MASTER-ADDR-BY-NAME names the new one before they do.
        seen = [watcher.do(("SENTINEL", "MASTER", master))[0] for watcher in watchers]
        return [(found["ip"], found["port"]) for found in seen]

    old = named()[0]
    ping = "repl-ping-replica-period"
    ((period,),) = [tuple(found.values()) for found in server.do(("CONFIG", "GET", ping))]
    deadline = time.monotonic() + timeout
    kill: tuple[tuple[str, ...], ...] = ()
    try:
        # A ping that one replica has and another has not would cost them a copy of all data.
        server.do(("CLIENT", "PAUSE", str(timeout * 1000), "WRITE"), ("CONFIG", "SET", ping, "3600"))
        until(
            lambda: True if behind(server.info("replication")) <= 0 else None,
            deadline,
            "the replicas have not caught up",
        )
        watchers[0].do(("SENTINEL", "FAILOVER", master))
        host, port = until(
            lambda: agreed(named(), old),
            deadline,
            f"the sentinels still name {old[0]}, or do not agree, after {timeout} s; see their journals",
        )
        server.do(("REPLICAOF", host, port))
        kill = (("CLIENT", "KILL", "TYPE", "normal"), ("CLIENT", "KILL", "TYPE", "pubsub"))
    finally:
        server.do(("CONFIG", "SET", ping, period), *kill, ("CLIENT", "UNPAUSE"))
    server.do(("CONFIG", "REWRITE"))
    return f"{host}:{port}"


def run(module: AnsibleModule) -> dict[str, Any]:
    """Ask, hand over, report."""
    params = module.params
    server = connect(params["socket"], params["username"], params["passwords"])
    if server.info("replication")["role"] == "slave":
        return {"changed": False}
    if module.check_mode:
        return {"changed": True}
    watchers = list(sentinels(params))
    if not watchers:
        raise RedisError("no sentinel answers")
    begin = time.monotonic()
    primary = hand_over(server, watchers, params["sentinel_master"], params["timeout"])
    return {"changed": True, "primary": primary, "seconds": round(time.monotonic() - begin, 1)}


def main() -> None:
    """Run as a module."""
    module = AnsibleModule(
        argument_spec={
            **login_arguments(),
            "sentinels": {"type": "list", "elements": "str", "required": True},
            **sentinel_arguments(),
            "timeout": {"type": "int", "default": 30},
        },
        supports_check_mode=True,
    )
    answer(module, run)


if __name__ == "__main__":
    main()
