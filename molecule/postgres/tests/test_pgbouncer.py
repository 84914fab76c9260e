"""PgBouncer: many clients share few connections, each with its own rights."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import psycopg
import pytest
from support.hosts.scenario import Scenario, address
from support.hosts.secrets_scan import assert_no_secrets
from support.processes.services import wait_for

SCENARIO = Scenario("postgres")
PORT = 6432
POOL = 4
CLIENTS = 150  # the server itself takes 100
TRANSACTIONS = 10

units = ["pgbouncer", "postgresql@15-main", "postgresql@17-main"]


def connect(
    host: Any, user: str, password: str | None = None, database: str = "celery"
) -> psycopg.Connection[tuple[Any, ...]]:
    # PgBouncer of Debian 12 does not know prepared statements, and its console knows no transactions.
    return psycopg.connect(
        host=address(host),
        port=PORT,
        dbname=database,
        user=user,
        password=password or SCENARIO.secrets[f"postgres_{user}"],
        connect_timeout=30,
        autocommit=True,
        prepare_threshold=None,
    )


@pytest.fixture
def table(host: Any) -> Iterator[None]:
    make = "SET ROLE celery_owner; DROP TABLE IF EXISTS test_pooled"
    command = "runuser -u postgres -- psql -d celery -c %s"
    host.check_output(command, f"{make}; CREATE TABLE test_pooled (client int, number int)")
    yield
    host.check_output(command, make)


@pytest.mark.usefixtures("table")
def test_more_clients_than_the_server_takes_share_few_connections(host: Any) -> None:
    seen, done = [], threading.Event()

    def watch() -> None:
        count = "SELECT count(*) FROM pg_stat_activity WHERE usename LIKE 'celery%'"
        while not done.wait(0.2):
            seen.append(int(host.check_output("runuser -u postgres -- psql -At -c %s", count)))

    def write(client: int, connection: psycopg.Connection[tuple[Any, ...]]) -> None:
        for number in range(TRANSACTIONS):
            with connection.transaction():
                connection.execute("INSERT INTO test_pooled VALUES (%s, %s)", (client, number))

    with ExitStack() as stack, ThreadPoolExecutor(CLIENTS + 1) as threads:
        watching = threads.submit(watch)
        try:
            clients = [stack.enter_context(connect(host, "celery_app")) for _ in range(CLIENTS)]
            for written in [threads.submit(write, *client) for client in enumerate(clients)]:
                written.result()
            counted = clients[0].execute("SELECT count(*), count(DISTINCT (client, number)) FROM test_pooled")
            assert counted.fetchone() == (CLIENTS * TRANSACTIONS, CLIENTS * TRANSACTIONS)
        finally:
            done.set()
        watching.result()
    assert 0 < max(seen) <= POOL


def test_each_client_has_the_rights_of_its_user(host: Any) -> None:
    with connect(host, "celery_report") as reader:
        assert reader.execute("SELECT current_user").fetchone() == ("celery_report",)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute("CREATE TABLE public.intruder (id int)")
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        connect(host, "celery_app", database="other")


@pytest.mark.parametrize("user", ["celery_app", "postgres", "nobody"])
def test_a_wrong_password_is_refused(host: Any, user: str) -> None:
    with pytest.raises(psycopg.OperationalError, match=r"authentication failed|no such user"):
        connect(host, user, "wrong")


@pytest.mark.parametrize("database", ["postgres", "pgbouncer"])
def test_the_network_reaches_no_database_that_is_not_opened_to_it(host: Any, database: str) -> None:
    with pytest.raises(psycopg.OperationalError, match=r"rejected|no authentication|not allowed"):
        connect(host, "celery_owner", database=database)


def test_the_monitor_sees_the_pools_and_manages_nothing(host: Any) -> None:
    query = "psql 'host=127.0.0.1 port=6432 dbname=pgbouncer user=monitor' --no-psqlrc -At -c %s"
    with_password = f"env PGPASSWORD={SCENARIO.secrets['postgres_monitor']} {query}"
    assert "celery|celery_app" in host.check_output(with_password, "SHOW POOLS")
    for command in ("PAUSE", "SHUTDOWN", "SET max_client_conn = 1"):
        assert "admin access needed" in host.run(with_password, command).stderr


def test_it_runs_as_nobody_who_could_manage_the_server(host: Any) -> None:
    pid = host.check_output("systemctl show --property=MainPID --value pgbouncer")
    assert host.check_output("ps -o user= -p %s", pid).strip() == "pgbouncer"
    assert host.run("runuser -u pgbouncer -- psql -h /run/postgresql -U postgres -c 'SELECT 1'").rc != 0
    assert host.check_output("stat -c '%U %G %a' /etc/pgbouncer/fleet/userlist.txt") == "root pgbouncer 640"


def test_a_killed_pgbouncer_comes_back(host: Any) -> None:
    host.check_output("systemctl kill --signal=KILL pgbouncer")

    def answers() -> tuple[Any, ...] | None:
        try:
            with connect(host, "celery_app") as connection:
                return connection.execute("SELECT 1").fetchone()
        except psycopg.OperationalError:
            return None

    assert wait_for(answers, "PgBouncer does not come back") == (1,)


def test_no_secret_can_be_seen(host: Any) -> None:
    assert_no_secrets(host, SCENARIO.secrets.values())
