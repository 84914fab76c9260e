"""Celery's consumer, where it has to know of the channel.

An app may have a class of consumers of its own (``worker_consumer``); :func:`with_ledger` puts ours above it.
"""

import logging
from collections.abc import Callable
from functools import partial
from time import monotonic, sleep
from typing import Any

from celery.exceptions import InvalidTaskError
from celery.worker import state
from celery.worker.consumer import Consumer as CeleryConsumer

from celery_autoscaler.consuming import versions
from celery_autoscaler.consuming.delivery import described, forget_request
from celery_autoscaler.consuming.due_tasks import DueTasks
from celery_autoscaler.consuming.ending import answers, hurry, hurry_pool
from celery_autoscaler.consuming.event_loop import EventLoop
from celery_autoscaler.consuming.ledger import Ledger
from celery_autoscaler.consuming.outcomes import Outcome, guarded, nothing
from celery_autoscaler.consuming.pool_guard import guard
from celery_autoscaler.consuming.pool_pipes import PoolPipes, is_prefork
from celery_autoscaler.consuming.producers import Producers
from celery_autoscaler.consuming.request import UNCERTAIN_SECONDS, adopt
from celery_autoscaler.consuming.stretching import Stretch
from celery_autoscaler.consuming.transport import TRANSPORTS, transport_for
from celery_autoscaler.protocol.server_state import Refused

logger = logging.getLogger(__name__)

# Seconds between tries to connect again.
RECONNECT_SECONDS = 1.0


