#!/usr/bin/python3
"""Ansible module: have a scratch server read the settings and the users before they are written."""

from __future__ import annotations

import errno
import pwd
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.redis_server import RedisError, Server, answer, merged, program

DOCUMENTATION = """
module: redis_config_check
short_description: Have a scratch server read the settings and the users before they are written
description:
  - Starts a server with the wanted files in a folder of its own, as its user, without a port and without the
    data, and ends it as soon as it answers. What it refuses is the one line of the failure.
  - The addresses and ports to listen on are tried as well. Changes nothing.
  - Does nothing where the files on the disk are the wanted ones already, or where no server is installed.
options:
  settings: {description: The wanted text of the settings., type: str, required: true}
  settings_file: {description: The file that holds them., type: path, required: true}
  users: {description: The wanted text of the access control list., type: str, required: true}
  users_file: {description: The file that holds it., type: path, required: true}
  user: {description: The system's user that the server runs as., type: str, required: true}
  bind: {description: Addresses to listen on., type: list, elements: str, default: []}
  calendar: {description: When copies are made; systemd has to understand it., type: str, default: ""}
"""

READY_WITHIN = 30.0  # seconds
# What the scratch server must not share with the one that runs.
APART = """
port 0
tls-port 0
unixsocket {folder}/socket
unixsocketperm 700
dir {folder}
aclfile {folder}/users.acl
pidfile {folder}/pid
logfile ""
daemonize no
supervised no
appendonly no
save ""
"""
# Lines that a failover decides, and that would make the scratch server follow somebody.
ROLES = re.compile(r"(?i)^\s*(replicaof|slaveof)\s")


def is_written(path: Path, text: str) -> bool:
    """Return whether a file says what is wanted, in whatever words its server has rewritten it."""
    if not path.exists():
        return False
    found = path.read_text(encoding="utf-8")
    return merged(found, text, "replicaof", "") == found


def refusal(output: str) -> str:
    """Return the one line of what a server printed that says why it does not start."""
    # Each line of a log begins with a process id, a role and a time.
    lines = [
        re.sub(r"^\d+:\S+ .*? [*#.-] ", "", line.strip()) for line in output.splitlines() if line.strip()
    ]
    for number, line in enumerate(lines):
        if line.startswith(">>> "):
            # Its value may be a secret.
            name = [*line.removeprefix(">>> ").strip("'").split(), "?"][0]
            reason = [*lines[number + 1 :], "refused"][0]
            # Redis 8 takes what it does not know for the setting of a module.
            unknown = "Module Configuration" in reason
            return f"this Redis knows no setting {name}" if unknown else f"{name}: {reason}"
    telling = [line for line in lines if re.search("(?i)error|fatal|fail|can't|invalid", line)]
    # The last one: warnings about the host come first.
    return [*reversed(telling), *lines[-1:], "it ended without a word"][0][:300]


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


def try_out(params: dict[str, Any], folder: Path) -> None:
    """Start the scratch server; raise what it refuses."""
    user = pwd.getpwnam(params["user"])
    settings = "\n".join(line for line in params["settings"].splitlines() if not ROLES.match(line))
    (folder / "redis.conf").write_text(settings + "\n" + APART.format(folder=folder), encoding="utf-8")
    (folder / "users.acl").write_text(params["users"], encoding="utf-8")
    for path in (folder, *folder.iterdir()):
        shutil.chown(path, user.pw_uid, user.pw_gid)
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program("server"), str(folder / "redis.conf")],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            user=user.pw_uid,
            group=user.pw_gid,
            extra_groups=[],
        )
    try:
        deadline = time.monotonic() + READY_WITHIN
        while process.poll() is None and not answers(folder / "socket"):
            if time.monotonic() > deadline:
                raise RedisError(
                    f"a scratch server with these settings is not ready after {READY_WITHIN:g} s"
                )
            time.sleep(0.05)
        if process.poll() is not None:
            raise RedisError(f"Redis refuses these settings: {refusal(log.read_text(errors='replace'))}")
    finally:
        process.kill()
        process.wait()


def answers(path: Path) -> bool:
    """Return whether a server accepts commands; that it wants a login first is an answer too."""
    if not path.exists():
        return False
    try:
        reply = Server(("-s", str(path)), None, "", 5).ask(("PING",))[0]
    except (RedisError, subprocess.TimeoutExpired):
        return False
    return reply == "PONG" or "NOAUTH" in str(reply)


def run(module: AnsibleModule) -> dict[str, Any]:
    """Try out what differs."""
    params = module.params
    if params["calendar"] and module.run_command(["systemd-analyze", "calendar", params["calendar"]])[0]:
        raise RedisError(f"redis_backup_schedule: systemd knows no time like {params['calendar']!r}")
    users_file = Path(params["users_file"])
    # A lookup and a template differ in the last line feed.
    users = users_file.read_text(encoding="utf-8") if users_file.exists() else ""
    has_users = users.rstrip() == params["users"].rstrip()
    wanted = is_written(Path(params["settings_file"]), params["settings"]) and has_users
    if wanted or not shutil.which(program("server")):
        return {"changed": False}
    if absent := unusable(params["bind"]):
        raise RedisError(f"redis_bind: {', '.join(absent)} is no address of this host")
    if used := taken(params["bind"], params["settings"], pwd.getpwnam(params["user"]).pw_uid):
        raise RedisError(f"redis_port: another service listens on {', '.join(used)} already")
    with tempfile.TemporaryDirectory(prefix="redis-check-") as folder:
        try_out(params, Path(folder))
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
        },
        supports_check_mode=True,
    )
    answer(module, run)


if __name__ == "__main__":
    main()
