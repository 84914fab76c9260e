"""What a worker that loses no task sets of the app's settings: little, seldom what the app sets itself."""

from typing import Any

from celery_autoscaler.consuming.versions import value_set_for
from celery_autoscaler.protocol.orphan_guard import SOFT_SHUTDOWN

# Where the app says nothing.
DEFAULTS: dict[str, Any] = {
    # Running tasks outlive a broker that is away, however long.
    "broker_connection_max_retries": None,
    # A task waits for a server of results that is away for a moment. Each try that fails is logged.
    "result_backend_always_retry": True,
    "result_backend_base_sleep_between_retries_ms": 500,
    "result_backend_max_sleep_between_retries_ms": 2000,
    # On SIGQUIT, which follows a SIGTERM whose time is over, what runs has so long before it is given back.
    "worker_soft_shutdown_timeout": SOFT_SHUTDOWN,
}
# Whatever the app says: the value, and why it must be so.
REQUIRED: dict[str, tuple[Any, str]] = {
    "worker_enable_prefetch_count_reduction": (
        False,
        "a worker keeps what it holds when it loses its connection, and all of it counts",
    ),
    "worker_cancel_long_running_tasks_on_connection_loss": (
        False,
        "a running task stays this worker's when the connection is lost",
    ),
}


def overruled(conf: Any) -> list[str]:
    """Return, for each setting of the app that its workers do not obey, a line that says so."""
    return [
        f"{name}={conf[name]!r} has no effect: {why}"
        for name, (value, why) in REQUIRED.items()
        if value_set_for(conf, name) and conf[name] != value
    ]


def prepare(conf: Any) -> list[str]:
    """Set what a worker needs; return what :func:`overruled` does."""
    lines = overruled(conf)
    for name, value in DEFAULTS.items():
        if not value_set_for(conf, name):
            conf[name] = value
    for name, (value, _) in REQUIRED.items():
        conf[name] = value
    return lines
