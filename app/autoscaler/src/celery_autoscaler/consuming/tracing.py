"""Run a task in a pool of this process, so that whatever its tracer raises is heard of.

Celery's tracer runs the task and then sends what follows it: its callbacks, its chain, its chord. If one of
these is no signature, the tracer itself may raise. A pool of processes tells the worker; threads and
greenlets keep the exception to themselves, and the task would be held for the life of the worker.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from billiard.einfo import ExceptionInfo
from celery import current_app
from celery.app.trace import fast_trace_task, trace_task_ret
from celery.concurrency.prefork import TaskPool as Processes

Traced = tuple[int, Any, float]


def tracer(pool: Any, app: Any = None) -> Callable[..., Traced] | None:
    """Return what runs the tasks of a pool; nothing where Celery's own is right."""
    if isinstance(pool, Processes):
        return None
    app = app or current_app
    return partial(trace, fast_trace_task if app.use_fast_trace_task else trace_task_ret)


def trace(run: Callable[..., Traced], *arguments: Any, **options: Any) -> Traced:
    """Run a task; return a failure where the tracer raises: whether it failed, with what, its seconds."""
    try:
        return run(*arguments, **options)
    except Exception:  # noqa: BLE001 - the request reports it as it does a failure of the task
        return 1, ExceptionInfo(), 0.0
