"""Importing this module makes the Celery worker of this process one that loses nothing.

:mod:`celery_autoscaler.launch` imports it. By hand it is one line in the module of the app::

    import celery_autoscaler.worker
"""

import os
import time
from typing import Any

from celery.signals import before_task_publish, celeryd_init

from celery_autoscaler.agent import LEASE, Agent
from celery_autoscaler.consumer import Consumer
from celery_autoscaler.ledger import Ledger
from celery_autoscaler.parent import SOFT_SHUTDOWN
from celery_autoscaler.request import Request
from celery_autoscaler.task_counts import PUBLISHED

RESULT_RETRIES = {
    "result_backend_always_retry": True,
    "result_backend_base_sleep_between_retries_ms": 500,
    "result_backend_max_sleep_between_retries_ms": 2000,
}
# By the scheme of the URL.
RESULT_BACKENDS = {
    "redis": "celery_autoscaler.results:RedisBackend",
    "rediss": "celery_autoscaler.results:RedisBackend",
    "sentinel": "celery_autoscaler.results:SentinelBackend",
}


@celeryd_init.connect(weak=False)
def _install(sender: str, instance: Any, conf: Any, **_: Any) -> None:
    """Give the worker its ledger before it makes its consumer."""
    # Longer where the network is bad, shorter where a second counts.
    lease = float(os.environ.get("CELERY_APP_LEASE", LEASE))
    ledger = Ledger(f"{sender}:{time.time_ns():x}", lease)
    conf.worker_consumer = type("Consumer", (Consumer,), {"ledger": ledger})
    # What the process holds counts against the prefetch after a lost connection, so nothing is to be reduced.
    conf.worker_enable_prefetch_count_reduction = False
    conf.worker_cancel_long_running_tasks_on_connection_loss = False
    # Running tasks outlive a broker that is away, however long.
    if not conf.value_set_for("broker_connection_max_retries"):
        conf.broker_connection_max_retries = None
    # A task waits for a server of results that is away for a moment. Each try that fails is logged.
    for name, value in RESULT_RETRIES.items():
        if not conf.value_set_for(name):
            conf[name] = value
    loader = instance.app.loader
    loader.override_backends = RESULT_BACKENDS | loader.override_backends
    # On SIGQUIT, which follows a SIGTERM whose time is over, what runs has so long before it is given back.
    conf.worker_soft_shutdown_timeout = conf.worker_soft_shutdown_timeout or SOFT_SHUTDOWN
    instance.app.Task.Request = f"{Request.__module__}:{Request.__qualname__}"
    instance.app.steps["consumer"].add(Agent)


@before_task_publish.connect(weak=False)
def _stamp(headers: dict[str, Any], **_: Any) -> None:
    """Have the message say when it was published."""
    headers[PUBLISHED] = time.time()
