"""What a changed variable does to a running server. These tests change the hosts and put them back."""

import itertools
import re
import threading
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from support.hosts.scenario import Scenario, address

SCENARIO = Scenario("postgres")
ROTATED = "rotated-" + "0123456789abcdef"

units = ["postgresql@15-main", "postgresql@17-main"]


def ask(host: Any, statement: str, database: str = "celery") -> str:
    return str(host.check_output("runuser -u postgres -- psql -At -d %s -c %s", database, statement))


def started(host: Any) -> str:
    return ask(host, "SELECT pg_postmaster_start_time()")


def starts(host: Any) -> int:
    version = host.check_output("ls /etc/postgresql")
    journal = host.check_output("journalctl -o cat -u %s | grep '^Started '", f"postgresql@{version}-main")
    return len(journal.splitlines())


def pgbouncer(host: Any) -> str:
    return str(host.check_output("systemctl show --property=MainPID --value pgbouncer"))


@pytest.fixture(scope="module")
def hosts() -> Collection[Any]:
    return SCENARIO.hosts().values()


def connect(
    host: Any, user: str, password: str | None = None, port: int = 5432
) -> psycopg.Connection[tuple[Any, ...]]:
    return psycopg.connect(
        host=address(host),
        port=port,
        dbname="celery",
        user=user,
        password=password or SCENARIO.secrets[f"postgres_{user}"],
        connect_timeout=30,
        autocommit=True,
    )


@contextmanager
def rows_written_by(user: str, hosts: Collection[Any]) -> Iterator[list[int]]:
    """The numbers of the rows that the user wrote meanwhile, to every host, each by a new connection."""
    ended = threading.Event()
    written = []

    def write() -> None:
        for number in itertools.count():
            for host in hosts:
                with connect(host, user) as connection:
                    connection.execute("INSERT INTO test_load VALUES (%s)", (number,))
            written.append(number)
            if ended.wait(0.05):
                return

    with ThreadPoolExecutor() as pool:
        writing = pool.submit(write)
        try:
            yield written
        finally:
            ended.set()
        writing.result()


@pytest.fixture
def load_table(hosts: Collection[Any]) -> Iterator[None]:
    table = "SET ROLE celery_owner; DROP TABLE IF EXISTS test_load"
    for host in hosts:
        ask(host, f"{table}; CREATE TABLE test_load (number int PRIMARY KEY)")
    yield
    for host in hosts:
        ask(host, table)


@pytest.mark.usefixtures("load_table")
def test_live_changes_are_applied_by_a_reload_and_shown(hosts: Collection[Any]) -> None:
    before = [started(host) for host in hosts]
    users = [
        {"name": name, "password": SCENARIO.secrets[f"postgres_{name}"]}
        for name in ("celery_owner", "celery_app", "celery_app_b", "celery_report")
    ]
    users[1]["password"] = ROTATED
    for host in hosts:
        ask(host, "GRANT CREATE ON SCHEMA public TO celery_app; ALTER ROLE celery_report CREATEDB")

    # The app has moved to its other user; a worker that has not ended yet holds a connection.
    held = [connect(host, "celery_app") for host in hosts]
    with rows_written_by("celery_app_b", hosts) as written:
        printed = SCENARIO.play(
            "--diff",
            "-vvv",
            postgres_users=users,
            postgres_log_min_duration_statement="750ms",
        )

    for host, connection in zip(hosts, held, strict=True):
        stored = connection.execute("SELECT number FROM test_load ORDER BY number").fetchall()
        assert [number for (number,) in stored] == written
        connection.close()
        # At once through PgBouncer as well.
        for port in (5432, 6432):
            with pytest.raises(psycopg.OperationalError, match="authentication failed"):
                connect(host, "celery_app", port=port)
            connect(host, "celery_app", ROTATED, port).close()

    live = printed.split(" : service | Write the files and apply them to the server]")[1]
    count = len(hosts)
    assert len(re.findall(r"^\+log_min_duration_statement = 750ms$", live, re.MULTILINE)) == count
    assert len(re.findall(r"^-celery: celery_app on schema public: CREATE$", live, re.MULTILINE)) == count
    assert (
        len(re.findall(r"^-user celery_report: other attributes, wanted password$", live, re.MULTILINE))
        == count
    )
    assert len(re.findall(r"^-user celery_app: logs in only, former password$", live, re.MULTILINE)) == count
    assert ROTATED not in printed
    assert [started(host) for host in hosts] == before
    for host in hosts:
        assert ask(host, "SHOW log_min_duration_statement") == "750ms"
        assert ask(host, "SELECT has_schema_privilege('celery_app', 'public', 'CREATE')") == "f"


