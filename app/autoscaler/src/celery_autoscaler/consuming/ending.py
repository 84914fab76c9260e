"""End a worker in bounded time while its broker is away.

On its way out Celery unsubscribes, says goodbye and deletes queues of its own, each on a connection that it
reopens if the last one failed, and each waits for the server. A worker whose broker does not answer does
not wait for these; for what its tasks need, it does until there is nothing else to wait for.
"""

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from celery_autoscaler.consuming.background import leave_signals
from celery_autoscaler.consuming.versions import bound_open_broker_sockets

# Seconds within which a broker that is there has answered.
ANSWER_SECONDS = 0.5
# Seconds to wait for each answer of a broker that is away.
HURRY_SECONDS = 0.05


def answers(ask: Callable[[], Any], within: float = ANSWER_SECONDS) -> bool:
    """Whether a server answers, asked in a thread so that nothing else can hold this one up."""
    answered = threading.Event()

    def run() -> None:
        leave_signals()
        with suppress(Exception):
            ask()
            answered.set()

    threading.Thread(target=run, name="fleet-ending", daemon=True).start()
    return answered.wait(within)


def hurry(connections: Iterable[Any], seconds: float = HURRY_SECONDS) -> None:
    """Let nothing on these connections of kombu's, if they are connected, wait for longer."""
    for connection in connections:
        transport = getattr(connection, "_transport", None)
        if transport is None:
            continue
        for channel in list(getattr(transport, "channels", None) or ()):
            for name in ("_pool", "_async_pool"):
                hurry_pool(vars(channel).get(name), seconds)
        bound_open_broker_sockets(connection, seconds)


def hurry_pool(pool: Any, seconds: float = HURRY_SECONDS) -> None:
    """Let nothing on the connections of a pool of redis-py's wait for longer, nor on those it opens."""
    if pool is None:
        return
    pool.connection_kwargs.update(socket_timeout=seconds, socket_connect_timeout=seconds)
    open_ones = [*getattr(pool, "_available_connections", ()), *getattr(pool, "_in_use_connections", ())]
    for connection in open_ones:
        connection.socket_timeout = connection.socket_connect_timeout = seconds
        # Else the next look whether there is something to read would take back what the socket is told.
        buffer = getattr(getattr(connection, "_parser", None), "_buffer", None)
        if buffer is not None:
            buffer.socket_timeout = seconds
        sock = getattr(connection, "_sock", None)
        if sock is not None:
            with suppress(OSError):
                sock.settimeout(seconds)
    for sentinel in getattr(getattr(pool, "sentinel_manager", None), "sentinels", ()):
        hurry_pool(sentinel.connection_pool, seconds)
