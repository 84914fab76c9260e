"""What the modules of this role share: how Redis words its settings, and a way to a running server."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
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


def connect(socket: str, username: str, passwords: list[str]) -> Server:
    """The first way to the server that is let in.

    Where the socket does not exist, port 6379 of 127.0.0.1 is tried: a server that was never configured.
    """
    configured = Path(socket).exists()
    address = ("-s", socket) if configured else ("-h", "127.0.0.1", "-p", "6379")
    ways = [Server(address, username, password) for password in passwords]
    if not configured:
        ways.append(Server(address, None, ""))
    refusal = ""
    for way in ways:
        try:
            way.do(("ACL", "WHOAMI"))
        except RedisError as error:
            refusal = refusal or str(error)
        else:
            return way
    raise RedisError(
        f"cannot ask Redis as the user {username} ({refusal}); after a change of its password "
        "give the old one as previous_password for one run"
    )


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
