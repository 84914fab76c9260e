#!/usr/bin/python
"""Ansible module: take over a Redis server with all its data, or say why that is not possible."""

from __future__ import annotations

import hashlib
import re
import subprocess
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.celery_fleet.platform.plugins.module_utils.redis_server import (
    RedisError,
    Server,
    answer,
    connect,
    default_passwords,
    file_settings,
    instances,
    login_arguments,
    main_pid,
    normal_word,
    program,
    switch_on_append_only,
    unit_of,
    unit_properties,
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
  present_password:
    description: Password of the user C(default) of a server that the role has not configured yet. What its
      file says (C(requirepass)) is tried as well.
    type: str
  package:
    description: The package that is installed if it is not; its version has to read the data.
    type: str
    required: true
  config:
    description: Its configuration file.
    type: path
    required: true
  settings:
    description: The wanted settings.
    type: dict
    required: true
extends_documentation_fragment: [celery_fleet.platform.redis_login]
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


# The command of a unit as systemctl shows it, and the options in it that Debian gives.
ARGV = re.compile(r"argv\[\]=(.*?) ; ")
OPTIONS = {"--supervised", "--daemonize"}


# The newest RDB file that each version reads.
READS = {
    "redis-server": {"7.0": 10, "7.2": 11, "7.4": 12, "8.0": 12},
    "valkey-server": {"7.2": 11, "8.0": 11, "8.1": 11},
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


def unit_errors(unit: str, config: Path) -> list[str]:
    """Return what of a unit would win over what the role writes."""
    shown = unit_properties(unit)
    errors = []
    words = ARGV.search(shown.get("ExecStart", ""))
    given = words[1].split()[1:] if words else []
    if given and given[0] != str(config):
        errors.append(f"{unit} reads {given[0]} and not {config}")
    own = [word for word in given if word.startswith("--") and word not in OPTIONS]
    if own:
        errors.append(f"{unit} starts the server with {' '.join(own)}, which wins over {config}")
    # Debian names the user as it names the folder.
    if shown.get("User", "") not in ("", config.parent.name):
        errors.append(f"{unit} runs the server as the user {shown['User']} and not as {config.parent.name}")
    remedy = f"take that out of its additions (systemctl cat {unit}) and restart it"
    return [f"{error}: {remedy}" for error in errors]


def instance_errors(unit: str, shown: dict[str, dict[str, str]], wanted: dict[str, Any]) -> list[str]:
    """Return which instances of Debian's template of units are in the way; those elsewhere may stay.

    Args:
        unit: The one that the role has.
        shown: The properties of each unit of the template, by name.
        wanted: The settings of the role's server.
    """
    port = str(next((wanted[name] for name in ("port", "tls-port") if str(wanted.get(name, 0)) != "0"), 0))
    errors = []
    for name, properties in sorted(shown.items()):
        words = ARGV.search(properties.get("ExecStart", ""))
        config = Path([*(words[1].split()[1:] if words else []), ""][0])
        found = {"port": "6379"} | file_settings(config, follow=True)
        ours = {"port": port, "dir": str(wanted["dir"])}
        same = [f"{key} {value}" for key, value in ours.items() if found.get(key) == value]
        if same:
            errors.append(
                f"{name} has the {' and the '.join(same)} of {unit}, and only that one is taken over: "
                f"let its queues run empty and systemctl disable --now {name}, or give it others in {config}"
            )
    return errors


def rdb_version(path: Path) -> int:
    """Return the version that the header of an RDB file names; 0 if it is none."""
    try:
        with path.open("rb") as opened:
            found = re.fullmatch(rb"(?:REDIS0*|VALKEY0*)(\d+)", opened.read(9))
    except OSError:
        return 0
    return int(found[1]) if found else 0


def reads(package: str, version: str) -> int:
    """Return the newest RDB file that a version of a package reads; 0 if that is not known."""
    found = re.search(r"(?:^|:)(\d+\.\d+)\.", version)
    return READS.get(package, {}).get(found[1], 0) if found else 0


def version_errors(config: Path, package: str, version: str, wanted: dict[str, Any]) -> list[str]:
    """Return what of the data a version of the server would not load, because a newer one has written it."""
    found = file_settings(config, follow=True)
    folder = Path(found.get("dir") or str(wanted["dir"]))
    kept = folder / (found.get("appenddirname") or PLACES["appenddirname"])
    files = [folder / (found.get("dbfilename") or PLACES["dbfilename"]), *sorted(kept.glob("*.rdb"))]
    limit = reads(package, version)
    return [
        f"{path} is of a newer server: its RDB version is {rdb_version(path)}, and {package} {version} reads "
        f"{limit} at most; install a version that reads it, or move the file away"
        for path in files
        if limit and rdb_version(path) > limit
    ]


def file_errors(config: Path) -> list[str]:
    """Return what a configuration file, with those that it includes, has done to the data."""
    if "rename-command" not in file_settings(config, follow=True):
        return []
    # Commands are logged under the names that clients use.
    return [
        f"{config} has rename-command, and the append-only file may have commands under such names: take it "
        "out and restart the server"
    ]


def place_errors(server: Server, wanted: dict[str, Any]) -> list[str]:
    """Return what a server is or holds that it would lose as the role wants it."""
    errors = []
    if server.do(("CONFIG", "GET", "cluster-enabled"))[0].get("cluster-enabled") == "yes":
        errors.append(
            "the running server is a node of a cluster (cluster-enabled), which Celery cannot use: give the "
            "fleet a server of its own"
        )
    info = server.info()
    if info.get("role") == "slave" and "masteruser" not in wanted:
        errors.append(
            f"the running server is a replica of {info['master_host']}:{info['master_port']} and takes no "
            "tasks: set redis_replication_of, or make it a primary (REPLICAOF NO ONE)"
        )
    last = max((int(name[2:]) for name in info if re.fullmatch(r"db\d+", name)), default=0)
    if last >= int(wanted.get("databases") or last + 1):
        errors.append(
            f"the running server has keys in database {last}, and could not load them with redis_databases: "
            f"{wanted['databases']}; allowed: {last + 1} or more"
        )
    return errors


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
    return errors + place_errors(server, wanted)


def loaded_from(entry: Any) -> str:
    """Return the file from which a module was loaded, as MODULE LIST tells it in RESP3 or in RESP2."""
    found = entry if isinstance(entry, dict) else dict(zip(entry[::2], entry[1::2], strict=False))
    return str(found.get("path", ""))


def stopped_errors(config: Path, unit: str, wanted: dict[str, Any]) -> list[str]:
    """Return why a server that does not run cannot be started with an append-only file."""
    found = file_settings(config, follow=True)
    usual = PLACES | {"dir": str(wanted["dir"])}
    here = {name: found.get(name) or value for name, value in usual.items()}
    folder = Path(here["dir"])
    dump, kept = folder / here["dbfilename"], folder / here["appenddirname"]
    # A file that is switched off is one of a run that was broken off, and older than the dump.
    kept_is_read = kept.exists() and found.get("appendonly") == "yes"
    moved = [name for name, value in usual.items() if here[name] != str(wanted.get(name) or value)]
    if moved and (kept_is_read or (dump.is_file() and keys_in(dump))):
        return [
            f"{unit} does not run, and {config} has its data elsewhere ({moved[0]} {here[moved[0]]}): start "
            f"it (systemctl start {unit}) to learn what to do, or move {folder} away"
        ]
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


def candidate(module: AnsibleModule, package: str) -> str:
    """Return the version that runs next: the installed one, else that which apt would install."""
    _, policy, _ = module.run_command(["apt-cache", "policy", package], environ_update={"LC_ALL": "C"})
    found = dict(re.findall(r"(?m)^ +(Installed|Candidate): (\d\S*)$", policy))
    return str(found.get("Installed") or found.get("Candidate", ""))


def run(module: AnsibleModule) -> dict[str, Any]:
    """Look, take over if that is asked for, and report."""
    params = module.params
    unit, config = unit_of(params["socket"]), Path(params["config"])
    found: dict[str, Any] = {
        "changed": False,
        "errors": [],
        "needed": False,
    }
    if errors := unit_errors(unit, config) + file_errors(config):
        return found | {"errors": errors}
    if errors := instance_errors(unit, instances(unit), params["settings"]):
        return found | {"errors": errors}
    if not main_pid(unit):
        version = candidate(module, params["package"])
        errors = version_errors(config, params["package"], version, params["settings"])
        return found | {"errors": errors or stopped_errors(config, unit, params["settings"])}
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
            **login_arguments(),
            "present_password": {"type": "str", "no_log": True},
            "config": {"type": "path", "required": True},
            "package": {"type": "str", "required": True},
            "settings": {"type": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    answer(module, run)


if __name__ == "__main__":
    main()
