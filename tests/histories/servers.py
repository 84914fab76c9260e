"""The servers of the histories: a broker with its replica, a server of results, and one that records."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Self

import docker
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry
from support.processes.services import RedisServer, wait_for

from histories.proxy import Proxy

# Whatever the server has said yes to is on its disk.
DURABLE = (
    *("--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"),
    # A replica that comes gets its copy at once.
    *("--repl-diskless-sync-delay", "0"),
)
# Leaves a server no room for anything.
FULL = 1
# Nobody listens there: who replicates from it takes no writes.
NOBODY = 1
WITHIN = 30.0
# Seconds that a replica may take to catch up before there is no failover.
CATCHES_UP = 5.0


def client_of(port: int, **options: Any) -> Any:
    """Return a client that tries nothing again."""
    waits = {"socket_timeout": 5, "socket_connect_timeout": 5}
    return Redis(port=port, retry=Retry(NoBackoff(), 0), **waits | options)


class Servers:
    """The servers; :attr:`primary` is the one that the proxy leads to."""

    def __init__(self, docker_client: docker.DockerClient) -> None:
        self._stack = ExitStack()
        self.recorder = self._server(docker_client)
        self.results = self._server(docker_client, *DURABLE)
        self.primary = self._server(docker_client, *DURABLE)
        self.replica = self._server(docker_client, *DURABLE)
        self.proxy = Proxy(self.primary.port)
        self._stack.callback(self.proxy.close)

    def _server(self, docker_client: docker.DockerClient, *arguments: str) -> RedisServer:
        server = RedisServer(docker_client, *arguments)
        self._stack.callback(server.kill)
        return server

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def clear(self) -> None:
        """Start over: every server empty, the replica in step."""
        self.heal()
        for server in (self.recorder, self.results, self.primary):
            with client_of(server.port) as client:
                client.flushall()
                client.script_flush()
        self.replicate()

    def heal(self) -> None:
        """End whatever fault lasts."""
        for server in (self.primary, self.replica, self.results):
            server.container.reload()
            if server.container.status == "paused":
                server.container.unpause()
            if server.container.status == "exited":
                server.restart()
            with client_of(server.port) as client:
                client.config_set("maxmemory", 0)
        self.proxy.silence(False)
        with client_of(self.primary.port) as client:
            client.replicaof("NO", "ONE")

    def replicate(self) -> None:
        """Have the replica follow the primary, and wait until it does."""
        with client_of(self.replica.port) as client:
            client.replicaof(self.primary.host, self.primary.port)

            def follows() -> bool:
                with suppress(RedisError):
                    return bool(client.info("replication").get("master_link_status") == "up")
                return False

            wait_for(follows, "the replica does not follow", WITHIN)

    def fail_over(self) -> None:
        """Have the replica take over with all that the primary has said yes to; the primary dies."""
        with client_of(self.primary.port) as old, client_of(self.replica.port) as new:
            old.client_pause(60_000, all=False)

            def caught_up() -> bool:
                # Offsets of different replications cannot be compared: one that was read-only or has
                # crashed has begun a new one.
                ahead, behind = old.info("replication"), new.info("replication")
                return bool(
                    behind.get("master_link_status") == "up"
                    and behind["master_replid"] == ahead["master_replid"]
                    and behind["slave_repl_offset"] >= ahead["master_repl_offset"]
                )

            try:
                wait_for(caught_up, "the replica does not catch up", CATCHES_UP)
            except BaseException:
                old.client_unpause()
                raise
            new.replicaof("NO", "ONE")
        self.primary.crash()
        self.primary, self.replica = self.replica, self.primary
        self.proxy.lead_to(self.primary.port)

    def replace_dead(self) -> None:
        """Have the old primary follow the new one."""
        self.replica.restart()
        self.replicate()

    def left(self, prefix: str = "") -> tuple[dict[str, int], list[str]]:
        """Return the broker's keys that hold messages with how many, and the fleet's keys of processes."""
        messages: dict[str, int] = {}
        keys: list[str] = []
        with client_of(self.primary.port, decode_responses=True) as client:
            for key in sorted(client.scan_iter(match=f"{prefix}*", count=1000)):
                kind = client.type(key)
                if "dead_letter:" in key or key.endswith(".reply.celery.pidbox"):
                    continue
                if kind == "list":
                    messages[key] = int(client.llen(key))
                elif kind == "hash" and "unacked" in key:
                    messages[key] = int(client.hlen(key))
                elif key.partition(":")[0] == "fleet" and key.split(":")[1] in {
                    "worker",
                    "workers",
                    "supervisor",
                }:
                    keys.append(key)
        return messages, keys

    def now(self) -> float:
        """Return the recorder's time, in seconds."""
        with client_of(self.recorder.port) as client:
            seconds, micros = client.time()
        return float(seconds) + float(micros) / 1e6


def wait_until(at: float) -> None:
    """Wait until a time of the monotonic clock."""
    time.sleep(max(0.0, at - time.monotonic()))
