"""The base class of all tasks."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from billiard.einfo import ExceptionInfo
from celery import Task

from tasks import records, store

recorder = records.Recorder()


# Celery before 5.7 has no type arguments.
class RecordedTask(Task):  # type: ignore[type-arg]
    """A task whose outcome is recorded in Redis: the last 1000 failures and the last 1000 successes.

    A record is a JSON object: `id`, `name`, `args`, `kwargs`, `result` (or `error`), `time` of its end (ISO
    8601, UTC), `runtime` in seconds, `queue`. A task that is retried, or whose worker process died, has not
    ended yet; one over its hard time limit is recorded by the worker, without queue and run time.
    """

    abstract = True

    def on_success(self, retval: Any, task_id: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Record the result."""
        self._record(store.SUCCESSES, task_id, args, kwargs, result=records.presentable(retval))

    def on_failure(
        self,
        exc: Exception,
        task_id: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        einfo: ExceptionInfo,  # noqa: ARG002  Celery's signature
    ) -> None:
        """Record the error."""
        self._record(store.FAILURES, task_id, args, kwargs, error=records.cut(records.safe_repr(exc)))

    def _record(
        self, key: str, task_id: str, args: Sequence[Any], kwargs: Mapping[str, Any], **outcome: Any
    ) -> None:
        began = self.request.get("began")
        record = {
            "id": task_id,
            "name": self.name,
            "args": records.presentable(self._masked(args)),
            "kwargs": records.presentable(kwargs),
            **outcome,
            "time": datetime.now(UTC).isoformat(),
            "runtime": None if began is None else round(time.monotonic() - began, 6),
            "queue": (self.request.delivery_info or {}).get("routing_key"),
        }
        recorder.write(key, record)

    def _masked(self, args: Sequence[Any]) -> list[Any]:
        """Mask the arguments that were given by position to a parameter with a secret's name."""
        names = [*inspect.signature(self.run).parameters][: len(args)]
        names += [""] * (len(args) - len(names))
        return [
            records.MASK if records.is_secret(name) else value
            for name, value in zip(names, args, strict=True)
        ]
