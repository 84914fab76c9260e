"""Bring the database schema up to date: `python -m tasks.migrate`.

Needs only DB_HOST, DB_PORT, DB_NAME, DB_USER and DB_PASSWORD. DB_USER is the owner of the schema here, not
the user of the workers, who needs no more than SELECT, INSERT, UPDATE and DELETE. Safe to run at any time and
by several hosts at once. Prints a line for each migration it applied; an error is one line, with status 1.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Any
from urllib.parse import urlencode

import psycopg
import yoyo
from yoyo.exceptions import BadMigration

from tasks.settings import DatabaseSettings, SettingsError, read

#: Any number will do as long as nothing else in the database takes the same advisory lock.
LOCK = 7_367_431
#: Seconds to wait for another host that migrates right now.
LOCK_WAIT_SECONDS = 60


def main() -> int:
    """Run the command; return its exit status."""
    try:
        applied = migrate(read(DatabaseSettings))
    except SettingsError as error:
        return _fail(error.message)
    except psycopg.errors.LockNotAvailable:
        return _fail(f"another migration has been running for {LOCK_WAIT_SECONDS} s")
    except (psycopg.Error, BadMigration, OSError) as error:
        return _fail(" ".join(str(error).split()))
    for name in applied:
        print(f"applied {name}")  # noqa: T201  the answer of a command
    if not applied:
        print("schema is up to date")  # noqa: T201
    return 0


def migrate(database: DatabaseSettings) -> list[str]:
    """Apply what has not been applied yet, in order, and return its names.

    Raises:
        psycopg.Error: if the server cannot be reached or refuses a statement.
        SettingsError: if DB_USER may not create tables.
    """
    with _exclusive(database), resources.as_file(resources.files("tasks") / "migrations") as folder:
        backend = yoyo.get_backend(_url(database))
        try:
            return _apply(backend, yoyo.read_migrations(str(folder)))
        finally:
            backend.connection.close()


@contextmanager
def _exclusive(database: DatabaseSettings) -> Iterator[None]:
    """Let one process migrate at a time; the lock vanishes with the connection, however the process ends."""
    with psycopg.connect(**database.connection_parameters(), autocommit=True) as connection:
        may_create = connection.execute("SELECT has_schema_privilege(current_schema(), 'CREATE')")
        if may_create.fetchone() != (True,):
            allowed = "a user who may create tables in the schema"
            raise SettingsError(f"DB_USER={database.db_user!r} is wrong: allowed is {allowed}")
        connection.execute(f"SET lock_timeout = '{LOCK_WAIT_SECONDS}s'")
        connection.execute("SELECT pg_advisory_lock(%s)", [LOCK])
        yield


def _apply(backend: Any, migrations: Any) -> list[str]:
    backend.break_lock()  # yoyo's own lock outlives a killed process; ours is held, so nobody needs it
    pending = list(backend.to_apply(migrations))
    for migration in pending:
        backend.apply_one(migration)
    return [migration.id for migration in pending]


def _url(database: DatabaseSettings) -> str:
    # All in the query, which yoyo hands to psycopg as it is; a host may be a socket directory.
    return f"postgresql+psycopg:///?{urlencode(database.connection_parameters())}"


def _fail(reason: str) -> int:
    print(f"Error: {reason}", file=sys.stderr)  # noqa: T201  the answer of a command
    return 1


if __name__ == "__main__":
    sys.exit(main())
