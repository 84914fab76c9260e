"""What differs between the versions of Celery, kombu and redis-py that a worker may have.

Workers run with Celery 5.4 to 5.7, each with every kombu and redis-py (5.0 and later) that it allows. The
rest of this package is written for the newest; here is what it finds there and not in the older ones. Each
bridge says why it is there and which version makes it needless. All are chosen once, at import.
"""

import contextlib
import logging
import select
from collections.abc import Callable
from functools import partial
from importlib import import_module
from time import monotonic, sleep
from types import SimpleNamespace
from typing import Any
from weakref import WeakSet

import celery
import kombu
from billiard.common import human_status
from billiard.einfo import ExceptionInfo, ExceptionWithTraceback
from billiard.exceptions import TimeLimitExceeded, WorkerLostError
from celery.app.utils import Settings
from celery.utils import threads
from celery.worker import state
from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.request import Request as CeleryRequest
from kombu.transport import redis
from kombu.utils.encoding import bytes_to_str

logger = logging.getLogger(__name__)

CELERY: tuple[int, int] = celery.VERSION[:2]
KOMBU: tuple[int, int] = kombu.VERSION[:2]
# Where brokers are asked whether connections live, unless the app says how often (kombu's own default).
HEALTH_CHECK_SECONDS = 25
# Unanswered questions after which a connection that hears broadcasts is given up.
MISSED_HEALTH_CHECKS = 2


# --- Settings (Celery) -------------------------------------------------------------------------------------


def _value_set_for(conf: Any, name: str) -> bool:
    """Whether the app sets a setting.

    Before 5.7 Celery did not find one that was set before the settings were first read, or in a namespace.
    """
    conf.finalize()
    return name in Settings({}, conf.maps[:-1], conf._keys, conf.prefix)


def _asked_value_set_for(conf: Any, name: str) -> bool:
    return bool(conf.value_set_for(name))


value_set_for = _value_set_for if CELERY < (5, 7) else _asked_value_set_for

# --- Connections (kombu) -----------------------------------------------------------------------------------


class _Channel(redis.Channel):  # type: ignore[misc]
    """kombu's channel before 5.7."""

    # When what is awaited was asked for: see `_Poller.maybe_check_brpop_health`.
    _brpop_sent_at: float | None = None

    def _flush_brpop_reauth(self) -> None:
        """Do nothing: credentials that change while a connection lives come with kombu 5.7."""

    def _deliver_fanout_message(self, message: Any, exchange: str) -> None:
        """Deliver a broadcast; kombu 5.7 made it a method of its own."""
        self.connection._deliver(message, self._fanout_to_queue[exchange])

    def _handle_message(self, client: Any, response: Any) -> dict[str, Any]:
        """Understand what comes on the connection for broadcasts, the end of a subscription as well."""
        kind = bytes_to_str(response[0])
        if kind in ("unsubscribe", "punsubscribe"):
            client.handle_message(response)
            return {"type": response[0], "pattern": None, "channel": response[1], "data": None}
        understood: dict[str, Any] = super()._handle_message(client, response)
        return understood


