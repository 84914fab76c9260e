"""Importing this module makes the Celery worker of this process one that loses nothing.

:mod:`celery_autoscaler.launch` imports it. By hand it is one line in the module of the app::

    import celery_autoscaler.worker
"""

import logging
import math
import os
import time
from importlib import import_module
from typing import Any

from celery.signals import before_task_publish, celeryd_after_setup, worker_init
from celery.utils.imports import symbol_by_name

from celery_autoscaler.consuming import app_settings, children, sending, stretching, supported, versions
from celery_autoscaler.consuming.agent import LEASE_SECONDS, Agent
from celery_autoscaler.consuming.consumer import with_ledger
from celery_autoscaler.consuming.greenlet_signals import use_greenlets
from celery_autoscaler.consuming.ledger import Ledger
from celery_autoscaler.consuming.request import adopt_strategies
from celery_autoscaler.consuming.transport import transport_for
from celery_autoscaler.protocol.identity import WorkerId
from celery_autoscaler.protocol.tallies import PUBLISHED

logger = logging.getLogger(__name__)

LEASE_VARIABLE = "CELERY_APP_LEASE"
# By the module of the pool's class. They say that a task begins before it does.
POOLS = (
    "celery.concurrency.prefork",
    "celery.concurrency.thread",
    "celery.concurrency.solo",
    "celery.concurrency.gevent",
    "celery.concurrency.eventlet",
)


class WrongSettingError(ValueError):
    """The worker cannot be what it is to be; says so in one line."""


@worker_init.connect(weak=False)
def _install(sender: Any, **_: Any) -> None:
    """Give the worker its ledger, and its consumer the class that keeps it.

    All handlers of `celeryd_init` have run, in which an app may change its settings.

    Raises:
        SystemExit: It cannot be. Celery would log any other exception, and run a worker of its own.
    """
    if not isinstance(sender, import_module("celery.apps.worker").Worker):
        # A worker within another process, such as those of Celery's own helpers for tests.
        return
    try:
        sender.fleet_notes = install(sender)
    except WrongSettingError as error:
        raise SystemExit(str(error)) from error
    except Exception as error:
        raise SystemExit(f"the worker cannot be prepared: {error!r}") from error


@celeryd_after_setup.connect(weak=False)
def _log_notes(instance: Any, **_: Any) -> None:
    """Say what is to be said about the worker, now that it has its log and the app its queues."""
    sending.wait_for_broker(instance.app)
    for note in getattr(instance, "fleet_notes", ()):
        logger.warning(note)


def install(worker: Any) -> list[str]:
    """Make a worker that has not begun one that loses nothing; return what its operator ought to know.

    Raises:
        WrongSettingError: A setting has no meaning.
    """
    app = worker.app
    transport = app.connection_for_read().transport_cls
    ledger = Ledger(WorkerId(worker.hostname, f"{time.time_ns():x}").dump(), lease_seconds())
    if transport_for(transport, ledger) is None:
        return [f"The broker is no Redis ({transport}): this is a worker of plain Celery"]
    if (old := supported.too_old()) is not None:
        raise WrongSettingError(old)
    try:
        consumer_class = with_ledger(symbol_by_name(worker.consumer_cls))
    except TypeError as error:
        raise WrongSettingError(str(error)) from error
    worker.fleet_ledger = ledger
    worker.fleet_most_slots = most_slots_of(worker)
    worker.consumer_cls = consumer_class
    app.steps["consumer"].add(Agent)
    children.use_our_backends(app.loader)
    children.adopt(worker)
    versions.adopt_worker(worker)
    use_greenlets(worker)
    return app_settings.prepare(app.conf) + pool_notes(worker) + supported.untested()


def lease_seconds() -> float:
    """Return how long a silent worker keeps its messages: longer where the network is bad.

    Raises:
        WrongSettingError: The environment does not say a number of seconds.
    """
    text = os.environ.get(LEASE_VARIABLE) or str(LEASE_SECONDS)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise WrongSettingError(f"{LEASE_VARIABLE}={text!r} is wrong: allowed is a number of seconds above 0")
    return seconds


def most_slots_of(worker: Any) -> int:
    """Return the slots that a worker may have at most; 0 if it does not stretch.

    Raises:
        WrongSettingError: It cannot, or the environment says no number.
    """
    try:
        most = stretching.most_slots()
    except ValueError as error:
        raise WrongSettingError(str(error)) from error
    pool = import_module("celery.concurrency").get_implementation(worker.pool_cls)
    if why := stretching.why_not(most, worker.concurrency, pool):
        raise WrongSettingError(why)
    return most


def pool_notes(worker: Any) -> list[str]:
    """Return a line about a pool that is none of Celery's."""
    pool = import_module("celery.concurrency").get_implementation(worker.pool_cls)
    if any(base.__module__ in POOLS for base in pool.__mro__):
        return []
    name = f"{pool.__module__}.{pool.__qualname__}"
    return [
        f"{name} is none of Celery's pools: unless it calls accept_callback before a task begins, a worker "
        "that was silent for longer than its lease may run a task that another runs as well"
    ]


@before_task_publish.connect(weak=False)
def _stamp(headers: dict[str, Any], **_: Any) -> None:
    """Have the message say when it was published; a message that is sent again, when it was sent again."""
    headers[PUBLISHED] = time.time()


# For apps that import this module before they define their strategies, which the launcher sees to.
adopt_strategies()
