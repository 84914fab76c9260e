"""Signals of a worker whose pool is of gevent's greenlets.

An idle worker meets a signal in gevent's hub, where nothing may wait. Celery's handler of SIGQUIT waits for
the soft shutdown: there it failed, whatever the worker was doing failed with it, and the worker went on.
"""

from collections.abc import Callable
from functools import partial
from importlib import import_module
from typing import Any

from celery import platforms
from kombu.utils.compat import detect_environment


class GreenletSignals(platforms.Signals):
    """Has each handler run in a greenlet of its own, which may wait."""

    def __setitem__(self, name: str | int, handler: Any) -> None:
        spawn: Callable[..., Any] = import_module("gevent").spawn
        super().__setitem__(name, partial(spawn, handler) if callable(handler) else handler)


def use_greenlets(worker: Any) -> None:
    """Have a worker's handlers run in greenlets, if its tasks do; while they wait it takes no messages."""
    if detect_environment() != "gevent":
        return
    platforms.signals = GreenletSignals()
    wait: Callable[[], None] = worker.wait_for_soft_shutdown

    def wait_for_soft_shutdown() -> None:
        worker.fleet_ledger.ending = True
        wait()

    worker.wait_for_soft_shutdown = wait_for_soft_shutdown
