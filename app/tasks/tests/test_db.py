"""Each process has one pool of connections, and a connection always comes back to it."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing.connection import Connection as Pipe

import psycopg
import pytest
from psycopg_pool import PoolTimeout
from support.processes.celery_processes import WorkerFactory, database_environment, database_settings
from support.processes.services import Database, PostgresServer, wait_for
from tasks import io_intensive
from tasks.db import get_db_connection, process_pool
from tasks.migrate import migrate

Rows = psycopg.Connection[tuple[object, ...]]


def backend() -> int:
    """Return the process id of the server's side of the connection that one gets now."""
    with get_db_connection() as connection:
        return connection.info.backend_pid


def log_in(connection: Rows) -> None:
    connection.execute("INSERT INTO logins (user_id) VALUES (1)")


def logins(rows: Rows) -> object:
    return rows.execute("SELECT count(*) FROM logins").fetchone()


def test_a_block_that_ends_is_committed(rows: Rows) -> None:
    with get_db_connection() as connection:
        log_in(connection)
        assert logins(rows) == (0,)
    assert logins(rows) == (1,)


def test_a_block_that_raises_is_rolled_back(rows: Rows) -> None:
    def interrupted() -> None:
        with get_db_connection() as connection:
            log_in(connection)
            raise LookupError

    with pytest.raises(LookupError):
        interrupted()
    assert logins(rows) == (0,)


@pytest.mark.usefixtures("environment")
def test_connections_come_back_and_are_ten_at_most() -> None:
    with ExitStack() as borrowed:
        backends = {borrowed.enter_context(get_db_connection()).info.backend_pid for _ in range(10)}
        assert len(backends) == 10
        with pytest.raises(PoolTimeout), get_db_connection(wait=0.2):
            pass
    assert backend() in backends


@pytest.mark.usefixtures("environment")
def test_a_connection_comes_back_after_an_error() -> None:
    for _ in range(12):
        with pytest.raises(psycopg.errors.SyntaxError), get_db_connection(wait=2) as connection:
            connection.execute("no such statement")


@pytest.mark.usefixtures("environment")
def test_a_connection_that_died_is_replaced(postgres_server: PostgresServer) -> None:
    dead = backend()
    with postgres_server.admin.connect() as admin:
        admin.execute("SELECT pg_terminate_backend(%s, 5000)", [dead])
    assert backend() != dead


def child(answer: Pipe) -> None:
    answer.send(backend())
    process_pool.close()


@pytest.mark.usefixtures("environment")
def test_a_fork_gets_connections_of_its_own_and_leaves_ours_alone() -> None:
    with get_db_connection() as connection:
        ours = connection.info.backend_pid
        receiver, sender = multiprocessing.Pipe()
        forked = multiprocessing.get_context("fork").Process(target=child, args=(sender,))
        forked.start()
        assert receiver.poll(20)
        assert receiver.recv() != ours
        forked.join(20)
        assert forked.exitcode == 0
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.usefixtures("environment")
def test_threads_share_one_pool() -> None:
    with ThreadPoolExecutor(8) as threads:
        pools = {id(pool) for pool in threads.map(lambda _: process_pool.open(), range(50))}
    assert len(pools) == 1


@pytest.mark.parametrize(("pool", "at_start"), [("prefork", 2), ("threads", 0), ("solo", 1)])
def test_every_kind_of_worker_connects_and_closes_at_its_end(
    environment: dict[str, str],
    database: Database,
    worker_process: WorkerFactory,
    pool: str,
    at_start: int,
) -> None:
    migrate(database_settings(database))
    queue = "cpu_intensive"  # nobody else consumes it
    worker = worker_process(environment | database_environment(database), queue, pool=pool, concurrency=2)

    def connections() -> int:
        with database.connect() as rows:
            return rows.execute(
                "SELECT FROM pg_stat_activity WHERE datname = %s AND application_name = 'tasks'",
                [database.name],
            ).rowcount

    assert wait_for(lambda: connections() == at_start, "not connected", 10)
    users = io_intensive.log_in_users.apply_async((3,), queue=queue)
    assert users.get(timeout=20) == 3
    with database.connect() as rows:
        assert rows.execute("SELECT count(*) FROM sessions").fetchone() == (3,)
    assert connections() >= 1
    assert worker.stop() == 0
    assert wait_for(lambda: connections() == 0, "still connected", 5)
    assert "level=ERROR" not in worker.output()
    assert "psycopg" not in worker.output()
    opened, closed = (worker.output().count(f'"database pool {what}"') for what in ("opened", "closed"))
    assert opened == closed == max(at_start, 1)
