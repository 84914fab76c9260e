"""The broker as the command line sees it: the app's own connection, the fleet's keys behind its prefix."""

from dataclasses import dataclass
from typing import Any

from celery import Celery
from redis import Redis

from celery_autoscaler.keys import Keys
from celery_autoscaler.recovery import Client


class NotRedis(Exception):  # noqa: N818 - says what is the case
    """The app's broker is something else."""


@dataclass(frozen=True)
class Broker:
    """A connection to the app's broker."""

    client: Client
    keys: Keys
    separator: str
    """What stands between a queue and its priority step in the name of a list."""


def connect(app: Celery) -> Broker:
    """Connect as the app does: its URL, its transport options, its TLS, its Sentinel.

    Raises:
        NotRedis: The app's broker is not Redis.
    """
    channel: Any = app.connection_for_write().default_channel
    if getattr(channel.connection, "driver_type", None) != "redis":
        raise NotRedis(f"the broker of {app.main or 'the app'} is not Redis")
    return Broker(Redis(connection_pool=channel.pool), Keys(channel.global_keyprefix), channel.sep)
