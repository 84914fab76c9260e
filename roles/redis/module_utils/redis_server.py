"""What the modules of this role share: how Redis words its settings, and a way to a running server."""

from __future__ import annotations

import ipaddress
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ansible.module_utils.basic import AnsibleModule

UNITS = {"b": 1, "k": 1000, "kb": 1024, "m": 1000**2, "mb": 1024**2, "g": 1000**3, "gb": 1024**3}
ALL_KEYSPACE_EVENTS = "g$lshztxed"
MASK = "(secret)"
SENTINEL_ANSWERS_WITHIN = 5  # seconds


class RedisError(Exception):
    """Something that the user has to know, in one line."""


def normal(name: str, value: str) -> object:
    """A form of the value in which two ways to write the same are equal."""
    if name == "notify-keyspace-events":
        return frozenset(value.replace("A", ALL_KEYSPACE_EVENTS))
    tokens = [normal_word(word) for word in value.split()]
    if name == "client-output-buffer-limit":
        tokens = ["slave" if word == "replica" else word for word in tokens]
        return {tokens[i]: tuple(tokens[i + 1 : i + 4]) for i in range(0, len(tokens), 4)}
    return tokens


def normal_word(word: str) -> str:
    """Memory sizes in bytes; anything else as it is, but yes and no in lower case."""
    size = re.fullmatch(r"(\d+)([kmg]b?|b)", word, re.IGNORECASE)
    if size:
        return str(int(size[1]) * UNITS[size[2].lower()])
    return word.lower() if word.lower() in {"yes", "no"} else word


def same(name: str, wanted: str, running: str) -> bool:
    """Whether the server already runs what is wanted. Of the buffer limits only the named classes count."""
    left, right = normal(name, wanted), normal(name, running)
    if isinstance(left, dict) and isinstance(right, dict):
        return all(right.get(key) == limits for key, limits in left.items())
    return left == right


def program(kind: str) -> str:
    """The name of a program that Redis and Valkey have in common; one of them is on the host."""
    names = [f"{provider}-{kind}" for provider in ("redis", "valkey")]
    return next((name for name in names if shutil.which(name)), names[0])


def quoted(argument: str) -> str:
    """An argument as redis-cli reads it from its standard input."""
    escaped = "".join(
        char
        if " " <= char <= "~" and char not in '"\\'
        else "".join(f"\\x{byte:02x}" for byte in char.encode())
        for char in argument
    )
    return f'"{escaped}"'


class Server(NamedTuple):
    """A way to the server that works."""

    address: tuple[str, ...]
    username: str | None
    password: str
    timeout: float = 60

    def raw(self, lines: list[str], *options: str) -> str:
        """Send the commands through the standard input, for an argv is seen by everybody."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("REDISCLI")}
        command = [program("cli"), *options, *self.address]
        if self.username is not None:
            command += ["--user", self.username]
            environment["REDISCLI_AUTH"] = self.password
        done = subprocess.run(
            command,
            input="\n".join(lines) + "\n",
            env=environment,
            capture_output=True,
            text=True,
            timeout=self.timeout,
            check=False,
        )
        # redis-cli goes on after a refused login, as whoever needs none.
        if done.returncode != 0 or "AUTH failed" in done.stderr:
            raise RedisError(f"redis-cli: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def ask(self, *commands: tuple[str, ...]) -> list[Any]:
        """The replies to the commands; a RedisError stands in the place of each reply that is an error."""
        output = self.raw([" ".join(map(quoted, command)) for command in commands], "--json")
        replies: list[Any] = []
        for line in output.splitlines():
            if line.startswith("error:"):
                replies.append(RedisError(json.loads(line.removeprefix("error:"))))
            elif line:
                replies.append(json.loads(line))
        if len(replies) != len(commands):
            raise RedisError(f"redis-cli gave {len(replies)} replies to {len(commands)} commands")
        return replies

    def do(self, *commands: tuple[str, ...]) -> list[Any]:
        """The replies to the commands, none of which may fail."""
        replies = self.ask(*commands)
        for reply in replies:
            if isinstance(reply, RedisError):
                raise reply
        return replies

    def info(self, *sections: str) -> dict[str, str]:
        """What INFO tells."""
        lines = self.raw([" ".join(["INFO", *sections])]).splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)


def unit_of(socket: str) -> str:
    """The unit whose server listens on the socket; Debian names both alike."""
    return f"{Path(socket).stem}.service"


def main_pid(unit: str) -> int:
    """The main process of a service, 0 if it does not run or there is no systemd."""
    try:
        done = subprocess.run(
            ["/usr/bin/systemctl", "show", "--property=MainPID", "--value", unit],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return int(done.stdout.strip() or 0)


def file_settings(path: Path) -> dict[str, str]:
    """What a configuration file sets, the last line of each name; nothing of what cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        try:
            name, *words = shlex.split(line, comments=line.lstrip().startswith("#"))
        except ValueError:
            continue
        found[name.lower()] = " ".join(words)
    return found


def default_passwords(given: str | None, config: Path) -> list[str]:
    """What may open a server that the role has not configured: the given password, and what its file says."""
    return [given or "", file_settings(config).get("requirepass", "")]


