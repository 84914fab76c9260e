"""Two connections to the broker: one reads how long lists are, the other hears which of them change then."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import RedisError

from celery_autoscaler.protocol import tracking
from celery_autoscaler.protocol.broker import Broker
from celery_autoscaler.protocol.keys import as_name
from celery_autoscaler.supervisor.observation import LENGTHS


class ListWatch:
    """Reads the lengths of lists, and hears once of each that has changed since it was read."""

    def __init__(self, broker: Broker) -> None:
        """Connect as the broker's client does.

        Raises:
            redis.RedisError: The server does not answer, or refuses to tell.
        """
        pool = broker.client.connection_pool
        # With RESP3 words and replies come mixed, and differently with each version of redis-py; what only
        # that has is left out.
        parameters = {
            name: value
            for name, value in pool.connection_kwargs.items()
            if not name.startswith("maint_notifications")
            and name != "oss_cluster_maint_notifications_handler"
        }
        self._reader, self._ear = (pool.connection_class(**parameters | {"protocol": 2}) for _ in range(2))
        try:
            self._ear.connect()
            number = tracking.hear(self._ear)
            # One without a permission for the channel would hear nothing.
            self._ear.read_response()
            self._reader.connect()
            tracking.track(self._reader, number)
        except BaseException:
            self.close()
            raise

    @property
    def sockets(self) -> Sequence[Any]:
        """What to wait for: one of them can be read when there is something to hear."""
        return [sock for sock in (self._ear._sock, self._reader._sock) if sock is not None]

    def lengths(self, keys: Sequence[str]) -> dict[str, int]:
        """Return how many messages lists hold; of those that change from now on, :meth:`changed` tells.

        Raises:
            redis.RedisError: The server does not answer.
        """
        self._reader.send_command("EVAL", LENGTHS, len(keys), *keys)
        found = self._reader.read_response()
        return {key: max(0, length) for key, length in zip(keys, found, strict=True)}

    def changed(self) -> set[str] | None:
        """Return the lists that have changed since they were read, without waiting; None for all of them.

        Raises:
            redis.RedisError: A connection is lost.
        """
        # Nobody has asked the reader: what can be read there is its end.
        if len(self.sockets) < 2 or self._reader.can_read(0):
            raise NoConnection("the server has closed a connection")
        names: set[str] = set()
        while self._ear.can_read(0):
            _, _, keys = self._ear.read_response()
            if keys is None:
                # The whole database was emptied.
                return None
            names.update(map(as_name, keys))
        return names

    def close(self) -> None:
        """Close both connections."""
        for connection in (self._reader, self._ear):
            with suppress(RedisError, OSError):
                connection.disconnect()
