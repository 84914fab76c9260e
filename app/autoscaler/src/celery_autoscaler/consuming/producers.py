"""What a worker's main process publishes: replies to remote control, its greeting to neighbours.

Celery takes for that the connections with which the app's tasks send others. They wait without end for a
silently dead server, and stay in their pool when the worker's own connection is lost.
"""

import functools
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from kombu.connection import ConnectionPool
from kombu.exceptions import OperationalError
from kombu.pools import ProducerPool

# How often something is published again on a new connection, unless the caller says.
RETRIES = 1


class BoundedPool(ConnectionPool):  # type: ignore[misc]
    """Connections that give up a server soon."""

    def new(self) -> Any:
        """Return a connection that retries a bounded number of times."""
        connection = super().new()
        ensure = connection.ensure

        def bounded(obj: Any, publish: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
            if arguments or options.get("max_retries") is not None:
                return ensure(obj, publish, *arguments, **options)
            ensured = ensure(obj, publish, **options | {"max_retries": RETRIES, "interval_start": 0})
            return raising_the_cause(ensured)

        connection.ensure = bounded
        return connection


def raising_the_cause(publish: Callable[..., Any]) -> Callable[..., Any]:
    """Return what raises the transport's own error: only that makes the consumer reconnect."""

    @functools.wraps(publish)
    def published(*arguments: Any, **options: Any) -> Any:
        try:
            return publish(*arguments, **options)
        except OperationalError as error:
            raise error.__cause__ or error from None

    return published


class Producers:
    """The producers of a worker's main process."""

    def __init__(self, app: Any, bound_waits: Callable[[Any], None], *, forks: bool) -> None:
        """Give the app's remote control producers of its own.

        Args:
            app: The worker's app.
            bound_waits: Called with each connection before it connects.
            forks: Whether tasks run in other processes, so that only this one sends with the app's pool.
        """
        self._app = app
        self._bound_waits = bound_waits
        self._forks = forks
        self._pool: Any = None
        self.begin_anew()

    def begin_anew(self) -> None:
        """Drop the connections that there are, and what waits on them."""
        former = self._pool
        connection = self._app.connection_for_write()
        self._bound_waits(connection)
        connection.transport_options = connection.transport_options | {"max_retries": 0, "interval_start": 0}
        limit = self._app.conf.broker_pool_limit or None
        self._pool = ProducerPool(BoundedPool(connection, limit), limit)
        # A child process makes pools of its own.
        self._app._ensure_after_fork()
        self._app.control.mailbox.producer_pool = self._pool
        if self._forks:
            self._app.amqp._producer_pool = self._pool
        if former is not None:
            with suppress(Exception):
                former.connections.force_close_all()
