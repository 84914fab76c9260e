"""The broker as the supervisor and the command line see it: the app's own connection, the fleet's keys."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import click
from redis import Redis
from redis.sentinel import MasterNotFoundError

from celery_autoscaler.protocol.keys import Keys
from celery_autoscaler.protocol.project import project_name
from celery_autoscaler.protocol.sentinels import one_line
from celery_autoscaler.protocol.server_state import UNLIMITED, with_clear_errors

# Seconds after which a server that does not answer is given up, unless the app says otherwise.
ANSWER = {"socket_timeout": 3.0, "socket_connect_timeout": 3.0}

# A redis.Redis that adds no prefix of its own and decodes no reply. Its own types are unions of all replies.
Client = Any


class Reachable(Protocol):
    """Whatever knows its broker: an app, or the description of one."""

    @property
    def main(self) -> Any:
        """Its name, if it has one."""

    def connection_for_write(self) -> Any:
        """Return a connection of kombu's to its broker."""


class NotRedis(click.ClickException):
    """The app's broker is something else."""


@dataclass(frozen=True)
class Broker:
    """A connection to the app's broker."""

    client: Client
    keys: Keys
    separator: str
    """The separator between a queue and its priority step in the name of a list."""
    priority_steps: Sequence[int] = (0,)

    def lists(self, queue: str) -> list[str]:
        """Return the names of a queue's lists without prefix, the most urgent first."""
        return [f"{queue}{self.separator}{step}" if step else queue for step in self.priority_steps]


def connect(app: Reachable) -> Broker:
    """Connect as the app does: its URL, its transport options, its TLS, its Sentinel.

    Raises:
        NotRedis: The app's broker is not Redis.
        redis.RedisError: It cannot be reached.
    """
    connection = app.connection_for_write()
    connection.transport_options = ANSWER | (connection.transport_options or {})
    try:
        driver = connection.transport.driver_type
    except ImportError:
        # Its library is in the app's environment, if anywhere.
        driver = connection.transport_cls
    if driver != "redis":
        raise NotRedis(f"the broker of {app.main or 'the app'} is not Redis")
    # Asking the transport itself: kombu's connection would try again for minutes.
    try:
        channel: Any = connection.transport.create_channel(connection.transport)
    except MasterNotFoundError as error:
        raise MasterNotFoundError(one_line(error)) from None
    pool = channel.pool
    pool.connection_class = with_clear_errors(pool.connection_class)
    # Threads share the client, whatever number of connections the app allows; names may be any bytes.
    pool.max_connections = UNLIMITED
    pool.connection_kwargs["encoding_errors"] = "surrogateescape"
    return Broker(
        client=Redis(connection_pool=pool),
        keys=Keys(channel.global_keyprefix, project_name()),
        separator=channel.sep,
        priority_steps=channel.priority_steps,
    )
