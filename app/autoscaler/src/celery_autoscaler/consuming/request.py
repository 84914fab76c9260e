"""Celery's request, where it has to know of the channel.

Celery makes a class of its own for the requests of each task, from the class that the task names
(``Task.Request``). :func:`with_ledger` puts ours above that class, whichever it is: a task of a base class of
its own, one with a request of its own, one of a library. Whatever ours adds has a name that begins with
``fleet``, so that a class of the app's may use all other names.
"""

import functools
import logging
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from time import sleep, time
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import Terminated, TimeLimitExceeded, WorkerLostError
from celery.concurrency.solo import TaskPool as SoloPool
from celery.exceptions import Ignore, InvalidTaskError, Reject, Retry, TaskRevokedError, WorkerTerminate
from celery.utils.imports import symbol_by_name
from celery.worker import request as celery_request
from celery.worker import state, strategy
from celery.worker.request import Request as CeleryRequest
from kombu.exceptions import OperationalError
from kombu.utils.compat import detect_environment

from celery_autoscaler.consuming import versions
from celery_autoscaler.consuming.delivery import refuse
from celery_autoscaler.consuming.ledger import Ledger
from celery_autoscaler.consuming.outcomes import Outcome, guarded, nothing
from celery_autoscaler.consuming.tracing import tracer
from celery_autoscaler.protocol.tallies import published_at

logger = logging.getLogger(__name__)

# Seconds between looks of a worker that has to know whether its lease lives.
UNCERTAIN_SECONDS = 0.2
# Seconds that a time limit may have: a century.
LONGEST_LIMIT_SECONDS = 3.2e9
# What a task raises that does not fail.
OUTCOMES = ((Reject, "rejected"), (Ignore, "ignored"), (Retry, "retried"))


def counting(count: Callable[..., None]) -> Callable[..., None]:
    """Return what counts something and never keeps a task from being settled, whatever is to be counted."""

    @functools.wraps(count)
    def counted(*arguments: Any) -> None:
        try:
            count(*arguments)
        except Exception as error:  # noqa: BLE001 - whatever headers of the app's say
            logger.debug("Not counted: %r", error)

    return counted


