"""Say why Redis could not be asked: where it should be, and the cause."""

import socket
from collections.abc import Iterator
from typing import Any

from redis import exceptions
from redis.sentinel import MasterNotFoundError, SlaveNotFoundError

from celery_autoscaler.protocol.text import as_text

PORT = 6379


def address_of(connection: Any) -> str:
    """Return where a connection of kombu's leads to, without user and password; nothing for sentinels."""
    host, port = str(connection.hostname or "localhost"), connection.port or PORT
    if connection.transport_cls == "sentinel":
        return ""
    if "/" in host:
        return "/" + host.partition("/")[2].lstrip("/").partition("?")[0]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def why_not(error: exceptions.RedisError, address: str = "") -> str:
    """Return in one line why Redis did not do what was asked.

    Args:
        error: What redis-py raised.
        address: Where Redis should be, as far as that is known.
    """
    at = f" at {address}" if address else ""
    text = as_text(error)
    if isinstance(error, MasterNotFoundError | SlaveNotFoundError):
        return f"cannot reach Redis: {text}"
    if isinstance(error, exceptions.AuthenticationError):
        return f"Redis{at} refuses the log-in: {text[:1].lower()}{text[1:]}"
    if isinstance(error, exceptions.ConnectionError | exceptions.TimeoutError):
        return f"cannot reach Redis{at}: {_cause(error) or text}"
    return f"Redis{at}: {text}"


def _cause(error: BaseException) -> str:
    """Return what the system said of a connection; nothing if it said nothing."""
    for each in _chain(error):
        if isinstance(each, TimeoutError) or "imeout" in str(each):
            return "no answer in time"
        if isinstance(each, socket.gaierror):
            return "no host has this name"
        if isinstance(each, OSError) and each.strerror:
            return each.strerror[:1].lower() + each.strerror[1:]
    return ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that caused it."""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