class _Poller(redis.MultiChannelPoller):  # type: ignore[misc]
    """kombu's poller before 5.7.

    It notices no half-open connection, takes no event of a connection that is gone, and without an event loop
    it does not begin each wait with `on_poll_start`.
    """

    def on_readable(self, fileno: int) -> None:
        """Ignore an event of a connection that was lost meanwhile."""
        if fileno in self._fd_to_chan:
            super().on_readable(fileno)

    def handle_event(self, fileno: int, event: int) -> Any:
        """Ignore an event of a connection that was lost meanwhile."""
        return super().handle_event(fileno, event) if fileno in self._fd_to_chan else None

    def get(self, callback: Any, timeout: float | None = None) -> None:
        """Wait for an event.

        Raises:
            Empty: There was none.
        """
        self.on_poll_start()
        try:
            super().get(callback, timeout)
        except redis.Empty:
            self.maybe_check_brpop_health()
            raise

    def maybe_check_subclient_health(self) -> None:
        """Ask whether the connections for broadcasts live; give up those that do not answer."""
        for channel in self._channels:
            client = vars(channel).get("subclient")
            if client is None or not callable(getattr(client, "check_health", None)):
                continue
            if getattr(client, "health_check_response_counter", 0) >= MISSED_HEALTH_CHECKS:
                logger.warning("Redis answers no more on the connection for broadcasts: it is replaced")
                client.health_check_response_counter = 0
                if client.connection is not None:
                    client.connection.disconnect()
                continue
            try:
                client.check_health()
            except channel.connection_errors:
                logger.debug("The connection for broadcasts is lost", exc_info=True)
                return

    def maybe_check_brpop_health(self) -> None:
        """Give up connections on which an answer is overdue: a half-open one never becomes readable."""
        for channel in self._channels:
            connection, sent = channel._in_poll, channel._brpop_sent_at
            if not connection or sent is None or not channel.health_check_interval:
                continue
            waited = monotonic() - sent
            if waited < getattr(channel, "brpop_timeout", 1) + channel.health_check_interval:
                continue
            if connection._sock is None or _is_readable(connection._sock):
                continue
            logger.warning("Redis has not answered for %.0f s: the connection is replaced", waited)
            connection.disconnect()

    def on_loop_disconnect(self, loop: Any, connection: Any) -> None:
        """Let the event loop forget one connection.

        Before kombu 5.7 it forgot the poller with it, so that nothing was ever fetched again on a connection
        that was replaced without an error.
        """
        gone = set()
        for key in list(self._chan_to_sock):
            channel, client, kind = key
            if client.connection is connection:
                del self._chan_to_sock[key]
                gone.add((channel, kind))
        for fileno, channel_and_kind in list(self._fd_to_chan.items()):
            if channel_and_kind in gone:
                loop.remove(fileno)
                del self._fd_to_chan[fileno]


