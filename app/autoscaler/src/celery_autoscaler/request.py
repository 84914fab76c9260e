"""Celery's request, where it has to know of the channel: each task of the worker names it as its own."""

import os
from time import sleep, time
from typing import Any

from billiard.einfo import ExceptionWithTraceback
from billiard.exceptions import Terminated
from celery.exceptions import Ignore, Reject, Retry, TaskRevokedError
from celery.worker import state
from celery.worker.request import Request as CeleryRequest
from kombu.utils.compat import detect_environment

from celery_autoscaler.ledger import Ledger
from celery_autoscaler.task_counts import PUBLISHED

# Seconds between looks of a worker that has to know whether its lease lives.
UNCERTAIN = 0.2
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
