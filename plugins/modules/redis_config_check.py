#!/usr/bin/python
"""Ansible module: have a scratch server read the settings and the users before they are written."""

from __future__ import annotations

import errno
import pwd
import re
import shutil
import socket
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.celery_fleet.platform.plugins.module_utils.redis_scratch import scratch_server
from ansible_collections.celery_fleet.platform.plugins.module_utils.redis_server import (
    RedisError,
    answer,
    merged,
    program,
)

DOCUMENTATION = """
module: redis_config_check
short_description: Have a scratch server read the settings and the users before they are written
description:
  - Starts a server with the wanted files in a folder of its own, as its user, without a port and without the
    data, and ends it as soon as it answers. What it refuses is the one line of the failure.
  - The addresses and ports to listen on are tried as well. Changes nothing.
  - Does nothing where the files on the disk are the wanted ones already, or where no server is installed.
  - A sentinel is tried in the same way; it watches nobody meanwhile.
options:
  sentinel: {description: Whether the files are those of a sentinel., type: bool, default: false}
  keep:
    description: Name of a directive that the server decides, as of C(redis_config_file).
    type: str
    default: replicaof
  keep_if: {description: "As of C(redis_config_file).", type: str, default: ""}
  settings: {description: The wanted text of the settings., type: str, required: true}
  settings_file: {description: The file that holds them., type: path, required: true}
  users: {description: The wanted text of the access control list., type: str, required: true}
  users_file: {description: The file that holds it., type: path, required: true}
  user: {description: The system's user that the server runs as., type: str, required: true}
  bind: {description: Addresses to listen on., type: list, elements: str, default: []}
  calendar: {description: When copies are made; systemd has to understand it., type: str, default: ""}
"""


def is_written(path: Path, text: str, keep: str = "replicaof", keep_if: str = "") -> bool:
    """Return whether a file says what is wanted, in whatever words its server has rewritten it."""
    if not path.exists():
        return False
    found = path.read_text(encoding="utf-8")
    return merged(found, text, keep, keep_if) == found


def unusable(addresses: list[str]) -> list[str]:
    """Return the addresses that are none of this host's; those with a minus sign may be absent."""
    found = []
    for address in addresses:
        if address.startswith("-") or address in {"*", "::*"}:
            continue
        try:
            kind, *_, place = socket.getaddrinfo(address, 0, type=socket.SOCK_STREAM)[0]
            with socket.socket(kind, socket.SOCK_STREAM) as probe:
                probe.bind(place)
        except OSError:
            found.append(address)
    return found


def listeners(table: str) -> set[tuple[int, int]]:
    """Return the ports that are listened on, each with the id of the user who does.

    The table is that of the kernel, C(/proc/net/tcp): its fourth column is the state, the eighth the user.
    """
    rows = [line.split() for line in table.splitlines()[1:]]
    return {(int(row[1].rpartition(":")[2], 16), int(row[7])) for row in rows if row[3] == "0A"}


def taken(addresses: list[str], settings: str, uid: int) -> list[str]:
    """Return the addresses at which another user's process has a port that the settings name."""
    ports = {int(port) for port in re.findall(r"(?m)^(?:tls-)?port +(\d+)\s*$", settings)} - {0}
    tables = [path.read_text() for path in map(Path, ("/proc/net/tcp", "/proc/net/tcp6")) if path.exists()]
    foreign = {port for table in tables for port, user in listeners(table) if user != uid}
    return [
        f"{address.removeprefix('-')}:{port}"
        for port in sorted(ports & foreign)
        for address in addresses
        if in_use(address.removeprefix("-").replace("*", ""), port)
    ]


def in_use(address: str, port: int) -> bool:
    """Return whether a port is taken at an address; an empty one is all of IPv4."""
    try:
        kind, *_, place = socket.getaddrinfo(address or "0.0.0.0", port, type=socket.SOCK_STREAM)[0]  # noqa: S104
        with socket.socket(kind, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
    except OSError as error:
        return error.errno == errno.EADDRINUSE
    return False


def run(module: AnsibleModule) -> dict[str, Any]:
    """Try out what differs."""
    params = module.params
    if params["calendar"] and module.run_command(["systemd-analyze", "calendar", params["calendar"]])[0]:
        raise RedisError(f"redis_backup_schedule: systemd knows no time like {params['calendar']!r}")
    users_file = Path(params["users_file"])
    # A lookup and a template differ in the last line feed.
    users = users_file.read_text(encoding="utf-8") if users_file.exists() else ""
    has_users = users.rstrip() == params["users"].rstrip()
    kind = "sentinel" if params["sentinel"] else "server"
    settings_file = Path(params["settings_file"])
    is_there = is_written(settings_file, params["settings"], params["keep"], params["keep_if"])
    if (is_there and has_users) or not shutil.which(program(kind)):
        return {"changed": False}
    if absent := unusable(params["bind"]):
        raise RedisError(f"redis_bind: {', '.join(absent)} is no address of this host")
    if used := taken(params["bind"], params["settings"], pwd.getpwnam(params["user"]).pw_uid):
        variable = "redis_sentinel_port" if params["sentinel"] else "redis_port"
        raise RedisError(f"{variable}: another service listens on {', '.join(used)} already")
    with scratch_server(params["settings"], params["users"], params["user"], kind):
        pass
    return {"changed": False}


def main() -> None:
    """Run as a module."""
    module = AnsibleModule(
        argument_spec={
            "settings": {"type": "str", "required": True, "no_log": True},
            "settings_file": {"type": "path", "required": True},
            "users": {"type": "str", "required": True, "no_log": True},
            "users_file": {"type": "path", "required": True},
            "user": {"type": "str", "required": True},
            "bind": {"type": "list", "elements": "str", "default": []},
            "calendar": {"type": "str", "default": ""},
            "sentinel": {"type": "bool", "default": False},
            "keep": {"type": "str", "default": "replicaof"},
            "keep_if": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    answer(module, run)


if __name__ == "__main__":
    main()
