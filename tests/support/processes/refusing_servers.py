"""Redis servers that refuse commands for a while; each context ends with the server as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from redis import Redis

from support.processes.services import RedisServer


@contextmanager
def replica(server: RedisServer) -> Iterator[None]:
    """READONLY: it was made a replica, as after a failover behind one address."""
    with Redis.from_url(server.url) as client:
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        yield
        client.execute_command("REPLICAOF", "NO", "ONE")


@contextmanager
def full(server: RedisServer) -> Iterator[None]:
    """OOM: its memory is full."""
    with Redis.from_url(server.url) as client:
        client.config_set("maxmemory", "1")
        yield
        client.config_set("maxmemory", "0")


@contextmanager
def alone(server: RedisServer) -> Iterator[None]:
    """NOREPLICAS: its replicas are away."""
    with Redis.from_url(server.url) as client:
        client.config_set("min-replicas-to-write", 1)
        yield
        client.config_set("min-replicas-to-write", 0)