class Request(versions.Request):  # type: ignore[misc]
    """A request that reports to the channel when its message comes back, counted, because something died."""

    _already_revoked: bool
    _already_cancelled: bool

    fleet_is_solo = False
    """Whether the task runs in the event loop."""
    fleet_runtime: float | None = None
    """Seconds that the task took, as its process measured them."""

    fleet_was_due = False
    """Whether the ETA of the task had passed when its message came."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Count successes: Celery makes a class for each task, whose `on_success` calls no other."""
        super().__init_subclass__(**options)
        if "on_success" in vars(cls):
            cls.on_success = counting_successes(cls.on_success)
        if "execute_using_pool" in vars(cls):
            cls.execute_using_pool = refusing_what_fails(cls.execute_using_pool)

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        check_id(self.id)
        check_name(self.name)
        check_limits(self.time_limits)
        if self._eta is not None:
            due = self.fleet_due
            self.fleet_was_due = due is not None and due <= time()

    @property
    def eta(self) -> datetime | None:
        """The ETA; none if it had passed when the message came, so that the task is one like any other.

        Celery would make room in the prefetch count for it, and so take all that is due.
        """
        return None if self.fleet_was_due else self._eta

    @property
    def fleet_due(self) -> float | None:
        """The ETA in seconds of the epoch, if there is one within it."""
        with suppress(AttributeError, OverflowError, ValueError):
            due = float(self._eta.timestamp())
            return due if due > 0 else None
        return None

    def revoked(self) -> bool:
        """Whether the task must not begin now: revoked by somebody, or not surely this worker's.

        Celery also asks when the message arrives; that task does not begin yet.
        """
        ledger = self.fleet_ledger
        if ledger is None:
            return bool(super().revoked())
        if ledger.silent and not ledger.fenced and self in state.reserved_requests:
            if ledger.postpone is not None:
                ledger.postpone(self)
                return True
            if is_lost(ledger):
                return True
        return ledger.fenced or bool(super().revoked())

    def reject(self, requeue: bool = False) -> None:
        """Put a message aside that is given up before its task began: its ETA may be no moment."""
        if not requeue and self.time_start is None:
            why = f": its ETA is {self.eta}" if self.eta is not None else ""
            self._message.refused = f"it was rejected before it began{why}"
        super().reject(requeue)

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        """Look once more where tasks wait within the pool: pools of threads or greenlets queue what they get.

        Raises:
            TaskRevokedError: In the thread that would have begun the task.
        """
        ledger = self.fleet_ledger
        in_this_process = pid == os.getpid() or detect_environment() != "default"
        if ledger is not None and in_this_process and is_lost(ledger):
            raise TaskRevokedError(self.id)
        try:
            super().on_accepted(pid, time_accepted)
        except Exception:
            # The pool would hide it. The task still runs.
            logger.exception("The start of task %s cannot be stored", self.id)
            if not self.task.acks_late:
                self.acknowledge()
        if self.fleet_is_solo and not self.task.acks_late and ledger is not None:
            # The acknowledgement waits for the event loop, and that for the task.
            ledger.settle(self._message.delivery_tag)
        self.fleet_count_wait()

    def on_failure(self, exc_info: Any, *arguments: Any, **options: Any) -> None:
        """Note why the message may go back, unless the task itself asked for it, and count the failure."""
        exc = exc_info.exception
        if isinstance(exc, ExceptionWithTraceback):
            exc = exc.exc
        if isinstance(exc, Reject):
            # A retry, or the next task of a chain, that could not be sent: the broker is away.
            exc.requeue = exc.requeue or isinstance(exc.reason, OperationalError)  # type: ignore[attr-defined]
        else:
            self._message.died = f"{type(exc).__name__}: {exc}"
        outcome = next((word for kind, word in OUTCOMES if isinstance(exc, kind)), "failed")
        if self.fleet_ledger is not None and outcome == "failed":
            self.fleet_ledger.failed += 1
        # One that is terminated is announced as revoked.
        if not isinstance(exc, Terminated):
            self.fleet_count(outcome)
        tell = functools.partial(super().on_failure, exc_info, *arguments, **options)
        return_ok = options.get("return_ok", arguments[1] if len(arguments) > 1 else False)
        # A child that lives has told it itself.
        if return_ok and not (isinstance(exc, Reject) and not vars(exc).get("requeue")):
            if outcome == "failed":
                self.fleet_note_failure(exc, exc_info)
            self.fleet_outcome(tell).run()
        else:
            lost = isinstance(exc, WorkerLostError | SystemExit | KeyboardInterrupt)
            again = self.task.reject_on_worker_lost if lost else self.fleet_again_after(exc)
            if outcome == "failed" and not (again or (lost and versions.retries_after_loss(self))):
                self.fleet_note_failure(exc, None)
            self.fleet_tell(tell, again=again or self._already_cancelled)

    def _success_was_stored(self) -> Any:
        """Whether a process that died had stored that the task succeeded, and nothing is left to do.

        It stores that first, and then counts the task of a chord's header: without the count the body is
        never sent. Such a task runs again, where the app wants lost tasks to.
        """
        embed = self._payload[2]
        in_chord = isinstance(embed, dict) and embed.get("chord")
        if in_chord and self.task.acks_late and self.task.reject_on_worker_lost:
            return False
        return super()._success_was_stored()

    def fleet_again_after(self, exc: BaseException) -> bool:
        """Whether a task that a limit ended is to run again."""
        return isinstance(exc, TimeLimitExceeded) and not versions.acks_on_timeout(self.task)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Tell of a task that ran into its hard time limit, without waiting for it."""
        tell = functools.partial(super().on_timeout, soft=soft, timeout=timeout)
        if soft:
            tell()
        else:
            self.fleet_tell(tell, again=not versions.acks_on_timeout(self.task))

    def _announce_revoked(self, *arguments: Any, **options: Any) -> None:
        if not self._already_revoked:
            self.fleet_count("revoked")
        self._already_revoked = True
        # One that has not begun may as well be discarded by the next worker.
        tell = functools.partial(super()._announce_revoked, *arguments, **options)
        self.fleet_tell(tell, again=self.time_start is None)

    def cancel(self, pool: Any, *arguments: Any, **options: Any) -> None:
        """Stop the running task at the end of a worker that may wait for it no longer.

        Its message is to go back. Pools of one process cannot stop a task, but for gevent, which calls one
        that it has stopped a success; see `counting_successes`. A thread's task runs until the process ends.
        The solo pool's is the one that the signal has interrupted.

        Raises:
            WorkerTerminate: Ends the worker out of the task of a solo pool.
        """
        self._already_cancelled = True
        try:
            super().cancel(pool, *arguments, **options)
        except NotImplementedError:
            if isinstance(pool, SoloPool):
                raise WorkerTerminate(os.EX_TEMPFAIL) from None

    def _announce_cancelled(self, *arguments: Any, **options: Any) -> None:
        self._already_cancelled = True
        self.fleet_tell(functools.partial(super()._announce_cancelled, *arguments, **options), again=True)

    def fleet_outcome(self, tell: Callable[[], Any], *, again: bool = False) -> Outcome:
        """Return what became of the task; `again` if its message goes back when the worker ends before."""
        settle = self.fleet_settle
        return Outcome(tell, settle, nothing if again else settle, f"task {self.name!r}[{self.id!r}]")

    def fleet_tell(self, tell: Callable[[], Any], *, again: bool) -> None:
        """Tell what became of the task where that holds up nothing; it takes no room meanwhile."""
        outcome = self.fleet_outcome(tell, again=again)
        ledger = self.fleet_ledger
        if ledger is None:
            outcome.run()
            return
        state.task_ready(self)
        ledger.make_room(self._message.delivery_tag)
        ledger.outcomes.add(outcome)

    def fleet_settle(self) -> None:
        """Settle the message of a task that has ended, as Celery documents, if that has not been done."""
        task = self.task
        if not self.acknowledged:
            if self.time_start is not None and task.acks_late and not versions.acks_on_failure(task):
                self.reject(requeue=False)
            else:
                self.acknowledge()

    @counting
    def fleet_count_wait(self) -> None:
        """Count how long the task has waited since it was published, or since its ETA."""
        published = published_at(self._message.headers)
        if self.fleet_ledger is not None and published is not None and self.time_start is not None:
            due = max(published, self.fleet_due or 0.0)
            self.fleet_ledger.task_counts.began(self.fleet_kind, max(0.0, self.time_start - due))

    @counting
    def fleet_count(self, outcome: str) -> None:
        """Count how the task ended, and how long it took if it began."""
        if self.fleet_ledger is not None:
            runtime = self.fleet_runtime
            if runtime is None and self.time_start is not None:
                runtime = time() - self.time_start
            self.fleet_ledger.task_counts.ended(self.fleet_kind, outcome, runtime)

    @counting
    def fleet_note_failure(self, exc: BaseException, exc_info: Any) -> None:
        """Note that the task failed and does not run again, unless somebody stopped it.

        Args:
            exc: Why.
            exc_info: Where; nothing if its process could not tell.
        """
        stopped = isinstance(exc, Terminated) or self._already_cancelled or self._already_revoked
        if self.fleet_ledger is not None and not stopped:
            self.fleet_ledger.failures.add(self, exc, exc_info)

    @property
    def fleet_kind(self) -> tuple[str, str]:
        """The name of the task and its queue."""
        return self.name, self._message.delivery_info.get("queue", "")

    @property
    def fleet_ledger(self) -> Ledger | None:
        """What the worker holds, if the message came through its channel."""
        return getattr(self._message.channel, "ledger", None)


def check_id(task_id: Any) -> None:
    """Refuse an id under which no result can be stored and no task be found.

    Raises:
        InvalidTaskError: It is one.
    """
    try:
        str(task_id).encode()
        hash(task_id)
    except (TypeError, ValueError) as error:
        raise InvalidTaskError(f"its id cannot be used: {error}") from error


def check_name(name: Any) -> None:
    """Refuse a name that cannot be counted: a header `shadow` may be anything.

    Raises:
        InvalidTaskError: It is no text.
    """
    if not isinstance(name, str):
        raise InvalidTaskError("its name is not a text")


def check_limits(limits: Any) -> None:
    """Refuse time limits that no timer understands: Celery looks at them when the task has begun.

    Raises:
        InvalidTaskError: They are no pair of seconds, each of which may be nothing.
    """
    if not isinstance(limits, list | tuple) or len(limits) != 2:
        raise InvalidTaskError("its time limits are not a pair")
    for limit in limits:
        if limit is not None and not (isinstance(limit, int | float) and 0 <= limit < LONGEST_LIMIT_SECONDS):
            raise InvalidTaskError("a time limit is not a number of seconds")


def is_lost(ledger: Ledger) -> bool:
    """Whether the worker's messages were given to others.

    A worker that was silent for as long as its lease, frozen or cut off, waits for its next heartbeat before
    it begins anything. While that is unknown, nothing begins.
    """
    while ledger.silent and not ledger.fenced:
        if state.should_stop is not None or state.should_terminate is not None:
            return True
        sleep(UNCERTAIN_SECONDS)
    return ledger.fenced


def counting_successes(succeed: Any) -> Any:
    """Return the handler of a task's end that counts it if it is a success."""

    @functools.wraps(succeed)
    def on_success(self: Request, result: tuple[bool, Any, float], **options: Any) -> Any:
        failed, _, runtime = result
        if runtime is None and self._already_cancelled:
            return None
        # A handler may call that of its base class.
        if self.fleet_runtime is None:
            self.fleet_runtime = runtime
            if not failed:
                self.fleet_count("succeeded")
        try:
            return succeed(self, result, **options)
        except Exception:
            if failed:
                raise
            logger.exception("The success of task %s cannot be stored", self.id)
            guarded(self.fleet_settle)

    return on_success


