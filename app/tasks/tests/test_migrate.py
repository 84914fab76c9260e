"""`python -m tasks.migrate` brings any database to the same schema, also several at once."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib import resources

import psycopg
import pytest
import yoyo
from support.processes.celery_processes import Platform, database_environment
from support.processes.process import clean_environment
from support.processes.services import Database

ALL = "applied 0001_sessions\napplied 0002_daily_reports\n"
NONE = "schema is up to date\n"


def start(database: Database) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tasks.migrate"],
        env=clean_environment() | database_environment(database),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


def tables(database: Database) -> set[str]:
    with database.connect() as connection:
        found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        return {name for (name,) in found if "yoyo" not in name}


def test_the_second_run_finds_nothing_to_do(database: Database) -> None:
    assert finish(start(database)) == (0, ALL, "")
    assert tables(database) == {"sessions", "logins", "daily_reports"}
    assert finish(start(database)) == (0, NONE, "")


def test_two_at_once_apply_each_migration_once(database: Database) -> None:
    outcomes = [finish(process) for process in [start(database), start(database)]]
    assert sorted(outcomes) == [(0, ALL, ""), (0, NONE, "")]


def test_a_run_that_died_in_its_first_moments_bars_nobody(database: Database) -> None:
    with database.connect() as connection:  # yoyo's lock, which nobody will release
        connection.execute(
            """
            CREATE TABLE yoyo_lock (locked INT DEFAULT 1 PRIMARY KEY, ctime TIMESTAMP, pid INT NOT NULL);
            INSERT INTO yoyo_lock (pid) VALUES (1)
            """
        )
    assert finish(start(database)) == (0, ALL, "")


def test_a_migration_that_was_done_but_not_noted_is_done_again(database: Database) -> None:
    finish(start(database))
    with database.connect() as connection:
        connection.execute("DELETE FROM _yoyo_migration WHERE migration_id = '0002_daily_reports'")
    assert finish(start(database)) == (0, "applied 0002_daily_reports\n", "")


def test_every_migration_can_be_taken_back(database: Database) -> None:
    finish(start(database))
    url = f"postgresql+psycopg:///?host={database.host}&port={database.port}&dbname={database.name}"
    backend = yoyo.get_backend(f"{url}&user={database.user}&password={database.password}")
    with resources.as_file(resources.files("tasks") / "migrations") as folder:
        backend.rollback_migrations(backend.to_rollback(yoyo.read_migrations(str(folder))))
    backend.connection.close()
    assert tables(database) == set()
    assert finish(start(database)) == (0, ALL, "")


def test_an_error_is_one_line_without_the_password(database: Database) -> None:
    wrong = "not-the-password"
    status, output, errors = finish(start(replace(database, password=wrong)))
    assert (status, output) == (1, "")
    assert errors.startswith("Error: ")
    assert "authentication failed" in errors
    assert errors.count("\n") == 1
    assert wrong not in errors


def test_a_user_without_the_right_to_create_is_told_so(platform: Platform, database: Database) -> None:
    status, output, errors = finish(
        start(replace(platform.user, name=database.name))  # another application's empty database
    )
    assert (status, output) == (1, "")
    assert "is wrong: allowed is a user who may create tables" in errors
    assert errors.count("\n") == 1


def test_the_tasks_user_may_change_rows_but_no_table(platform: Platform) -> None:
    with platform.user.connect() as connection:
        for statement in ("CREATE TABLE mine ()", "DROP TABLE sessions", "TRUNCATE sessions"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement)