def test_a_static_change_restarts_once(hosts: Collection[Any]) -> None:
    before = [starts(host) for host in hosts]
    printed = SCENARIO.play("--diff", postgres_max_connections=60)
    assert "restart needed by max_connections" in printed
    for host, count in zip(hosts, before, strict=True):
        assert ask(host, "SHOW max_connections") == "60"
        assert starts(host) == count + 1


def test_an_interrupted_run_is_finished_by_the_next(hosts: Collection[Any]) -> None:
    """The file was written and the run died before the server was told."""
    for host in hosts:
        version = host.check_output("ls /etc/postgresql")
        path = f"/etc/postgresql/{version}/main/conf.d/celery-fleet.conf"
        host.check_output("sed -i 's/^max_connections = .*/max_connections = 100/' %s", path)
        host.check_output("touch /etc/pgbouncer/fleet/pgbouncer.ini")
    before = [(starts(host), pgbouncer(host)) for host in hosts]

    printed = SCENARIO.play("--diff")

    # PgBouncer reads its files, and its clients do not notice.
    assert printed.count("reloaded for /etc/pgbouncer/fleet/pgbouncer.ini") == len(hosts)
    for host, (count, process) in zip(hosts, before, strict=True):
        assert ask(host, "SHOW max_connections") == "100"
        assert starts(host) == count + 1
        assert pgbouncer(host) == process
        assert ask(host, "SHOW log_min_duration_statement") == "1s"


@pytest.mark.parametrize(
    ("make", "remove"),
    [
        ("mkdir /etc/postgresql/13", "rmdir /etc/postgresql/13"),
        (
            "mkdir -p /var/lib/postgresql/13/main && echo 13 >/var/lib/postgresql/13/main/PG_VERSION",
            "rm -r /var/lib/postgresql/13",
        ),
    ],
    ids=["configuration", "data"],
)
def test_a_foreign_cluster_is_refused_in_one_line(hosts: Collection[Any], make: str, remove: str) -> None:
    host = next(iter(hosts))
    host.check_output(make)
    try:
        with pytest.raises(
            AssertionError, match="db12: there is a cluster of PostgreSQL 13, and version 15 is wanted"
        ):
            SCENARIO.play("--check", "--limit=db12")
    finally:
        host.check_output(remove)


@pytest.mark.usefixtures("load_table")
def test_the_data_of_a_former_version_move_by_a_dump(hosts: Collection[Any]) -> None:
    """As docs/how-to/upgrades.md says it, from version 15 to 17."""
    former, present = hosts
    ask(former, "SET ROLE celery_owner; INSERT INTO test_load SELECT generate_series(1, 1000)")
    ask(present, "DROP TABLE test_load")

    dump = "runuser -u postgres -- pg_dump --format=custom --no-owner --no-privileges celery"
    restore = (
        "runuser -u postgres -- pg_restore --dbname=celery --role=celery_owner --no-owner --no-privileges"
        " --exit-on-error --single-transaction"
    )
    carried = former.check_output(f"{dump} | base64 --wrap=0")
    present.check_output(f"echo %s | base64 --decode | {restore}", carried)

    with connect(present, "celery_app") as connection:
        assert connection.execute("SELECT count(*) FROM test_load").fetchone() == (1000,)
    assert ask(present, "SELECT tableowner FROM pg_tables WHERE tablename = 'test_load'") == "celery_owner"
