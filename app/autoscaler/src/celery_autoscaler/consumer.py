"""Celery's consumer and request, where they have to know of the channel.

Celery has a setting for the class of the consumer (``worker_consumer``), and tasks name the class of their
requests; :mod:`celery_autoscaler.launch` sets both.
"""

import os
from collections.abc import Callable
from functools import partial
from time import sleep, time
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import Terminated
from celery.exceptions import Ignore, InvalidTaskError, Reject, Retry, TaskRevokedError
from celery.worker import state
from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.request import Request as CeleryRequest
from kombu.utils.compat import detect_environment

from celery_autoscaler.channel import TRANSPORTS, transport_for
from celery_autoscaler.ledger import Ledger
from celery_autoscaler.server_state import Refused
from celery_autoscaler.task_counts import PUBLISHED

# Seconds between looks of a worker that has to know whether its lease lives.
UNCERTAIN = 0.2
# Seconds between tries to connect again.
RECONNECT = 1.0
# What a task raises that does not fail.
OUTCOMES = ((Reject, "rejected"), (Ignore, "ignored"), (Retry, "retried"))


class Request(CeleryRequest):  # type: ignore[misc]
    """A request that tells the channel when its message comes back because something died, and is counted."""

    runtime: float | None = None
    """Seconds that the task took, as its process measured them."""

    def __init_subclass__(cls) -> None:
        """Count successes: Celery makes a class for each task, whose `on_success` calls no other."""
        succeed = cls.on_success

        def on_success(self: Request, result: tuple[bool, Any, float], **options: Any) -> Any:
            failed, _, self.runtime = result
            if not failed:
                self.count("succeeded")
            return succeed(self, result, **options)

        cls.on_success = on_success

    def revoked(self) -> bool:
        """Whether the task must not begin now: revoked by somebody, or not surely this worker's.

        Celery also asks when the message arrives; that task does not begin yet.
        """
        ledger = self.ledger
        if ledger is None:
            return bool(super().revoked())
        if ledger.silent and not ledger.fenced and self in state.reserved_requests:
            if ledger.postpone is not None:
                ledger.postpone(self)
                return True
            if self.is_lost(ledger):
                return True
        return ledger.fenced or bool(super().revoked())

    def on_accepted(self, pid: int, time_accepted: float) -> Any:
        """Look once more where tasks wait within the pool: pools of threads or greenlets queue what they get.

        Raises:
            TaskRevokedError: In the thread that would have begun the task.
        """
        ledger = self.ledger
        in_this_process = pid == os.getpid() or detect_environment() != "default"
        if ledger is not None and in_this_process and self.is_lost(ledger):
            raise TaskRevokedError(self.id)
        answer = super().on_accepted(pid, time_accepted)
        self.count_wait()
        return answer

    def count_wait(self) -> None:
        """Count how long the task has waited since it was published, or since its ETA."""
        published = self._message.headers.get(PUBLISHED)
        if self.ledger is not None and isinstance(published, int | float):
            due = max(published, self.eta.timestamp() if self.eta is not None else 0.0)
            self.ledger.task_counts.began(self.kind, max(0.0, self.time_start - due))

    def count(self, outcome: str) -> None:
        """Count how the task ended, and how long it took if it began."""
        if self.ledger is not None:
            runtime = self.runtime
            if runtime is None and self.time_start is not None:
                runtime = time() - self.time_start
            self.ledger.task_counts.ended(self.kind, outcome, runtime)

    @property
    def kind(self) -> tuple[str, str]:
        """The name of the task and its queue."""
        return self.name, self._message.delivery_info["queue"]

    def _announce_revoked(self, *arguments: Any) -> None:
        self.count("revoked")
        super()._announce_revoked(*arguments)

    @property
    def ledger(self) -> Ledger | None:
        """What the worker holds, if the message came through its channel."""
        return getattr(self._message.channel, "ledger", None)

    @staticmethod
    def is_lost(ledger: Ledger) -> bool:
        """Whether the worker's messages were given to others.

        A worker that was silent for as long as its lease, frozen or cut off, waits for its next heartbeat
        before it begins anything. While nobody can tell, nothing begins.
        """
        while ledger.silent and not ledger.fenced:
            if state.should_stop is not None or state.should_terminate is not None:
                return True
            sleep(UNCERTAIN)
        return ledger.fenced

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Note why the message may go back, unless the task itself asked for it, and count the failure."""
        exc = exc_info.exception
        if isinstance(exc, ExceptionWithTraceback):
            exc = exc.exc
        if not isinstance(exc, Reject):
            self._message.died = f"{type(exc).__name__}: {exc}"
        outcome = next((word for kind, word in OUTCOMES if isinstance(exc, kind)), "failed")
        if self.ledger is not None and outcome == "failed":
            self.ledger.failed += 1
        # One that is terminated is announced as revoked.
        if not isinstance(exc, Terminated):
            self.count(outcome)
        return super().on_failure(exc_info, send_failed_event, return_ok)


class Consumer(CeleryConsumer):  # type: ignore[misc]
    """A consumer whose messages outlive its connection."""

    ledger: Ledger
    _connection_lost = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.hub is not None:
            self.ledger.postpone = lambda request: self.hub.call_later(
                UNCERTAIN, self.on_task_request, request
            )

    def connection_for_read(self, heartbeat: float | None = None) -> Any:
        """Connect with the channel that records what it takes."""
        connection = self.app.connection_for_read(heartbeat=heartbeat)
        self.bound_waits(connection)
        transport = transport_for(connection.transport_cls, self.ledger)
        if transport is not None:
            # The connection goes by its own name in the logs.
            connection.get_transport_cls = lambda: transport
        # Celery's own pauses grow to half a minute.
        connection.ensure_connection = partial(
            connection.ensure_connection, interval_start=RECONNECT, interval_step=0
        )
        return self.ensure_connected(connection)

    def connection_for_write(self, url: str | None = None, heartbeat: float | None = None) -> Any:
        """Connect for events. One that cannot be sent is kept; Celery would hold the worker up until then."""
        connection = self.app.connection_for_write(url=url, heartbeat=heartbeat)
        self.bound_waits(connection)
        connection.ensure = partial(connection.ensure, max_retries=0)
        return self.ensure_connected(connection)

    def bound_waits(self, connection: Any) -> None:
        """Give up on a server that is gone without a word in time to renew the lease on a new connection.

        Unless the app says how long to wait; and only here: a task that sends another would send it twice.
        """
        if connection.transport_cls in TRANSPORTS:
            lease = self.ledger.lease
            bounds = {
                "socket_timeout": lease / 3,
                "socket_connect_timeout": lease / 3,
                # Seconds between looks of kombu at connections that ought to have answered.
                "health_check_interval": lease,
            }
            connection.transport_options = bounds | connection.transport_options

    def update_strategies(self) -> None:
        """Refuse a message of the wrong shape as Celery does other invalid ones: it would end the worker."""
        super().update_strategies()
        for name, strategy in self.strategies.items():
            self.strategies[name] = partial(refusing, strategy)

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Keep the requests: their messages are still recorded as this worker's."""
        self._connection_lost = True
        super().on_connection_error_after_connected(exc)
        if isinstance(exc, Refused):
            # Nothing else holds the next try up: the server answers.
            sleep(RECONNECT)

    def on_close(self) -> None:
        """Drop what was not begun when the worker ends, not when a connection does."""
        if self._connection_lost:
            self._connection_lost = False
        else:
            keep_handed_over(self.pool)
            super().on_close()


def keep_handed_over(pool: Any) -> None:
    """Have the pool wait for tasks that a process was given, though it has not said yet that it began them.

    Celery forgets them when it stops. The process runs them all the same; nobody hears of it, the messages
    go back, and the process waits half a minute for its result to be read.
    """
    jobs = getattr(getattr(pool, "_pool", None), "_cache", {})
    for job in list(jobs.values()):
        if getattr(job, "_write_to", None) is not None:
            job._accepted = True


def refusing(strategy: Callable[..., None], *arguments: Any) -> None:
    """Hand a message to its task's strategy.

    Raises:
        InvalidTaskError: The message's body has not the shape of a task's.
    """
    try:
        strategy(*arguments)
    except (TypeError, ValueError) as error:
        raise InvalidTaskError(str(error)) from error
