"""Who may reach PostgreSQL, and what each user may do."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors
from support.hosts.scenario import Scenario, address
from support.hosts.secrets_scan import assert_no_secrets

SCENARIO = Scenario("postgres")

Connection = psycopg.Connection[tuple[Any, ...]]

units = ["postgresql@15-main", "postgresql@17-main"]


def connect(host: Any, user: str, password: str | None = None, database: str = "celery") -> Connection:
    return psycopg.connect(
        host=address(host),
        dbname=database,
        user=user,
        password=password or SCENARIO.secrets[f"postgres_{user}"],
        connect_timeout=10,
        autocommit=True,
    )


@pytest.fixture
def owner(host: Any) -> Iterator[Connection]:
    with connect(host, "celery_owner") as connection:
        yield connection


@pytest.fixture
def app(host: Any) -> Iterator[Connection]:
    with connect(host, "celery_app") as connection:
        yield connection


@pytest.fixture
def table(owner: Connection) -> Iterator[None]:
    """As a migration makes it."""
    owner.execute("DROP TABLE IF EXISTS test_job")
    owner.execute("CREATE TABLE test_job (id bigserial PRIMARY KEY, state text NOT NULL)")
    yield
    owner.execute("DROP TABLE IF EXISTS test_job")


@pytest.mark.parametrize("password", ["", "wrong"])
@pytest.mark.parametrize("user", ["celery_app", "celery_owner", "postgres", "nobody"])
def test_a_wrong_or_missing_password_is_refused(host: Any, user: str, password: str | None) -> None:
    with pytest.raises(psycopg.OperationalError, match=r"authentication failed|no password|no pg_hba"):
        psycopg.connect(host=address(host), dbname="celery", user=user, password=password, connect_timeout=10)
    # On the host itself, too, and through the socket.
    for target in ("host=127.0.0.1", "host=/run/postgresql"):
        answer = host.run(
            f"psql '{target} dbname=celery user={user} password={password}' --command 'SELECT 1'"
        )
        assert answer.rc != 0


def test_a_database_that_is_not_opened_to_the_network_is_refused(host: Any) -> None:
    with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry"):
        connect(host, "celery_owner", database="postgres")


def test_passwords_are_stored_as_scram(host: Any) -> None:
    stored = host.check_output(
        "runuser -u postgres -- psql -Atc 'SELECT rolpassword FROM pg_authid WHERE rolpassword IS NOT NULL'"
    ).splitlines()
    assert len(stored) == 5
    assert all(verifier.startswith("SCRAM-SHA-256$") for verifier in stored)


@pytest.mark.usefixtures("table")
def test_the_app_works_with_what_the_owner_creates_later(app: Connection) -> None:
    [(number,)] = app.execute("INSERT INTO test_job (state) VALUES ('new') RETURNING id").fetchall()
    app.execute("UPDATE test_job SET state = 'done' WHERE id = %s", (number,))
    assert app.execute("SELECT state FROM test_job").fetchall() == [("done",)]
    assert app.execute("SELECT nextval('test_job_id_seq')").fetchone()
    app.execute("DELETE FROM test_job")


def test_the_app_works_in_a_schema_that_the_owner_creates_later(owner: Connection, app: Connection) -> None:
    owner.execute("CREATE SCHEMA IF NOT EXISTS test_shop")
    try:
        owner.execute("CREATE TABLE test_shop.item (id int)")
        app.execute("INSERT INTO test_shop.item VALUES (1)")
        with pytest.raises(errors.InsufficientPrivilege):
            app.execute("CREATE TABLE test_shop.other (id int)")
    finally:
        owner.execute("DROP SCHEMA test_shop CASCADE")


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE public.intruder (id int)",
        "CREATE TEMPORARY TABLE intruder (id int)",
        "CREATE SCHEMA intruder",
        "CREATE DATABASE intruder",
        "CREATE ROLE intruder",
        "ALTER ROLE celery_app SUPERUSER",
        "ALTER TABLE test_job ADD COLUMN extra int",
        "DROP TABLE test_job",
        "TRUNCATE test_job",
        "SET ROLE celery_owner",
        "ALTER SYSTEM SET work_mem = '1GB'",
        "COPY test_job TO '/tmp/intruder'",
        "COPY test_job TO PROGRAM 'true'",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT pg_reload_conf()",
        "SELECT rolpassword FROM pg_authid",
    ],
)
@pytest.mark.usefixtures("table")
def test_the_app_may_do_no_more(app: Connection, statement: str) -> None:
    with pytest.raises(errors.InsufficientPrivilege):
        app.execute(statement)


@pytest.mark.usefixtures("table")
def test_the_reader_only_reads(host: Any, app: Connection) -> None:
    # PostgreSQL warns and grants nothing.
    app.execute("GRANT INSERT ON test_job TO celery_report")
    with connect(host, "celery_report") as reader:
        assert reader.execute("SELECT count(*) FROM test_job").fetchone() == (0,)
        for statement in ("INSERT INTO test_job (state) VALUES ('x')", "SELECT nextval('test_job_id_seq')"):
            with pytest.raises(errors.InsufficientPrivilege):
                reader.execute(statement)


def test_the_monitor_reads_all_statistics_and_no_data(host: Any, owner: Connection) -> None:
    owner.execute("SELECT 'of another user'")
    with connect(host, "monitor", database="postgres") as monitor:
        others = "SELECT query FROM pg_stat_activity WHERE usename = 'celery_owner'"
        assert any("of another user" in query for (query,) in monitor.execute(others).fetchall())
        assert monitor.execute("SELECT pg_database_size('celery') > 0").fetchone() == (True,)
        for statement in (
            "CREATE TABLE intruder (id int)",
            "SELECT pg_read_file('/etc/passwd')",
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'celery_owner'",
            "SELECT rolpassword FROM pg_authid",
            "SET ROLE celery_owner",
        ):
            with pytest.raises(errors.InsufficientPrivilege):
                monitor.execute(statement)
    with pytest.raises(psycopg.OperationalError, match=r"permission denied for database"):
        connect(host, "monitor")


@pytest.mark.parametrize("user", ["celery_app", "celery_report"])
def test_another_database_stays_closed(host: Any, user: str) -> None:
    with pytest.raises(psycopg.OperationalError, match=r"permission denied for database"):
        connect(host, user, database="other")


def test_it_listens_on_the_chosen_addresses_only(host: Any) -> None:
    listening = {line.split()[3] for line in host.check_output("ss -Hltn 'sport = :5432'").splitlines()}
    assert {f"{address(host)}:5432", "127.0.0.1:5432"} <= listening
    assert listening <= {f"{address(host)}:5432", "127.0.0.1:5432", "[::1]:5432"}


def test_statements_are_counted_and_slow_ones_logged(host: Any, owner: Connection) -> None:
    owner.execute("SELECT pg_sleep(1.1) AS told_apart")
    counted = "SELECT sum(calls) > 0 FROM pg_stat_statements WHERE query LIKE '%told_apart'"
    assert host.check_output("runuser -u postgres -- psql -Atc %s", counted) == "t"
    host.check_output("grep 'duration: .* told_apart' /var/log/postgresql/postgresql-*-main.log")


def test_the_database_has_the_wanted_encoding_and_checksums(owner: Connection) -> None:
    assert owner.execute("SHOW server_encoding").fetchone() == ("UTF8",)
    assert owner.execute("SHOW data_checksums").fetchone() == ("on",)


@pytest.mark.parametrize("stop", ["restart", "kill"])
def test_the_data_outlive_the_server(host: Any, stop: str) -> None:
    version = host.check_output("ls /etc/postgresql")
    unit = f"postgresql@{version}-main"
    with connect(host, "celery_owner") as connection:
        connection.execute("DROP TABLE IF EXISTS test_kept")
        connection.execute("CREATE TABLE test_kept AS SELECT 42 AS answer")
    if stop == "restart":
        host.check_output("systemctl restart %s", unit)
    else:
        host.check_output("systemctl kill --signal=KILL %s; systemctl restart %s", unit, unit)
    with connect(host, "celery_owner") as connection:
        assert connection.execute("SELECT answer FROM test_kept").fetchall() == [(42,)]
        connection.execute("DROP TABLE test_kept")


def test_no_secret_can_be_seen(host: Any) -> None:
    assert_no_secrets(host, SCENARIO.secrets.values())
