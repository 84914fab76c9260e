"""The example project's platform and its processes, for tests: started for real, ended for sure."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import pytest
from psycopg import sql
from pydantic import SecretStr
from services import Database, RedisServer, wait_for
from tasks.db import process_pool
from tasks.settings import DatabaseSettings, settings
from tasks.store import redis_client

STOP_WITHIN = 30.0  # seconds


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


class CeleryProcess:
    """A real `celery -A tasks …` process in a session of its own, with all that it prints."""

    def __init__(self, environment: dict[str, str], log: Path, *arguments: str) -> None:
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "tasks", *arguments],
                env=clean_environment() | environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=log.parent,
            )

    @property
    def pid(self) -> int:
        """The process id of the main process."""
        return self._process.pid

    def output(self) -> str:
        """Return what was printed until now."""
        return self._log.read_text()

    def wait_for_output(self, pattern: str, within: float = 30.0) -> re.Match[str]:
        """Return the first match of a pattern in the output."""

        def found() -> re.Match[str] | None:
            match = re.search(pattern, self.output())
            if match is None and self._process.poll() is not None:
                pytest.fail(f"celery ended with {self._process.returncode}:\n{self.output()}")
            return match

        try:
            return wait_for(found, f"no {pattern!r}", within)
        except Exception:
            print(self.output())  # noqa: T201  pytest shows it with the failure
            raise

    def stop(self) -> int:
        """End the process as systemd would (SIGTERM) and return its exit status."""
        self._process.terminate()
        return self._process.wait(STOP_WITHIN)

    def kill(self) -> None:
        """End the whole process group at once; does nothing to one that has ended."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait(STOP_WITHIN)


def clean_environment() -> dict[str, str]:
    """Return the environment without any setting of the application or of Celery."""
    return {name: value for name, value in os.environ.items() if not re.match(r"CELERY_|DB_|PG", name)}


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