class Consumer(versions.Consumer):  # type: ignore[misc]
    """A consumer whose messages outlive its connection."""

    ledger: Ledger
    _connection_lost = False
    _qos: Any = None
    _ends = False
    away_since: float | None = None
    """When the worker began to end, by the process's clock, if its broker was away then."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.ledger = kwargs["controller"].fleet_ledger
        self.due_tasks = DueTasks(self, self.ledger)
        super().__init__(*args, **kwargs)
        guard(self.pool, self.ledger, self.hub)
        self.event_loop = EventLoop(self, self.ledger.lease)
        self.producers = Producers(self.app, self.bound_waits, forks=is_prefork(self.pool))
        self.stretch = Stretch(self, kwargs["controller"].fleet_most_slots)
        if self.stretch.most:
            self.ledger.hear_slots = self.stretch.tell
        self.pipes: PoolPipes | None = None
        if self.hub is not None:
            self.pipes = PoolPipes(self.hub, self.pool)
            self.ledger.postpone = lambda request: self.hub.call_later(
                UNCERTAIN_SECONDS, self.on_task_request, request
            )

    @property
    def qos(self) -> Any:
        """The prefetch count: the first one, since held messages with an ETA count on it over connections."""
        return self._qos

    @qos.setter
    def qos(self, qos: Any) -> None:
        if self._qos is None or qos is None:
            self._qos = qos
        else:
            self._qos.callback = qos.callback
            self._qos.prev = None
            self._qos.update()

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
            connection.ensure_connection, interval_start=RECONNECT_SECONDS, interval_step=0
        )
        self.event_loop.turn()
        return self.ensure_connected(connection)

    def ensure_connected(self, conn: Any) -> Any:
        """Connect; trying again and again is no standstill."""
        ensure = conn.ensure_connection

        def trying(errback: Any = None, max_retries: Any = None, **options: Any) -> Any:
            callback = options.pop("callback", nothing)

            def turn() -> None:
                self.event_loop.turn()
                callback()

            return ensure(errback, max_retries, callback=turn, **options)

        conn.ensure_connection = trying
        return super().ensure_connected(conn)

    def perform_pending_operations(self) -> None:
        """Do what is due in the loop of a pool of greenlets, in each of its turns."""
        self.event_loop.turn()
        super().perform_pending_operations()

    def connection_for_write(self, url: str | None = None, heartbeat: float | None = None) -> Any:
        """Connect for events. One that cannot be sent is kept; Celery would hold the worker up until then."""
        connection = self.app.connection_for_write(url=url, heartbeat=heartbeat)
        self.bound_waits(connection)
        connection.ensure = partial(connection.ensure, max_retries=0)
        return self.ensure_connected(connection)

    def bound_waits(self, connection: Any) -> None:
        """Give up on a silently dead server in time to renew the lease on a new connection.

        Unless the app says how long to wait; and only here: a task that sends another would send it twice.
        """
        if connection.transport_cls in TRANSPORTS:
            lease = self.ledger.lease
            waits = {"socket_timeout": lease / 3, "socket_connect_timeout": lease / 3}
            # Seconds between looks of kombu at connections that ought to have answered.
            options = waits | {"health_check_interval": lease} | connection.transport_options
            if isinstance(options.get("sentinel_kwargs"), dict):
                # Without any, Sentinel is asked with the options of the server.
                options["sentinel_kwargs"] = waits | options["sentinel_kwargs"]
            connection.transport_options = options

    def update_strategies(self) -> None:
        """Have all tasks make requests of ours, whenever they were registered.

        Refuse a message of the wrong shape as Celery does other invalid ones: it would end the worker.
        """
        adopt(self.app.tasks.values())
        super().update_strategies()
        for name, strategy in self.strategies.items():
            self.strategies[name] = partial(refusing, strategy)

    def on_unknown_message(self, body: Any, message: Any) -> None:
        """Put aside what names no task."""
        message.refused = "it names no task"
        super().on_unknown_message(body, message)

    def on_unknown_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Put aside the message of a task that the app does not have; another release may have it."""
        message.refused = f"the app has no task of this name: {described(exc)}"
        refuse = partial(message.reject_log_error, logger, self.connection_errors)
        # That it failed is stored first.
        tell = partial(super().on_unknown_task, body, message, exc)
        self.ledger.make_room(message.delivery_tag)
        self.ledger.outcomes.add(Outcome(tell, refuse, refuse, f"a task of an unknown name ({exc})"))

    def on_invalid_task(self, body: Any, message: Any, exc: Exception) -> None:
        """Put aside a message that is not made like a task's."""
        message.refused = described(exc)
        super().on_invalid_task(body, message, exc)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Put aside a message whose body cannot be read."""
        message.refused = described(exc)
        super().on_decode_error(message, exc)

    def run_what_is_due(self) -> None:
        """Acknowledge what threads have left to the event loop, after its end."""
        for due in self.hub._pop_ready() if self.hub is not None else ():
            guarded(due)
        self.perform_pending_operations()

    def apply_eta_task(self, task: Any) -> None:
        """Begin a task whose ETA has come here, or offer it to all workers."""
        self.due_tasks.add(task)

    def begin_due(self, request: Any) -> None:
        """Begin a task whose ETA has come, as Celery does."""
        super().apply_eta_task(request)

    def send_events_of_held_tasks(self) -> None:
        """Have tasks that wait for their ETA or a rate limit send their events on the new connection."""
        limited = [
            request for bucket in self.task_buckets.values() if bucket for request, _ in list(bucket.contents)
        ]
        for request in [*state.requests.values(), *limited]:
            request.eventer = self.event_dispatcher

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Keep the requests: their messages are still recorded as this worker's."""
        self._connection_lost = True
        super().on_connection_error_after_connected(exc)
        self.producers.begin_anew()
        if isinstance(exc, Refused):
            # Nothing else holds the next try up: the server answers.
            sleep(RECONNECT_SECONDS)

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Keep the requests here as well: the connection may be the second one."""
        self._connection_lost = True
        super().on_connection_error_before_connected(exc)

    def on_close(self) -> None:
        """Drop what was not begun when the worker ends, not when a connection does."""
        if self._connection_lost:
            self._connection_lost = False
            if self.pipes is not None:
                self.pipes.watch_again()
        else:
            self.end_soon()
            keep_handed_over(self.pool)
            super().on_close()

    def end_soon(self) -> None:
        """Wait for no farewell to a broker that is away."""
        if self._ends or not self.ledger.sessions:
            return
        self._ends = True
        if not answers(self.ledger.client.ping):
            self.away_since = monotonic()
            hurry((self.connection, getattr(self.event_dispatcher, "connection", None)))

    def shutdown(self) -> None:
        """End, at last; a worker that was still connecting comes here at once."""
        self.end_soon()
        super().shutdown()

    def finish(self) -> None:
        """Tell what became of tasks, in bounded time, and hear what threads have left to the event loop."""
        self.ledger.outcomes.finish()
        self.run_what_is_due()
        # Until here running tasks needed the lease; a heartbeat may have been heard meanwhile.
        if self.away_since is not None and self.ledger.renewed < self.away_since:
            hurry_pool(self.ledger.client.connection_pool)


def with_ledger(base: type) -> type:
    """Return a class of consumers that is ours above another one, whose methods run as well.

    Raises:
        TypeError: That one is no consumer of Celery's.
    """
    if not issubclass(base, CeleryConsumer):
        raise TypeError(f"worker_consumer={base!r} is wrong: it is not a subclass of Celery's consumer")
    if issubclass(base, Consumer):
        return base
    return type(base.__name__, (Consumer, base), {"__module__": base.__module__, "__doc__": base.__doc__})


def keep_handed_over(pool: Any) -> None:
    """Have the pool wait for tasks that a process was given, though it has not said yet that it began them.

    Celery forgets them when it stops. The process still runs them; no one learns of it, the messages
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
        forget_request(arguments[0])
        raise InvalidTaskError(str(error)) from error
