"""The example project's platform and its processes, for tests: started for real, ended for sure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from psycopg import sql
from pydantic import SecretStr
from tasks.db import process_pool
from tasks.settings import DatabaseSettings, settings
from tasks.store import redis_client

from support.processes.process import PythonProcess, clean_environment
from support.processes.services import Database, RedisServer


@dataclass(frozen=True)
class Platform:
    """What one set of workers runs on."""

    broker: RedisServer
    broker_url: str
    owner: Database  # of the schema
    user: Database  # of the tasks: may read and write rows, no more

    @property
    def environment(self) -> dict[str, str]:
        """The settings of the application."""
        return {
            "CELERY_BROKER_URL": self.broker_url,
            "CELERY_RESULT_BACKEND": self.broker_url,
            **database_environment(self.user),
        }


def database_environment(database: Database) -> dict[str, str]:
    """Return the DB_* settings that lead to this database."""
    return {
        "DB_HOST": database.host,
        "DB_PORT": str(database.port),
        "DB_NAME": database.name,
        "DB_USER": database.user,
        "DB_PASSWORD": database.password,
    }


def database_settings(database: Database) -> DatabaseSettings:
    """Return the same as an object."""
    return DatabaseSettings(
        db_host=database.host,
        db_port=database.port,
        db_name=database.name,
        db_user=database.user,
        db_password=SecretStr(database.password),
    )


def grant_rows_only(admin: Database, owner: Database) -> Database:
    """Create the tasks' user as a deployment does: by default privileges, before any table exists."""
    user = replace(owner, user=f"{owner.user}_app", password=f"{owner.password}_app")
    name = sql.Identifier(user.user)
    with admin.connect() as connection:
        connection.execute(
            sql.SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(name, sql.Literal(user.password))
        )
    with owner.connect() as connection:
        connection.execute(
            sql.SQL(
                "ALTER DEFAULT PRIVILEGES IN SCHEMA public "
                "GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO {}"
            ).format(name)
        )
    return user


def forget_settings() -> None:
    """Make this process read its environment again."""
    process_pool.close()
    settings.cache_clear()
    redis_client.cache_clear()


class CeleryProcess(PythonProcess):
    """A real `celery -A tasks …` process."""

    def __init__(self, environment: dict[str, str], log: Path, *arguments: str) -> None:
        super().__init__(
            log, "celery", "-A", "tasks", *arguments, environment=clean_environment() | environment
        )


class CeleryFactory(Protocol):
    """Starts `celery -A tasks …` with these arguments."""

    def __call__(self, environment: dict[str, str], *arguments: str) -> CeleryProcess:
        """Return the process, which is killed at the end of the fixture's scope."""


class WorkerFactory(Protocol):
    """Starts a worker."""

    def __call__(
        self,
        environment: dict[str, str],
        queues: str,
        *,
        pool: str = "prefork",
        concurrency: int = 1,
        arguments: tuple[str, ...] = (),
    ) -> CeleryProcess:
        """Return a worker that consumes the queues (comma-separated)."""
