"""Rows are written all the time and counted after each failover. These tests follow one another."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import docker
import psycopg
import pytest
from docker.models.containers import Container
from psycopg import errors
from support.hosts.scenario import Scenario, address
from support.hosts.secrets_scan import assert_no_secrets
from support.processes.services import wait_for

SCENARIO = Scenario("postgres_ha")
FAILOVER = "../../playbooks/failover_postgres.yml"
VERIFY = "../../playbooks/verify_postgres.yml"

SERVER, PGBOUNCER = 5432, 6432

units = ["postgresql@17-main", "pgbouncer"]


def hosts() -> dict[str, Any]:
    return SCENARIO.hosts("postgres")


def ask(name: str, statement: str, database: str = "celery") -> str:
    """What the administrator of one server is answered."""
    return str(hosts()[name].check_output("runuser -u postgres -- psql -At -d %s -c %s", database, statement))


def primaries() -> list[str]:
    return [name for name in hosts() if ask(name, "SELECT pg_is_in_recovery()") == "f"]


def converge_changes_nothing() -> None:
    changed = re.findall(r"changed=(\d+)", SCENARIO.play())
    assert changed == ["0"] * len(hosts())


def fail_over(name: str, **variables: object) -> str:
    return SCENARIO.play(playbook=FAILOVER, postgres_new_primary=name, **variables)


def connect(port: int = SERVER) -> psycopg.Connection[Any]:
    """As the app connects: to whichever of all servers takes writes."""
    return psycopg.connect(
        host=",".join(address(host) for host in hosts().values()),
        port=port,
        target_session_attrs="read-write",
        dbname="celery",
        user="celery_owner",
        password=SCENARIO.secrets["postgres_celery_owner"],
        sslmode="verify-full",
        sslrootcert=str(SCENARIO.authority),
        connect_timeout=2,
        tcp_user_timeout=3000,
        keepalives_idle=1,
        keepalives_interval=1,
        keepalives_count=3,
        autocommit=True,
    )


def furthest(*names: str) -> str:
    """Return which of the standbys has received most, the last of those that have."""
    return max(names, key=lambda name: (int(ask(name, "SELECT pg_last_wal_receive_lsn() - '0/0'")), name))


class Client:
    """Writes numbered rows, each acknowledged or not; every fifth must be visible on a standby as well."""

    def __init__(self, port: int = SERVER) -> None:
        self._port = port
        self.local: set[int] = set()
        self.confirmed: set[int] = set()
        self.longest_gap = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Client:
        self._thread.start()
        return self

    def __exit__(self, *_details: object) -> None:
        self._ended.set()
        self._thread.join()

    def has_confirmed(self, least: int) -> bool:
        """Whether at least that number of rows is on a standby as well."""
        return len(self.confirmed) >= least

    def _run(self) -> None:
        number, last = next(numbers), time.monotonic()
        while not self._ended.is_set():
            try:
                with connect(self._port) as connection:
                    while not self._ended.is_set():
                        durable = number % 5 == 0
                        with connection.transaction():
                            if durable:
                                connection.execute("SET LOCAL synchronous_commit = remote_apply")
                            connection.execute("INSERT INTO written VALUES (%s)", (number,))
                        (self.confirmed if durable else self.local).add(number)
                        self.longest_gap = max(self.longest_gap, time.monotonic() - last)
                        number, last = next(numbers), time.monotonic()
                        self._ended.wait(0.01)
            except psycopg.Error:
                number = next(numbers)  # the last one may be there or not
                self._ended.wait(0.1)


numbers = iter(range(1, 1_000_000))


def stored(name: str) -> set[int]:
    return {int(line) for line in ask(name, "SELECT number FROM written").split()}


def has_rows(name: str, rows: set[int]) -> bool:
    return stored(name) == rows


def assert_all_servers_agree() -> None:
    """The standbys have replayed what the primary has."""
    (primary,) = primaries()
    rows = stored(primary)
    for name in hosts():
        wait_for(partial(has_rows, name, rows), f"{name} has other rows than {primary}")


@pytest.fixture(scope="module", autouse=True)
def table() -> None:
    with connect() as connection:
        connection.execute("DROP TABLE IF EXISTS written")
        connection.execute("CREATE TABLE written (number int PRIMARY KEY)")


def container(name: str) -> Container:
    return docker.from_env().containers.get(f"celery-fleet-postgres-ha-{name}")


def test_standbys_follow_and_refuse_writes() -> None:
    assert primaries() == ["data1"]
    slots = "SELECT string_agg(slot_name || ' ' || active, ', ' ORDER BY slot_name) FROM pg_replication_slots"
    assert ask("data1", slots) == "data2 true, data3 true"
    assert ask("data1", "SHOW max_slot_wal_keep_size") == "4GB"

    with Client() as client:
        wait_for(lambda: len(client.confirmed) >= 20, "no rows are confirmed by a standby")

    assert stored("data1") == client.local | client.confirmed
    assert_all_servers_agree()
    with pytest.raises(errors.ReadOnlySqlTransaction):
        psycopg.connect(
            host=address(hosts()["data2"]),
            dbname="celery",
            user="celery_owner",
            password=SCENARIO.secrets["postgres_celery_owner"],
        ).execute("INSERT INTO written VALUES (0)")


def test_nobody_connects_to_pgbouncer_in_the_clear() -> None:
    with pytest.raises(psycopg.OperationalError, match="SSL required"):
        psycopg.connect(
            host=address(hosts()["data1"]),
            port=PGBOUNCER,
            dbname="celery",
            user="celery_owner",
            password=SCENARIO.secrets["postgres_celery_owner"],
            sslmode="disable",
        )


@pytest.mark.parametrize("user", ["celery_owner", "replicator"])
@pytest.mark.parametrize("name", ["data1", "data2"])
def test_nobody_connects_in_the_clear(name: str, user: str) -> None:
    with pytest.raises(psycopg.OperationalError, match=r"no pg_hba\.conf entry .* no encryption"):
        psycopg.connect(
            host=address(hosts()[name]),
            dbname={"celery_owner": "celery", "replicator": "postgres"}[user],
            user=user,
            password=SCENARIO.secrets[f"postgres_{user}"],
            sslmode="disable",
        )


def test_the_standbys_replicate_in_tls_and_know_their_primary() -> None:
    encrypted = "SELECT bool_and(ssl), count(*) FROM pg_stat_ssl JOIN pg_stat_replication USING (pid)"
    assert ask("data1", encrypted) == "t|2"
    for name in ("data2", "data3"):
        assert "sslmode=verify-full" in ask(name, "SELECT conninfo FROM pg_stat_wal_receiver")


def test_certificates_are_renewed_by_a_reload_while_connections_live() -> None:
    started = "SELECT pg_postmaster_start_time()"
    before = {name: (ask(name, started), certificate(name)) for name in hosts()}

    with connect() as connection, connect(PGBOUNCER) as pooled:
        # More days than a new one has left.
        SCENARIO.play(common_certificate_renew_days=366)
        connection.execute("SELECT 1")
        pooled.execute("SELECT 1")

    for name, (since, former) in before.items():
        assert ask(name, started) == since
        assert certificate(name) != former
        for port in (SERVER, PGBOUNCER):
            assert certificate(name, port) == (SCENARIO.authority.parent / name / "postgres.pem").read_bytes()
    assert_all_servers_agree()


def certificate(name: str, port: int = SERVER) -> bytes:
    """Return what a server shows, in PEM."""
    shown = hosts()["data1"].run(
        "openssl s_client -starttls postgres -connect %s </dev/null | openssl x509",
        f"{address(hosts()[name])}:{port}",
    )
    return bytes(shown.stdout_bytes)


def test_the_user_that_replicates_can_do_no_more() -> None:
    more = "SELECT rolsuper OR rolcreatedb OR rolcreaterole FROM pg_roles WHERE rolname = 'replicator'"
    assert ask("data1", more) == "f"
    assert ask("data1", "SELECT has_database_privilege('replicator', 'celery', 'CONNECT')") == "f"
    assert hosts()["data2"].file("/var/lib/postgresql/replication.pgpass").mode == 0o600
    with psycopg.connect(
        host=address(hosts()["data1"]),
        dbname="postgres",
        user="replicator",
        password=SCENARIO.secrets["postgres_replicator"],
        autocommit=True,
    ) as connection:
        for statement in ("SELECT pg_read_file('/etc/passwd')", "CREATE TABLE intruder (id int)"):
            with pytest.raises(errors.InsufficientPrivilege):
                connection.execute(statement)


def test_a_failover_without_a_new_primary_is_refused() -> None:
    with pytest.raises(AssertionError, match="say which standby becomes the primary: -e postgres_"):
        SCENARIO.play(playbook=FAILOVER)


def test_a_standby_that_is_behind_is_not_promoted() -> None:
    ask("data2", "SELECT pg_wal_replay_pause()")
    try:
        with connect() as connection:
            connection.execute("CREATE TABLE bulk AS SELECT repeat('x', 1000) FROM generate_series(1, 1000)")
            connection.execute("DROP TABLE bulk")
        with pytest.raises(AssertionError, match=r"data2: it is \d+ bytes behind data1; allowed are 100000"):
            fail_over("data2", postgres_promote_max_lag=100_000)
    finally:
        ask("data2", "SELECT pg_wal_replay_resume()")
    assert primaries() == ["data1"]


def test_a_failover_in_order_loses_nothing_and_is_never_turned_back(say: Callable[[str], None]) -> None:
    with Client() as client, Client(PGBOUNCER) as pooled:
        for each in (client, pooled):
            wait_for(partial(each.has_confirmed, 10), "no rows are written")
        printed = fail_over("data2")
        for each in (client, pooled):
            before = len(each.confirmed)
            wait_for(partial(each.has_confirmed, before + 1), "no rows are written after the failover")

    for each, way in ((client, ""), (pooled, " through PgBouncer")):
        rows = each.local | each.confirmed
        say(f"in order{way}: {len(rows)} rows, {each.longest_gap:.1f} s without writes")
        assert rows - stored("data2") == set()
    assert "data1 was stopped in order, nothing is lost" in printed
    assert primaries() == ["data2"]
    assert_all_servers_agree()
    converge_changes_nothing()
    assert primaries() == ["data2"]


def test_a_lost_primary_takes_along_only_what_no_standby_had(say: Callable[[str], None]) -> None:
    with Client() as client:
        wait_for(lambda: len(client.confirmed) >= 10, "no rows are written")
        hosts()["data2"].check_output("ip link set eth0 down")
        try:
            # A client beside the lost primary: its commits are acknowledged, and no standby has them.
            ask("data2", "INSERT INTO written SELECT generate_series(1000001, 1000100)")
            container("data2").kill("SIGKILL")
            # Its last words may have reached one of the others alone, and only that one is promoted.
            for name in dict.fromkeys((furthest("data1", "data3"), "data3")):
                fail_over(name)
            before = len(client.confirmed)
            wait_for(lambda: len(client.confirmed) > before, "no rows are written after the failover")
        finally:
            container("data2").start()

    rows = stored("data3")
    beside = set(range(1000001, 1000101))
    lost = client.local - rows
    say(
        f"primary lost: {client.longest_gap:.1f} s without writes; lost {len(client.confirmed - rows)} of"
        f" {len(client.confirmed)} rows that a standby confirmed, {len(lost)} of {len(client.local)} others,"
        f" and {len(beside - rows)} of {len(beside)} that were written while the primary was cut off"
    )
    assert client.confirmed - rows == set()
    assert beside & rows == set()
    assert len(lost) < 10  # what was under way when the network was cut


def test_a_former_primary_that_returns_stays_down_until_it_is_rebuilt() -> None:
    data2 = hosts()["data2"]
    wait_for(lambda: data2.run("systemctl is-system-running").stdout.strip() == "degraded", "no boot")
    journal = data2.check_output("journalctl -o cat -u postgresql@17-main")
    assert "this server was one: playbooks/failover_postgres.yml rebuilds it" in journal
    assert not data2.service("postgresql@17-main").is_running
    with pytest.raises(AssertionError, match="data2: this was a primary, and data3 is the primary now"):
        SCENARIO.play("--check", "--limit=data2")

    place = "stat --format=%i /var/lib/postgresql/17/main"
    before = data2.check_output(place)

    printed = fail_over("data3")

    assert "data3 was the primary already" in printed
    assert "cannot be rewound" not in printed
    assert data2.check_output(place) == before  # a copy would have replaced it
    assert primaries() == ["data3"]
    assert_all_servers_agree()
    converge_changes_nothing()


def test_a_standby_that_is_away_too_long_costs_the_primary_no_disk_and_is_copied_anew() -> None:
    status = "SELECT wal_status FROM pg_replication_slots WHERE slot_name = 'data1'"
    ask("data3", "ALTER SYSTEM SET max_slot_wal_keep_size = '32MB'")
    ask("data3", "SELECT pg_reload_conf()")
    hosts()["data1"].check_output("systemctl stop postgresql@17-main")
    for _ in range(5):
        ask("data3", "SELECT pg_logical_emit_message(false, 'test', 'x'), pg_switch_wal()")
    ask("data3", "CHECKPOINT")
    ask("data3", "ALTER SYSTEM RESET max_slot_wal_keep_size")
    ask("data3", "SELECT pg_reload_conf()")
    assert ask("data3", status) == "lost"

    printed = SCENARIO.play()

    assert "REBUILD data1: it does not follow data3 (the log that it needs is not kept any more)" in printed
    assert ask("data3", status) == "lost"
    with pytest.raises(AssertionError, match="data1: it does not follow data3"):
        SCENARIO.play(playbook=VERIFY)

    fail_over("data3")

    assert ask("data3", status) == "reserved"
    assert_all_servers_agree()
    SCENARIO.play(playbook=VERIFY)


def test_what_cannot_be_rewound_is_copied_and_said() -> None:
    hosts()["data1"].check_output("systemctl stop postgresql@17-main")
    hosts()["data1"].check_output("rm /var/lib/postgresql/17/main/global/pg_control")

    assert "data1 cannot be rewound" in fail_over("data3")

    assert_all_servers_agree()


def test_a_frozen_primary_that_goes_on_stops_before_it_splits_the_data(say: Callable[[str], None]) -> None:
    # By default a standby misses its primary after a minute.
    for name in ("data1", "data2"):
        ask(name, "ALTER SYSTEM SET wal_receiver_timeout = '5s'")
        ask(name, "SELECT pg_reload_conf()")
    with Client() as client:
        wait_for(partial(client.has_confirmed, 10), "no rows are written")
        container("data3").pause()
        try:
            promoted = furthest("data1", "data2")
            (other,) = {"data1", "data2"} - {promoted}
            # The other standby waits for the frozen host until it is led to the new primary.
            fail_over(promoted)
            follows = "SELECT status || ' ' || sender_host FROM pg_stat_wal_receiver"
            assert ask(other, follows) == f"streaming {promoted}"
        finally:
            container("data3").unpause()
        begin = time.monotonic()
        wait_for(
            lambda: not hosts()["data3"].service("postgresql@17-main").is_running, "two servers take writes"
        )
        say(f"frozen primary: stopped {time.monotonic() - begin:.1f} s after it went on")
        for name in ("data1", "data2"):
            ask(name, "ALTER SYSTEM RESET wal_receiver_timeout")
            ask(name, "SELECT pg_reload_conf()")
        fail_over(promoted)
        wait_for(partial(client.has_confirmed, len(client.confirmed) + 1), "no rows are written after it")

    journal = hosts()["data3"].check_output("journalctl -o cat -u postgres-fence")
    assert "another server is the primary now" in journal
    assert primaries() == [promoted]
    assert client.confirmed - stored(promoted) == set()
    assert_all_servers_agree()
    converge_changes_nothing()


@pytest.mark.parametrize("name", ["data1", "data2", "data3"])
def test_no_secret_and_no_key_can_be_seen(name: str) -> None:
    keys = [path.read_text().splitlines()[1] for path in SCENARIO.authority.parent.glob("**/*.key")]
    assert len(keys) == 4
    assert_no_secrets(hosts()[name], [*SCENARIO.secrets.values(), *keys])
