"""The broker as the supervisor and the command line see it: the app's own connection, the fleet's keys."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click
from celery import Celery
from redis import Redis

from celery_autoscaler.protocol.keys import Keys
from celery_autoscaler.protocol.recovery import Client
from celery_autoscaler.protocol.server_state import UNLIMITED, with_address

# Seconds after which a server that does not answer is given up, unless the app says otherwise.
ANSWER = {"socket_timeout": 3.0, "socket_connect_timeout": 3.0}


class NotRedis(click.ClickException):
    """The app's broker is something else."""


@dataclass(frozen=True)
class Broker:
    """A connection to the app's broker."""

    client: Client
    keys: Keys
    separator: str
    """The separator between a queue and its priority step in the name of a list."""
    priority_steps: Sequence[int]

    def lists(self, queue: str) -> list[str]:
        """Return the names of a queue's lists without prefix, the most urgent first."""
        return [f"{queue}{self.separator}{step}" if step else queue for step in self.priority_steps]


def connect(app: Celery) -> Broker:
    """Connect as the app does: its URL, its transport options, its TLS, its Sentinel.

    Raises:
        NotRedis: The app's broker is not Redis.
        redis.RedisError: It cannot be reached.
    """
    options = ANSWER | app.conf.broker_transport_options
    connection = app.connection_for_write(transport_options=options)
    if connection.transport.driver_type != "redis":
        raise NotRedis(f"the broker of {app.main or 'the app'} is not Redis")
    # Asking the transport itself: kombu's connection would try again for minutes.
    channel: Any = connection.transport.create_channel(connection.transport)
    pool = channel.pool
    pool.connection_class = with_address(pool.connection_class)
    # Threads share the client, whatever number of connections the app allows; names may be any bytes.
    pool.max_connections = UNLIMITED
    pool.connection_kwargs["encoding_errors"] = "surrogateescape"
    return Broker(
        client=Redis(connection_pool=pool),
        keys=Keys(channel.global_keyprefix),
        separator=channel.sep,
        priority_steps=channel.priority_steps,
    )
