"""Pytest plugin: real Redis and PostgreSQL servers for tests, each in a container of its own.

Fixtures for tests:
    redis_server          the session's Redis server, may be killed and started again
    redis_url             its URL; the server runs and holds no key when the test begins
    redis_server_factory  start another Redis server with arguments of the test's choice
    postgres_server       the session's PostgreSQL server
    database              a new, empty database with an owner of its own, dropped after the test

The servers share the network of this machine and listen on 127.0.0.1 only. Every container carries the
label `celery-fleet=test` and the process id of the session that started it, so that what a dead session
left behind is removed by the next one.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import docker
import psycopg
import pytest
import redis
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.models.containers import Container
from psycopg import sql

IMAGE = "celery-fleet/services:bookworm"
POSTGRES_BIN = "/usr/lib/postgresql/15/bin"
HOST = "127.0.0.1"
READY_WITHIN = 60.0  # seconds; initdb on a busy machine needs a few
LABEL = "celery-fleet"
OWNER_LABEL = "celery-fleet.owner"

T = TypeVar("T")


class ServiceError(Exception):
    """A server could not be started or did not get ready in time."""


class RedisServerFactory(Protocol):
    """Start a Redis server that ends with the test."""

    def __call__(self, *arguments: str) -> RedisServer:
        """Return the running server; `arguments` go to `redis-server` as they are."""


def wait_for(probe: Callable[[], T | None], what: str | Callable[[], str], within: float = READY_WITHIN) -> T:
    """Return the first answer of `probe` that is neither None nor False.

    `what` says, or returns, what is wrong as long as there is none.

    Raises:
        ServiceError: if none came within that number of seconds.
    """
    deadline = time.monotonic() + within
    while (begin := time.monotonic()) < deadline:
        answer = probe()
        if answer is not None and answer is not False:
            return answer
        # A look into a host costs a process or two: leave the CPUs to those who are waited for.
        time.sleep(min(0.2, max(0.02, time.monotonic() - begin)))
    raise ServiceError(f"{what() if callable(what) else what} after {within:g} s")


class RedisServer:
    """A Redis server without a password, on a port of its own that it keeps when started again."""

    def __init__(self, client: docker.DockerClient, *arguments: str) -> None:
        self._client = client
        self._arguments = arguments
        self._container: Container | None = None
        self.host = HOST
        self.port = free_port()
        self.start()

    @property
    def url(self) -> str:
        """The URL of database 0."""
        return f"redis://{self.host}:{self.port}/0"

    @property
    def container(self) -> Container:
        """The container it runs in, for a test that wants to pause it.

        Raises:
            ServiceError: if the server does not run.
        """
        if self._container is None:
            raise ServiceError("the Redis server does not run")
        return self._container

    def start(self) -> None:
        """Start the server unless it runs, and wait until it answers. It begins empty."""
        if self._container is not None:
            return
        command = ["/usr/bin/redis-server", "--port", str(self.port), "--bind", HOST]
        command += ["--save", "", "--appendonly", "no", *self._arguments]
        self._container = _run(self._client, command)
        _await_ready(self._container, self._answers, "Redis")

    def kill(self) -> None:
        """End the server at once, as a crash does (SIGKILL)."""
        if self._container is not None:
            _remove(self._container)
            self._container = None

    def crash(self) -> None:
        """End the server at once (SIGKILL), but keep its disk for :meth:`restart`."""
        self.container.kill("SIGKILL")
        self.container.wait()

    def restart(self) -> None:
        """Start the server again after a crash, and wait until it answers."""
        self.container.start()
        _await_ready(self.container, self._answers, "Redis")

    def flush(self) -> None:
        """Start the server if it does not run, and remove every key."""
        self.start()
        with closing(redis.Redis(host=self.host, port=self.port)) as connection:
            connection.flushall()

    def _answers(self) -> bool:
        with closing(redis.Redis(host=self.host, port=self.port, socket_timeout=1)) as connection:
            try:
                return bool(connection.ping())
            except redis.AuthenticationError:  # a test may start it with a password
                return True
            except redis.RedisError:
                return False


@dataclass(frozen=True)
class Database:
    """One database and the user who owns it."""

    host: str
    port: int
    name: str
    user: str
    password: str

    def connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        """Return a new connection of the owner, in autocommit mode."""
        return psycopg.connect(
            host=self.host,
            port=self.port,
            dbname=self.name,
            user=self.user,
            password=self.password,
            autocommit=True,
        )


class PostgresServer:
    """A PostgreSQL server that asks every user for a password (scram-sha-256)."""

    def __init__(self, client: docker.DockerClient) -> None:
        self.admin = Database(HOST, free_port(), "postgres", "postgres", secrets.token_hex(16))
        script = (
            'umask 077 && echo "$POSTGRES_PASSWORD" > /tmp/password && '
            f"{POSTGRES_BIN}/initdb --pgdata=/tmp/data --username=postgres --auth=scram-sha-256 "
            "--pwfile=/tmp/password --encoding=UTF8 --no-sync >/dev/null && "
            f"exec {POSTGRES_BIN}/postgres -D /tmp/data -c listen_addresses={HOST} -c port={self.admin.port} "
            "-c unix_socket_directories= -c fsync=off -c synchronous_commit=off -c full_page_writes=off "
            "-c max_connections=200"
        )
        self._container = _run(
            client,
            ["/bin/sh", "-c", script],
            user="postgres",
            environment={"POSTGRES_PASSWORD": self.admin.password},
        )
        _await_ready(self._container, self._answers, "PostgreSQL")

    @contextmanager
    def database(self) -> Iterator[Database]:
        """Create an empty database with an owner of its own; both are dropped at the end."""
        name = f"test_{secrets.token_hex(6)}"
        created = Database(HOST, self.admin.port, name, name, secrets.token_hex(16))
        identifier = sql.Identifier(name)
        with self.admin.connect() as connection:
            connection.execute(
                sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(identifier, sql.Literal(created.password))
            )
            connection.execute(sql.SQL("CREATE DATABASE {} OWNER {}").format(identifier, identifier))
        try:
            yield created
        finally:
            with self.admin.connect() as connection:
                connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(identifier))
                connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(identifier))

    def run(self, script: str, user: str = "postgres", **environment: str) -> None:
        """Run a shell script in the server's container."""
        code, output = self._container.exec_run(["sh", "-euc", script], user=user, environment=environment)
        if code:
            raise ServiceError(str(output))

    def psql(self, script: str) -> None:
        """Run a script of psql as the administrator."""
        where = f"--host={HOST} --port={self.admin.port} --username=postgres --dbname=postgres"
        self.run(
            f'printf %s "$SCRIPT" | psql --no-psqlrc --set=ON_ERROR_STOP=1 {where}',
            PGPASSWORD=self.admin.password,
            SCRIPT=script,
        )

    def stop(self) -> None:
        """End the server; its data is gone."""
        _remove(self._container)

    def _answers(self) -> bool:
        try:
            self.admin.connect().close()
        except psycopg.OperationalError:
            return False
        return True