class _Transport(redis.Transport):  # type: ignore[misc]
    """kombu's transport before 5.7: see the poller."""

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Have the event loop ask whether connections live, and forget one at a time."""
        super().register_with_event_loop(connection, loop)
        cycle = self.cycle
        cycle._on_connection_disconnect = lambda lost: cycle.on_loop_disconnect(loop, lost)
        interval = connection.client.transport_options.get("health_check_interval", HEALTH_CHECK_SECONDS)
        loop.call_repeatedly(interval, cycle.maybe_check_brpop_health)


def _is_readable(sock: Any) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


Channel: Any = _Channel if KOMBU < (5, 7) else redis.Channel
Poller: Any = _Poller if KOMBU < (5, 7) else redis.MultiChannelPoller
Transport: Any = _Transport if KOMBU < (5, 7) else redis.Transport


def _bound_open_broker_sockets(connection: Any, seconds: float) -> None:
    """Let nothing on the open sockets of a connection wait for longer; comes with Celery 5.7."""
    for channel in list(getattr(connection.transport, "channels", None) or ()):
        for name in ("client", "subclient"):
            sock = getattr(getattr(vars(channel).get(name), "connection", None), "_sock", None)
            if sock is not None:
                with contextlib.suppress(OSError):
                    sock.settimeout(seconds)


bound_open_broker_sockets: Callable[[Any, float], None] = getattr(
    threads, "bound_open_broker_sockets", _bound_open_broker_sockets
)


# --- Consumers (Celery) ------------------------------------------------------------------------------------

# Requests that wait for their ETA. Celery knows them since 5.7; before, only a timer did.
scheduled_requests: Any = getattr(state, "scheduled_requests", None)
if scheduled_requests is None:
    scheduled_requests = WeakSet()


class _Consumer(CeleryConsumer):  # type: ignore[misc]
    """Celery's consumer before 5.7."""

    # Entries of the timer before the connection was made, and those that belong to the connection.
    _timers_before: frozenset[Any] = frozenset()
    _timers_of_connection: frozenset[Any] | None = None
    timer: Any

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if self.hub is not None:
            # 5.6 clears all timers when the connection is lost: ETAs and time limits of tasks among them.
            self.hub.timer.clear = self._cancel_timers_of_connection

    def update_strategies(self) -> None:
        """Have strategies note what they schedule."""
        timer, self.timer = self.timer, _note_scheduled(self.timer)
        try:
            super().update_strategies()
        finally:
            self.timer = timer

    def apply_eta_task(self, task: Any) -> None:
        """Begin a task whose ETA has come."""
        scheduled_requests.discard(task)
        super().apply_eta_task(task)

    def _limit_move_to_pool(self, request: Any) -> None:
        scheduled_requests.discard(request)
        super()._limit_move_to_pool(request)

    def call_soon(self, p: Any, *arguments: Any, **options: Any) -> Any:
        """Settle at once where there is no event loop.

        Before 5.7 that waited until the next message came, and a task that had ended ran again if its worker
        was killed meanwhile.
        """
        if self.hub is None and getattr(p, "__name__", "") in ("ack_log_error", "reject_log_error"):
            try:
                p(*arguments, **options)
            except Exception:
                logger.exception("A message cannot be settled")
            return p
        return super().call_soon(p, *arguments, **options)

    def connect(self) -> Any:
        """Connect; whatever the timer gets from now on belongs to the connection."""
        self._timers_before = self._timers()
        self._timers_of_connection = None
        return super().connect()

    def register_with_event_loop(self, hub: Any) -> None:
        """Take note of what the connection has put into the timer."""
        super().register_with_event_loop(hub)
        self._timers_of_connection = self._timers() - self._timers_before

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Forget the timers of the connection: the next one adds its own. Celery does so since 5.7."""
        self._cancel_timers_of_connection()
        super().on_connection_error_after_connected(exc)

    def on_connection_error_before_connected(self, exc: Exception) -> None:
        """Forget the timers here as well."""
        self._cancel_timers_of_connection()
        super().on_connection_error_before_connected(exc)

    def _timers(self) -> frozenset[Any]:
        return frozenset(item.entry for item in self.hub.timer.queue) if self.hub is not None else frozenset()

    def _cancel_timers_of_connection(self) -> None:
        entries = self._timers_of_connection
        if entries is None:
            entries = self._timers() - self._timers_before
        self._timers_of_connection = frozenset()
        for entry in entries:
            entry.cancel()

    def on_close(self) -> None:
        """Drop what was not begun.

        Before 5.7 the tasks that run were dropped with it, and the scheduled ones not; before 5.6 the time
        limits of those that run as well.
        """
        executor = getattr(self.pool, "executor", None)
        if executor is not None:
            # Before 5.7 a pool of threads ran whatever it had taken before it stopped.
            executor.shutdown(wait=False, cancel_futures=True)
        dropped = [one for one in list(state.reserved_requests) if one not in state.active_requests]
        timer, self.timer = self.timer, None
        try:
            super().on_close()
        finally:
            self.timer = timer
        for request in list(scheduled_requests):
            timer.cancel(request.fleet_timer_entry)
        for request in [*dropped, *scheduled_requests]:
            state.requests.pop(request.id, None)
        scheduled_requests.clear()
        state.reserved_requests.update(state.active_requests)


def _note_scheduled(timer: Any) -> Any:
    """Return the part of a timer that strategies use, which notes each request that waits for its ETA."""

    def call_at(eta: float, begin: Callable[..., None], arguments: tuple[Any, ...], priority: int) -> Any:
        request = arguments[0]
        request.fleet_timer_entry = timer.call_at(eta, begin, arguments, priority=priority)
        scheduled_requests.add(request)
        return request.fleet_timer_entry

    return SimpleNamespace(call_at=call_at)


Consumer: Any = _Consumer if CELERY < (5, 7) else CeleryConsumer


def adopt_worker(worker: Any) -> None:
    """Have a worker that is to end at once wait for what runs, and then give it back, as since Celery 5.5.

    Before, it did not wait, and one whose tasks run in its main loop did not end.
    """
    if CELERY >= (5, 5):
        return
    worker.wait_for_soft_shutdown = partial(_wait_for_soft_shutdown, worker)
    program: Any = import_module("celery.apps.worker")
    cold = partial(program._shutdown_handler, how="Cold", callback=_end_at_once, exitcode=program.EX_FAILURE)
    program.install_worker_term_hard_handler = partial(cold, sig="SIGQUIT")
    if program.REMAP_SIGTERM == "SIGQUIT":
        program.install_worker_term_handler = partial(cold, sig="SIGTERM")


def _wait_for_soft_shutdown(worker: Any) -> None:
    seconds = worker.app.conf.worker_soft_shutdown_timeout
    if seconds > 0 and list(state.active_requests):
        logger.warning("Initiating Soft Shutdown, terminating in %s seconds", seconds)
        sleep(seconds)


def _end_at_once(worker: Any) -> None:
    worker.wait_for_soft_shutdown()
    consumer = worker.consumer
    if consumer.task_consumer:
        consumer.task_consumer.cancel()
    for request in list(state.active_requests):
        settled = request.acknowledged or request.id in state.successful_requests
        if not (request.task.acks_late and settled):
            request.cancel(consumer.pool)
    state.should_terminate = True
    if consumer.pool:
        consumer.pool.stop()


# --- Requests (Celery) -------------------------------------------------------------------------------------


class _Request(CeleryRequest):  # type: ignore[misc]
    """Celery's request before 5.7."""

    _already_revoked: bool
    _already_cancelled: bool

    def on_failure(self, exc_info: Any, *arguments: Any, **options: Any) -> None:
        """Handle the end of a child process, and of a task at its hard time limit, as Celery 5.7 does."""
        exc = exc_info.exception
        if isinstance(exc, ExceptionWithTraceback):
            exc = exc.exc
        if isinstance(exc, SystemExit | KeyboardInterrupt):
            # billiard reports since 4.3 how a process ends, instead of its loss. To Celery before 5.7 that
            # is a task that failed: its message is settled.
            if self._already_cancelled or self._already_revoked:
                return
            exc_info = worker_lost(exc)
        elif CELERY < (5, 5) and isinstance(exc, TimeLimitExceeded) and self.fleet_again_at_limit:
            # Before 5.5 its message was deleted.
            state.task_ready(self)
            self.reject(requeue=True)
            return
        super().on_failure(exc_info, *arguments, **options)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Give back what ran into its hard time limit, if the app wants it to run again."""
        super().on_timeout(soft, timeout)
        if not soft and self.fleet_again_at_limit:
            self.reject(requeue=True)

    @property
    def fleet_again_at_limit(self) -> bool:
        """Whether a task whose hard time limit ended it is to run again."""
        return bool(self.task.acks_late and not acks_on_timeout(self.task))


def worker_lost(exc: BaseException) -> Any:
    """Return the loss of a child process that ended with an exception."""
    status = type(exc).__name__
    if isinstance(exc, SystemExit):
        code = 0 if exc.code is None else exc.code
        status = human_status(code if isinstance(code, int) else 1)
    try:
        raise WorkerLostError(f"Worker exited prematurely: {status}.")  # noqa: TRY301 - it needs a traceback
    except WorkerLostError:
        return ExceptionInfo()


def retries_after_loss(request: Any) -> bool:
    """Whether Celery sends a retry of a task whose process was lost: an option since 5.7."""
    task = request.task
    if not getattr(task, "retry_on_worker_lost", False):
        return False
    return task.max_retries is None or request._context.retries < task.max_retries


def _acks_on_failure_or_timeout(task: Any) -> bool:
    return bool(task.acks_on_failure_or_timeout)


def _acks_on_failure(task: Any) -> bool:
    return bool(task.acks_on_failure)


def _acks_on_timeout(task: Any) -> bool:
    return bool(task.acks_on_timeout)


Request: Any = _Request if CELERY < (5, 7) else CeleryRequest
# Two options since 5.7.
acks_on_failure = _acks_on_failure_or_timeout if CELERY < (5, 7) else _acks_on_failure
acks_on_timeout = _acks_on_failure_or_timeout if CELERY < (5, 7) else _acks_on_timeout
