"""Hosts of a scenario that are lost for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import docker


@contextmanager
def without_power(container: str) -> Iterator[None]:
    """Let a host lose its power until the block ends."""
    host = docker.from_env().containers.get(container)
    host.kill("SIGKILL")
    try:
        yield
    finally:
        host.start()


@contextmanager
def without_network(host: Any) -> Iterator[None]:
    """Pull a host's network cable until the block ends; what runs on it goes on."""
    host.check_output("ip link set eth0 down")
    try:
        yield
    finally:
        host.check_output("ip link set eth0 up")


@contextmanager
def without_route(host: Any, to: str) -> Iterator[None]:
    """Let a host reach an address no more until the block ends; it goes on and answers others."""
    host.check_output(f"ip route add unreachable {to}")
    try:
        yield
    finally:
        host.check_output(f"ip route del unreachable {to}")
