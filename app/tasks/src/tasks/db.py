"""Connections to PostgreSQL: one pool for each worker process."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

from psycopg import Connection
from psycopg_pool import ConnectionPool

from tasks.settings import settings

MIN_CONNECTIONS = 1
MAX_CONNECTIONS = 10
#: Seconds a task waits for a connection, by default.
WAIT_SECONDS = 10.0
#: Seconds to wait at the end of a process for the pool's threads.
CLOSE_WITHIN_SECONDS = 5.0

logger = logging.getLogger(__name__)

DatabaseConnection: TypeAlias = Connection[tuple[Any, ...]]


class ProcessPool:
    """The connection pool of this process, opened when first wanted.

    Neither sockets nor threads survive a fork, so a child forgets its parent's pool and opens its own. That
    holds whatever runs the tasks: prefork, solo, threads or gevent.
    """

    _lock: threading.Lock
    _pool: ConnectionPool[DatabaseConnection] | None

    def __init__(self) -> None:
        self._forget()
        os.register_at_fork(after_in_child=self._forget)

    def open(self) -> ConnectionPool[DatabaseConnection]:
        """Return the open pool; a new one connects in the background.

        Raises:
            SettingsError: if a setting is missing or wrong.
        """
        with self._lock:
            if self._pool is None:
                self._pool = self._new()
                logger.info("database pool opened")
            return self._pool

    def close(self) -> None:
        """Close the pool if it is open; connections in use are closed when they are given back."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close(CLOSE_WITHIN_SECONDS)
            logger.info("database pool closed")

    def _forget(self) -> None:
        # A new lock as well: another thread may have held the parent's at the moment of the fork.
        self._lock = threading.Lock()
        self._pool = None

    @staticmethod
    def _new() -> ConnectionPool[DatabaseConnection]:
        return ConnectionPool(
            kwargs=settings().connection_parameters(),
            min_size=MIN_CONNECTIONS,
            max_size=MAX_CONNECTIONS,
            check=ConnectionPool.check_connection,  # replaces a connection that died in the pool
            name="tasks",
            open=True,
        )


process_pool = ProcessPool()


@contextmanager
def get_db_connection(wait: float = WAIT_SECONDS) -> Iterator[DatabaseConnection]:
    """Lend a working connection for one transaction.

    The transaction is committed at the end of the block and rolled back if the block raises; the connection
    goes back to the pool in either case.

    Args:
        wait: seconds to wait for a connection while all are in use or the server does not answer.

    Raises:
        psycopg_pool.PoolTimeout: if there was none in that time.
        SettingsError: if a setting is missing or wrong.
    """
    with process_pool.open().connection(timeout=wait) as connection:
        yield connection