def listening(pid: int) -> list[tuple[str, ...]]:
    """Where a process listens, as options of redis-cli: its Unix sockets first.

    The kernel says so, not a file: a password is sent to nobody else who happens to listen on the usual port.
    """
    links = []
    for descriptor in Path(f"/proc/{pid}/fd").glob("*"):
        with suppress(OSError):
            links.append(descriptor.readlink().name)
    inodes = {
        link.removeprefix("socket:[").removesuffix("]") for link in links if link.startswith("socket:[")
    }
    found: list[tuple[str, ...]] = []
    for row in _rows(pid, "unix"):
        # Flags, of which one says that it accepts connections; the inode; the path.
        if row[3] == "00010000" and row[6] in inodes and len(row) > 7:
            found.append(("-s", row[7]))
    for table in ("tcp", "tcp6"):
        for row in _rows(pid, table):
            if row[3] == "0A" and row[9] in inodes:
                address, port = row[1].split(":")
                found.append(("-h", _address(address), "-p", str(int(port, 16))))
    return found


def _rows(pid: int, table: str) -> list[list[str]]:
    try:
        return [line.split() for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]]
    except OSError:
        return []


def _address(text: str) -> str:
    """An address as the kernel writes it, in words of 32 bits of the host's byte order."""
    raw = b"".join(int(text[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(text), 8))
    address = ipaddress.ip_address(raw)
    if address.is_unspecified:
        return "127.0.0.1" if address.version == 4 else "::1"
    return str(address)


def connect(socket: str, username: str, passwords: list[str], default: Iterable[str] = ()) -> Server:
    """The first way to the server that is let in.

    Where the socket does not exist, the addresses are tried on which the main process of the service listens:
    a server that was never configured. There the user ``default`` is tried as well, without a password and
    with each of those in `default`.
    """
    configured = Path(socket).exists()
    addresses = [("-s", socket)] if configured else listening(main_pid(unit_of(socket)))
    if not addresses:
        raise RedisError(f"cannot ask Redis: {socket} does not exist, and {unit_of(socket)} listens nowhere")
    refusal = ""
    for address in addresses:
        ways = [Server(address, username, password) for password in passwords]
        if not configured or default:
            ways += [
                Server(address, None, ""),
                *(Server(address, "default", word) for word in default if word),
            ]
        for way in ways:
            try:
                way.do(("ACL", "WHOAMI"))
            except RedisError as error:
                refusal = refusal or str(error)
            else:
                return way
    raise RedisError(
        f"cannot ask Redis as the user {username} ({refusal}); after a change of its password give the old "
        "one as previous_password for one run; for a server that the role has not configured, give the "
        "password of its user default as redis_present_password"
    )


def switch_on_append_only(server: Server) -> None:
    """Write the data to a new append-only file and wait for the end of it."""
    server.do(("CONFIG", "SET", "appendonly", "yes"))
    deadline = time.monotonic() + 3600
    while time.monotonic() < deadline:
        state = server.info("persistence")
        if state.get("aof_rewrite_in_progress") == "0" and state.get("aof_rewrite_scheduled") == "0":
            if state.get("aof_last_bgrewrite_status") != "ok":
                raise RedisError("the append-only file could not be written; see its journal")
            return
        time.sleep(0.2)
    raise RedisError("the append-only file was not written within an hour")


def sentinels(params: dict[str, Any]) -> Iterator[Server]:
    """A way to each of the sentinels that answer."""
    tls = ("--tls", "--cacert", params["authority"]) if params["authority"] else ()
    for host in params["sentinels"]:
        for password in params["passwords"]:
            address = ("-h", host, "-p", str(params["sentinel_port"]), *tls)
            sentinel = Server(address, params["username"], password, SENTINEL_ANSWERS_WITHIN)
            try:
                sentinel.do(("PING",))
            except (RedisError, subprocess.TimeoutExpired):
                continue
            yield sentinel
            break


def lacking(info: dict[str, str]) -> str:
    """What a server still lacks, from INFO: its data, or its primary's; nothing if it is ready."""
    if info.get("loading") != "0":
        return "it loads its data"
    if info["role"] == "slave" and (
        info["master_link_status"] != "up" or info.get("master_sync_in_progress") != "0"
    ):
        return f"it does not follow its primary {info['master_host']}:{info['master_port']}"
    return ""


def wait_until_ready(socket: str, username: str, passwords: list[str], timeout: float) -> str:
    """The role of the server, once it has its data and follows its primary."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            info = connect(socket, username, passwords).info()
            reason = lacking(info)
        except (RedisError, subprocess.TimeoutExpired) as error:
            reason = str(error)
        if not reason:
            return info["role"]
        if time.monotonic() > deadline:
            raise RedisError(f"Redis is not ready after {timeout:g} s: {reason}; see its journal")
        time.sleep(0.1)


def answer(module: AnsibleModule, run: Callable[[AnsibleModule], dict[str, Any]]) -> None:
    """End a module with what it found and did, or with the one line that says what is wrong."""
    try:
        result = run(module)
    except (RedisError, subprocess.TimeoutExpired) as error:
        module.fail_json(msg=str(error))
    else:
        module.exit_json(**result)