@pytest.fixture(scope="session")
def docker_client() -> Iterator[docker.DockerClient]:
    """Return a client of the local Docker daemon, after removing what dead sessions left."""
    try:
        client = docker.from_env()
        client.images.get(IMAGE)
    except ImageNotFound:
        pytest.fail(f"image {IMAGE} is missing: run `make images` first", pytrace=False)
    except DockerException as error:
        pytest.fail(f"Docker does not answer ({error}): start it, run `make images` first", pytrace=False)
    with closing(client):
        remove_orphans(client)
        yield client


@pytest.fixture(scope="session")
def redis_server(docker_client: docker.DockerClient) -> Iterator[RedisServer]:
    """Return the session's Redis server."""
    server = RedisServer(docker_client)
    yield server
    server.kill()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """Return the URL of the session's Redis server, which runs and is empty."""
    redis_server.flush()
    return redis_server.url


@pytest.fixture
def redis_server_factory(docker_client: docker.DockerClient) -> Iterator[RedisServerFactory]:
    """Return a function that starts a Redis server with further arguments of `redis-server`."""
    with ExitStack() as servers:

        def start(*arguments: str) -> RedisServer:
            server = RedisServer(docker_client, *arguments)
            servers.callback(server.kill)
            return server

        yield start


@pytest.fixture(scope="session")
def postgres_server(docker_client: docker.DockerClient) -> Iterator[PostgresServer]:
    """Return the session's PostgreSQL server."""
    server = PostgresServer(docker_client)
    yield server
    server.stop()


@pytest.fixture
def database(postgres_server: PostgresServer) -> Iterator[Database]:
    """Return a new, empty database and its owner."""
    with postgres_server.database() as created:
        yield created


def remove_orphans(client: docker.DockerClient) -> None:
    """Remove the containers of sessions whose process has ended."""
    found = client.containers.list(all=True, filters={"label": OWNER_LABEL}, ignore_removed=True)
    for container in found:
        with suppress(NotFound):  # another session may be faster
            if not Path(f"/proc/{container.labels[OWNER_LABEL]}").exists():
                _remove(container)


def _run(client: docker.DockerClient, command: list[str], **options: Any) -> Container:
    return client.containers.run(
        IMAGE,
        command,
        detach=True,
        init=True,
        network_mode="host",
        labels={LABEL: "test", OWNER_LABEL: str(os.getpid())},
        **options,
    )


def _remove(container: Container) -> None:
    try:
        container.remove(force=True, v=True)
    except NotFound:
        pass
    except APIError as error:
        if error.status_code != 409:  # its removal is under way already
            raise


def _await_ready(container: Container, answers: Callable[[], bool], name: str) -> None:
    """Wait until the server answers; on failure remove its container and tell what it printed."""

    def ready_or_dead() -> bool:
        if answers():
            return True
        container.reload()
        if container.status not in {"created", "running"}:
            raise ServiceError(f"{name} ended: {container.logs(tail=5).decode(errors='replace')}")
        return False

    try:
        wait_for(ready_or_dead, f"{name} does not answer")
    except ServiceError:
        _remove(container)
        raise


def free_port() -> int:
    """Return a port of the loopback address that nobody uses now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port