def refusing_what_fails(execute: Any) -> Any:
    """Return the step that hands a task to the pool, so that one that the pool cannot take costs only itself.

    Celery calls it from timers and from other tasks' ends as well, and frees the slot if it says that the
    task is revoked.
    """

    @functools.wraps(execute)
    def execute_using_pool(self: Request, pool: Any, **options: Any) -> Any:
        self.fleet_is_solo = isinstance(pool, SoloPool)
        try:
            return execute(self, pool, **options)
        except TaskRevokedError:
            raise
        except Exception as error:
            if self.fleet_ledger is None:
                raise
            forget_job(pool, self.id)
            refuse(self.fleet_ledger, self._message.delivery_tag, error)
            raise TaskRevokedError(self.id) from error

    return execute_using_pool


def forget_job(pool: Any, task_id: Any) -> None:
    """Let a prefork pool forget a task that could not be packed: it would wait for it when it ends."""
    jobs: dict[Any, Any] = getattr(getattr(pool, "_pool", None), "_cache", {})
    for number, job in list(jobs.items()):
        if job.correlation_id == task_id and not hasattr(job, "_payload"):
            del jobs[number]


@functools.cache
def with_ledger(base: Any) -> Any:
    """Return a class of requests that is ours above another one, whose methods run as well."""
    if not isinstance(base, type) or not issubclass(base, CeleryRequest):
        logger.warning(
            "%r is not a subclass of Celery's Request: "
            "its tasks are neither counted nor put aside as dead letters",
            base,
        )
        return base
    if issubclass(base, Request):
        return base
    return type(base.__name__, (Request, base), {"__module__": base.__module__, "__doc__": base.__doc__})


def adopt(tasks: Iterable[Any]) -> None:
    """Have each of the tasks, however it was defined, name a class of requests that is ours."""
    for task in tasks:
        request_class = with_ledger(symbol_by_name(task.Request))
        # A task may compute its class; see `adopt_strategies`.
        with suppress(AttributeError):
            task.Request = request_class


def adopt_strategies() -> None:
    """Have strategies that ask no task for its class of requests get ours as well."""
    create = celery_request.create_request_cls
    if getattr(create, "__module__", "") == __name__:
        return

    @functools.wraps(create, assigned=("__doc__", "__name__"))
    def create_request_cls(base: type, task: Any, pool: Any, *arguments: Any, **options: Any) -> Any:
        options.setdefault("trace", tracer(pool, options.get("app")))
        return create(with_ledger(base), task, pool, *arguments, **options)

    celery_request.create_request_cls = strategy.create_request_cls = create_request_cls
