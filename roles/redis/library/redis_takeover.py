#!/usr/bin/python3
"""Ansible module: take over a Redis server with all its data, or say why that is not possible."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.redis_server import (
    RedisError,
    Server,
    answer,
    connect,
    default_passwords,
    file_settings,
    main_pid,
    normal_word,
    program,
    switch_on_append_only,
    unit_of,
)

DOCUMENTATION = """
module: redis_takeover
short_description: Take over a Redis server with all its data, or say why that is not possible
description:
  - Runs before the first file is written. Asks a running server as the role asks it later. Whatever would
    make the role fail half-way, or leave data behind, is returned in C(errors), one line each.
  - A server that does not run, with data that it would not load once its append-only file is on, is an error.
  - With C(apply) the data is written to an append-only file, and the operator of the role is let in.
options:
  apply:
    description: Take the server over. Otherwise nothing is changed.
    type: bool
    default: false
  socket:
    description: Unix socket of the server. Where it does not exist, the addresses are asked on which the main
      process of the service listens, and no other.
    type: path
    required: true
  username:
    description: User to log in as.
    type: str
    required: true
  passwords:
    description: Passwords to try, the present one first.
    type: list
    elements: str
    required: true
  present_password:
    description: Password of the user C(default) of a server that the role has not configured yet. What its
      file says (C(requirepass)) is tried as well.
    type: str
  config:
    description: Its configuration file.
    type: path
    required: true
  settings:
    description: The wanted settings.
    type: dict
    required: true
"""

RETURN = """
errors: {description: Why the server cannot be taken over., type: list, returned: always}
needed:
  description: Whether there is a server to take over.
  type: bool
  returned: always
"""

# Where the server keeps its data. They are read at start only: with other values it would start without it.
PLACES = {
    "dir": "",
    "dbfilename": "dump.rdb",
    "appenddirname": "appendonlydir",
    "appendfilename": "appendonly.aof",
}


def refused(server: Server, *command: str) -> str:
    """Return why a server that has to know a command refuses it, in one line; nothing if it does not."""
    reply = server.ask(command)[0]
    if not isinstance(reply, RedisError):
        return ""
    return (
        f"the running server refuses {' '.join(command[:2])} ({reply}): take rename-command, or the rules "
        "that forbid it, out of its configuration and restart it"
    )


def running_errors(server: Server, wanted: dict[str, Any]) -> list[str]:
    """Return why a running server cannot be taken over."""
    needed = (("CONFIG", "GET", "dir"), ("ACL", "LIST"), ("MODULE", "LIST"))
    if errors := [why for command in needed if (why := refused(server, *command))]:
        return errors
    running, modules = server.do(("CONFIG", "GET", *PLACES), ("MODULE", "LIST"))
    for name, usual in PLACES.items():
        here, there = running.get(name, usual), str(wanted.get(name) or usual)
        if here != there:
            errors.append(
                f"the running server keeps its data elsewhere: {name} is {here}, and {there} is wanted. Stop "
                "it, move the files there, change its own configuration, start it, and run this again"
            )
    # Redis 8 has some built in; those have no path.
    if any(loaded_from(entry) for entry in modules) and "loadmodule" not in wanted:
        errors.append(
            "the running server has modules, and its data may need them: name each in redis_extra_settings "
            "(loadmodule), or remove them and their keys"
        )
    limit = int(normal_word(str(wanted.get("maxmemory", 0))))
    used = int(server.info("memory").get("used_memory_dataset", 0))
    if limit and used > limit:
        errors.append(
            f"the running server holds {used >> 20} MB, and redis_maxmemory_percent leaves {limit >> 20} MB: "
            "it would take no more tasks; raise it"
        )
    return errors


def loaded_from(entry: Any) -> str:
    """Return the file from which a module was loaded, as MODULE LIST tells it in RESP3 or in RESP2."""
    found = entry if isinstance(entry, dict) else dict(zip(entry[::2], entry[1::2], strict=False))
    return str(found.get("path", ""))


def stopped_errors(config: Path, unit: str) -> list[str]:
    """Return why a server that does not run cannot be started with an append-only file."""
    found = file_settings(config)
    folder = Path(found.get("dir") or "/var/lib/redis")
    dump = folder / (found.get("dbfilename") or PLACES["dbfilename"])
    kept = folder / (found.get("appenddirname") or PLACES["appenddirname"])
    # A file that is switched off is one of a run that was broken off, and older than the dump.
    kept_is_read = kept.exists() and found.get("appendonly") == "yes"
    if not dump.is_file() or kept_is_read or not keys_in(dump):
        return []
    return [
        f"{dump} holds data and {unit} does not run: with the append-only file that the role switches on it "
        f"would start without it; start it (systemctl start {unit}), or move the file away"
    ]


def keys_in(dump: Path) -> bool:
    """Return whether a dump has keys; what cannot be read may have some."""
    try:
        done = subprocess.run(
            [program("check-rdb"), str(dump)], capture_output=True, text=True, timeout=600, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return True
    return "[info] 0 keys read" not in done.stdout


def take_over(server: Server, params: dict[str, Any]) -> None:
    """Have the server keep its data in an append-only file, and let the operator of the role in."""
    hashes = [f"#{hashlib.sha256(password.encode()).hexdigest()}" for password in params["passwords"]]
    switch_on_append_only(server)
    server.do(("ACL", "SETUSER", params["username"], "reset", "on", *hashes, "~*", "&*", "+@all"))


def run(module: AnsibleModule) -> dict[str, Any]:
    """Look, take over if that is asked for, and report."""
    params = module.params
    unit, config = unit_of(params["socket"]), Path(params["config"])
    found: dict[str, Any] = {
        "changed": False,
        "errors": [],
        "needed": False,
    }
    if not main_pid(unit):
        return found | {"errors": stopped_errors(config, unit)}
    try:
        server = connect(
            params["socket"],
            params["username"],
            params["passwords"],
            default_passwords(params["present_password"], config),
        )
        errors = running_errors(server, params["settings"])
    except RedisError as error:
        return found | {"errors": [str(error)]}
    append_only = not errors and server.do(("CONFIG", "GET", "appendonly"))[0].get("appendonly") == "yes"
    needed = not errors and (not append_only or server.username != params["username"])
    if needed and params["apply"] and not module.check_mode:
        take_over(server, params)
    return found | {"errors": errors, "needed": needed, "changed": needed and params["apply"]}


def main() -> None:
    """Run as a module."""
    module = AnsibleModule(
        argument_spec={
            "apply": {"type": "bool", "default": False},
            "socket": {"type": "path", "required": True},
            "username": {"type": "str", "required": True},
            "passwords": {"type": "list", "elements": "str", "required": True, "no_log": True},
            "present_password": {"type": "str", "no_log": True},
            "config": {"type": "path", "required": True},
            "settings": {"type": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    answer(module, run)


if __name__ == "__main__":
    main()
