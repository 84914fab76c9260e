"""Celery's consumer and request, where they have to know of the channel.

Celery has a setting for the class of the consumer (``worker_consumer``), and tasks name the class of their
requests; :mod:`celery_autoscaler.launch` sets both.
"""

import os
from collections.abc import Callable
from functools import partial
from time import monotonic, sleep
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from celery.exceptions import InvalidTaskError, Reject, TaskRevokedError
from celery.worker import state
from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.request import Request as CeleryRequest
from redis.exceptions import RedisError

from celery_autoscaler.channel import Ledger, transport_for

# Seconds between tries of a worker that has to know whether its lease lives.
UNREACHABLE = 0.5
# Seconds between tries to connect again.
RECONNECT = 1.0


class Request(CeleryRequest):  # type: ignore[misc]
    """A request that tells the channel when its message comes back because something died."""

    def revoked(self) -> bool:
        """Whether the task must not begin: revoked by somebody, or no longer this worker's."""
        return self.is_lost() or bool(super().revoked())

    def on_accepted(self, pid: int, time_accepted: float) -> Any:
        """Look once more where tasks wait within the pool: a pool of threads queues all that it is given.

        Raises:
            TaskRevokedError: In the thread that would have begun the task.
        """
        if pid == os.getpid() and self.is_lost():
            raise TaskRevokedError(self.id)
        return super().on_accepted(pid, time_accepted)

    def is_lost(self) -> bool:
        """Whether the message was given to others.

        A worker that was silent for as long as its lease, frozen or cut off, asks before it begins anything.
        While nobody can tell, nothing begins.
        """
        ledger: Ledger | None = getattr(self._message.channel, "ledger", None)
        if ledger is not None:
            while not ledger.fenced and monotonic() - ledger.renewed > ledger.lease:
                try:
                    ledger.renew()
                except RedisError:
                    if state.should_stop is not None or state.should_terminate is not None:
                        return True
                    sleep(UNREACHABLE)
            return ledger.fenced
        return False

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Note why the message may go back, unless the task itself asked for it."""
        exc = exc_info.exception
        if isinstance(exc, ExceptionWithTraceback):
            exc = exc.exc
        if not isinstance(exc, Reject):
            self._message.died = f"{type(exc).__name__}: {exc}"
        return super().on_failure(exc_info, send_failed_event, return_ok)


class Consumer(CeleryConsumer):  # type: ignore[misc]
    """A consumer whose messages outlive its connection."""

    ledger: Ledger
    _connection_lost = False

    def connection_for_read(self, heartbeat: float | None = None) -> Any:
        """Connect with the channel that records what it takes."""
        connection = self.app.connection_for_read(heartbeat=heartbeat)
        transport = transport_for(connection.transport_cls, self.ledger)
        if transport is not None:
            # The connection goes by its own name in the logs.
            connection.get_transport_cls = lambda: transport
        # Celery's own pauses grow to half a minute.
        connection.ensure_connection = partial(
            connection.ensure_connection, interval_start=RECONNECT, interval_step=0
        )
        return self.ensure_connected(connection)

    def update_strategies(self) -> None:
        """Refuse a message of the wrong shape as Celery does other invalid ones: it would end the worker."""
        super().update_strategies()
        for name, strategy in self.strategies.items():
            self.strategies[name] = partial(refusing, strategy)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Keep the requests: their messages are still recorded as this worker's."""
        self._connection_lost = True
        super().on_connection_error_after_connected(exc)

    def on_close(self) -> None:
        """Drop what was not begun when the worker ends, not when a connection does."""
        if self._connection_lost:
            self._connection_lost = False
        else:
            super().on_close()


def refusing(strategy: Callable[..., None], *arguments: Any) -> None:
    """Hand a message to its task's strategy.

    Raises:
        InvalidTaskError: The message's body has not the shape of a task's.
    """
    try:
        strategy(*arguments)
    except (TypeError, ValueError) as error:
        raise InvalidTaskError(str(error)) from error
