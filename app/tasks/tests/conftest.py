"""A whole platform for the tests: Redis, a migrated database, an application user, workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import docker
import psycopg
import pytest
from redis import Redis
from support.processes.celery_processes import (
    CeleryFactory,
    CeleryProcess,
    Platform,
    WorkerFactory,
    database_settings,
    forget_settings,
    grant_rows_only,
)
from support.processes.services import PostgresServer, RedisServer
from tasks.db import process_pool
from tasks.migrate import migrate
from tasks.store import redis_client


@pytest.fixture(scope="session")
def platform(docker_client: docker.DockerClient, postgres_server: PostgresServer) -> Iterator[Platform]:
    """Return the session's platform.

    Its Redis is not the one of `redis_url`, which is flushed: that would take the queues' bindings away from
    living workers.
    """
    broker = RedisServer(docker_client)
    try:
        with postgres_server.database() as owner:
            with owner.connect() as connection:  # the tasks' days are UTC days on any server
                connection.execute(f"ALTER DATABASE {owner.name} SET timezone = 'Pacific/Auckland'")
            user = grant_rows_only(postgres_server.admin, owner)
            migrate(database_settings(owner))
            yield Platform(broker, broker.url, owner, user)
            process_pool.close()
    finally:
        broker.kill()


@pytest.fixture
def environment(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """Let this process run on the platform, too; the records and the tables are empty at first."""
    for name, value in platform.environment.items():
        monkeypatch.setenv(name, value)
    forget_settings()
    redis_client().delete("tasks:failures", "tasks:successes", "tasks:health")
    with platform.owner.connect() as connection:
        connection.execute("TRUNCATE sessions, logins, daily_reports")
    yield platform.environment
    forget_settings()


@pytest.fixture
def redis(environment: dict[str, str]) -> Iterator[Redis]:
    """Return a client of the platform's Redis."""
    with Redis.from_url(environment["CELERY_BROKER_URL"], decode_responses=True) as client:
        yield client


@pytest.fixture
def rows(platform: Platform, environment: dict[str, str]) -> Iterator[psycopg.Connection[tuple[object, ...]]]:
    """Return a connection of the schema's owner to the platform's database, whose tables are empty."""
    del environment  # it empties them
    with platform.owner.connect() as connection:
        yield connection


def _celery(folder: Path, processes: ExitStack) -> CeleryFactory:
    count = 0

    def start(environment: dict[str, str], *arguments: str) -> CeleryProcess:
        nonlocal count
        count += 1
        process = CeleryProcess(environment, folder / f"celery-{count}.log", *arguments)
        processes.callback(process.kill)
        return process

    return start


@pytest.fixture
def celery_process(tmp_path: Path) -> Iterator[CeleryFactory]:
    """Return a function that starts a Celery process for this test."""
    with ExitStack() as processes:
        yield _celery(tmp_path, processes)


def _worker(celery: CeleryFactory) -> WorkerFactory:
    names: Callable[[], str] = iter(f"worker{number}" for number in range(1, 1000)).__next__

    def start(
        environment: dict[str, str],
        queues: str,
        *,
        pool: str = "prefork",
        concurrency: int = 1,
        arguments: tuple[str, ...] = (),
    ) -> CeleryProcess:
        options = ["--pool", pool, "--concurrency", str(concurrency), "--queues", queues]
        options += [
            "--hostname",
            f"{names()}@%h",
            "--loglevel",
            "INFO",
            "--without-gossip",
            "--without-mingle",
        ]
        worker = celery(environment, "worker", *options, *arguments)
        worker.wait_for_output(r"message=\S*\"?\S+@\S+ ready\.")
        return worker

    return start


@pytest.fixture
def worker_process(celery_process: CeleryFactory) -> WorkerFactory:
    """Return a function that starts a worker for this test and waits until it consumes."""
    return _worker(celery_process)


@pytest.fixture(scope="session")
def shared_worker(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CeleryProcess]:
    """Return a prefork worker of two processes for the queues default, io_intensive and priority."""
    with ExitStack() as processes:
        celery = _celery(tmp_path_factory.mktemp("shared"), processes)
        yield _worker(celery)(platform.environment, "default,io_intensive,priority", concurrency=2)
