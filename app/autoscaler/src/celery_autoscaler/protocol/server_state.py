"""Answers that describe the state of a Redis server instead of the command that it refuses.

A server that loads its data, is full, runs a long script or was made a replica answers the next command as it
answers this one, and later it answers otherwise. redis-py takes such an answer for an error of the command,
which would end the worker. The connections of a worker raise :class:`Refused` instead, which callers that
cannot wait treat as a lost connection.
"""

import re
from functools import cache
from typing import Any

from redis import Connection, UnixDomainSocketConnection
from redis import exceptions as redis_errors

from celery_autoscaler.protocol import sentinels

# Connections of a pool that its users limit themselves.
UNLIMITED = 2**31
# What such an answer begins with.
REFUSALS = (
    "BUSY",
    "CLUSTERDOWN",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "NOAUTH",
    "NOREPLICAS",
    "OOM",
    "READONLY",
    "TRYAGAIN",
)
# redis-py makes exceptions of their own of some, and takes away the word with which they begin, which before
# version 8 they have nowhere else.
WORDS: dict[type[BaseException], str] = {
    redis_errors.BusyLoadingError: "LOADING",
    redis_errors.ClusterDownError: "CLUSTERDOWN",
    redis_errors.MasterDownError: "MASTERDOWN",
    redis_errors.OutOfMemoryError: "OOM",
    redis_errors.ReadOnlyError: "READONLY",
    redis_errors.TryAgainError: "TRYAGAIN",
}
REFUSAL_TYPES: tuple[type[BaseException], ...] = (redis_errors.AuthenticationError, *WORDS)
# A pipeline, a transaction and, before Redis 7, a script put something of theirs before it.
REFUSED = re.compile(
    rf"(?:^-?|caused error: |because of: |@user_script: ?\d+: -?)({'|'.join(REFUSALS)})(?= |$)",
)


class Refused(redis_errors.ConnectionError):
    """The server refuses commands for now: to be tried again, as after a lost connection."""


def is_refusal(error: BaseException) -> bool:
    """Return whether an error describes a state of the server that passes."""
    return isinstance(error, (Refused, *REFUSAL_TYPES)) or (
        isinstance(error, redis_errors.ResponseError) and REFUSED.search(str(error)) is not None
    )


def is_full(error: BaseException) -> bool:
    """Return whether the server has no memory left for what it was to write."""
    return isinstance(error, redis_errors.OutOfMemoryError) or "OOM " in str(error)


def takes_no_writes(error: BaseException) -> bool:
    """Return whether the server answers reads."""
    return str(error).startswith(("NOREPLICAS", "MISCONF", "READONLY"))


def is_read_only(error: BaseException) -> bool:
    """Return whether the server has become a replica: its address may lead to another one by now."""
    return isinstance(error, redis_errors.ReadOnlyError) or "READONLY " in str(error)


class _Refusing:
    """A connection that raises :class:`Refused`."""

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """Read a reply.

        Raises:
            Refused: The reply describes a state of the server.
        """
        try:
            reply = super().read_response(*args, **kwargs)  # type: ignore[misc]
            if isinstance(reply, list):
                # What a transaction's commands met comes as values.
                for part in reply:
                    if isinstance(part, redis_errors.ResponseError) and is_refusal(part):
                        raise part
        except redis_errors.ResponseError as error:
            if not is_refusal(error):
                raise
            if is_read_only(error):
                self.disconnect()  # type: ignore[attr-defined]
            raise Refused(worded(error)) from error
        else:
            return reply


def worded(error: BaseException) -> str:
    """Return a refusal with the word with which the server began it."""
    code, text = getattr(error, "status_code", None) or WORDS.get(type(error)), str(error)
    return f"{code} {text}" if code and not text.startswith(code) else text


@cache
def refusing(connection_class: type[Connection]) -> type[Connection]:
    """Return a class of connections, over whatever they lead, that raise :class:`Refused`."""
    if issubclass(connection_class, _Refusing):
        return connection_class
    return with_clear_errors(type(connection_class.__name__, (_Refusing, connection_class), {}))


@cache
def with_clear_errors(connection_class: type[Connection]) -> type[Connection]:
    """Return a class of connections whose errors name in one line what does not answer.

    Over a Unix socket a connection lacks what redis-py names when it loses one: another error would come.
    """
    if issubclass(connection_class, UnixDomainSocketConnection):
        return type(connection_class.__name__, (connection_class,), {"host": "", "port": 0})
    return sentinels.with_one_line(connection_class)
