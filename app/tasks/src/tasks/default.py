"""Tasks of the queue `default`: small ones, to see that all works and how it looks when it does not."""

from __future__ import annotations

from typing import Any

from tasks.base import RecordedTask
from tasks.celery import app
from tasks.executions import traced


class DemandedError(Exception):
    """The error of `fail`."""


@app.task(bind=True)
def echo(self: RecordedTask, value: Any = None, trace_key: str | None = None) -> Any:
    """Return the value; costs next to nothing."""
    with traced(trace_key, self.request.id):
        return value


@app.task
def fail(message: str = "failed on demand", **details: Any) -> None:  # noqa: ARG001  they show in the record
    """Fail with this message; the details serve to see how a record shows them."""
    raise DemandedError(message)
