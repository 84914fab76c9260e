"""A server or a sentinel for a moment, with the wanted files: what it refuses, and what it would run."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ansible_collections.celery_fleet.platform.plugins.module_utils.redis_server import (
    RedisError,
    Server,
    program,
)
from ansible_collections.celery_fleet.platform.plugins.module_utils.scratch_process import (
    give,
    printed,
    running,
)

READY_WITHIN_SECONDS = 30.0
# What it must not share with the one that runs.
APART = {
    "port": "0",
    "tls-port": "0",
    "unixsocket": "{folder}/socket",
    "unixsocketperm": "700",
    "dir": "{folder}",
    "aclfile": "{folder}/users.acl",
    "pidfile": "{folder}/pid",
    "logfile": '""',
    "daemonize": "no",
    "supervised": "no",
    "appendonly": "no",
    "save": '""',
}
# Lines that a failover decides, and that would make it follow somebody.
ROLES = re.compile(r"(?i)^\s*(replicaof|slaveof)\s")
# A sentinel that watches the primary would be known to the others from then on.
WATCHES = re.compile(r"(?im)^(\s*sentinel\s+monitor\s+\S+)\s+\S+\s+\d+")
NOBODY = r"\1 127.0.0.1 1"


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
    return [*reversed(telling), *lines[-1:], "it ended without any output"][0][:300]


def answers(server: Server) -> bool:
    """Return whether a server accepts commands; that it wants a login first is an answer too."""
    if not Path(server.address[1]).exists():
        return False
    try:
        reply = server.ask(("PING",))[0]
    except (RedisError, subprocess.TimeoutExpired):
        return False
    return reply == "PONG" or "NOAUTH" in str(reply)


def prepare(folder: Path, settings: str, users: str, user: str) -> None:
    """Write the files, as those of the user that reads them."""
    lines = [line for line in settings.splitlines() if not ROLES.match(line)]
    lines += [f"{name} {value.format(folder=folder)}" for name, value in APART.items()]
    text = "".join(f"{line}\n" for line in lines)
    (folder / "redis.conf").write_text(WATCHES.sub(NOBODY, text), encoding="utf-8")
    (folder / "users.acl").write_text(users, encoding="utf-8")
    give(folder, user)


@contextmanager
def scratch_server(settings: str, users: str, user: str, kind: str = "server") -> Iterator[Server]:
    """Start a server in a folder of its own, without a port and without the data, and end it at last.

    Yields:
        A way to it, for the user ``default``, once it answers.

    Raises:
        RedisError: what it refuses.
    """
    with tempfile.TemporaryDirectory(prefix="redis-check-") as name:
        folder = Path(name)
        prepare(folder, settings, users, user)
        server = Server(("-s", str(folder / "socket")), None, "", 5)
        with running([program(kind), str(folder / "redis.conf")], folder, user) as process:
            wait_for_answer(process, server, folder)
            yield server


def wait_for_answer(process: subprocess.Popen[bytes], server: Server, folder: Path) -> None:
    """Wait until it accepts commands."""
    deadline = time.monotonic() + READY_WITHIN_SECONDS
    while process.poll() is None and not answers(server):
        if time.monotonic() > deadline:
            raise RedisError(
                f"a scratch server with these settings is not ready after {READY_WITHIN_SECONDS:g} s"
            )
        time.sleep(0.02)
    if process.poll() is not None:
        raise RedisError(f"Redis refuses these settings: {refusal(printed(folder))}")
