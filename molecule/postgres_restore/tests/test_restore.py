"""Rows are written, destroyed and restored, and compared by their numbers. These tests follow one another."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from support.hosts.scenario import Scenario
from support.hosts.secrets_scan import assert_no_secrets
from support.processes.services import wait_for

SCENARIO = Scenario("postgres_restore")
BACKUP = "../../playbooks/backup_postgres.yml"
FAILOVER = "../../playbooks/failover_postgres.yml"
RESTORE = "../../playbooks/restore_postgres.yml"
VERIFY = "../../playbooks/verify_postgres.yml"

DATA = "/var/lib/postgresql/17/main"

units = ["postgresql@17-main", "pgbackrest"]


def hosts() -> dict[str, Any]:
    return SCENARIO.hosts()


def ask(name: str, statement: str, database: str = "celery") -> str:
    """What the administrator of one server is answered."""
    return str(hosts()[name].check_output("runuser -u postgres -- psql -At -d %s -c %s", database, statement))


def write(name: str, first: int, last: int) -> set[int]:
    """Rows with these numbers."""
    ask(name, f"INSERT INTO kept SELECT generate_series({first}, {last})")
    return set(range(first, last + 1))


def rows(name: str) -> set[int]:
    return {int(line) for line in ask(name, "SELECT number FROM kept").split()}


def moment(name: str) -> str:
    """The present moment, by the clock of the server; a later commit has a later time."""
    return ask(name, "SELECT clock_timestamp() FROM pg_sleep(0.01)")


def info() -> Any:
    """What pgBackRest knows of the cluster in its repository."""
    show = "runuser -u postgres -- pgbackrest --stanza=main --output=json info"
    return json.loads(hosts()["backup1"].check_output(show))[0]


def backups() -> list[str]:
    """The labels of the backups in the repository."""
    return [backup["label"] for backup in info()["backup"]]


def backup_runs() -> bool:
    return bool(info()["status"]["lock"]["backup"]["held"])


@contextmanager
def frozen_backup() -> Iterator[None]:
    """A backup that takes as long as what happens meanwhile."""
    unit, number = "postgres-backup@diff", len(backups())
    backup1 = hosts()["backup1"]
    backup1.check_output("systemctl start --no-block %s", unit)
    wait_for(backup_runs, "no backup runs")
    backup1.check_output("systemctl kill --signal=STOP %s", unit)
    try:
        yield
        assert backup_runs()
    finally:
        backup1.check_output("systemctl kill --signal=CONT %s", unit)
    wait_for(lambda: len(backups()) == number + 1, "the backup does not end")


def restore(name: str, to: str, **variables: object) -> str:
    return SCENARIO.play(playbook=RESTORE, postgres_new_primary=name, postgres_restore_to=to, **variables)


def converge_changes_nothing() -> None:
    changed = re.findall(r"changed=(\d+)", SCENARIO.play())
    assert changed == ["0"] * len(hosts())


def check() -> tuple[int, str]:
    """Exit status and words of the check that monitoring runs."""
    done = hosts()["backup1"].run("/usr/local/sbin/postgres-backup-check")
    return done.rc, (done.stdout + done.stderr).strip()


def destroy(name: str) -> None:
    """As a disk that is gone: no order, no last words."""
    hosts()[name].check_output(
        "systemctl kill --signal=KILL postgresql@17-main; rm -rf %s/base %s/global %s/pg_wal",
        DATA,
        DATA,
        DATA,
    )


def assert_replicated(primary: str, standby: str, wanted: set[int]) -> None:
    """Both have exactly these rows."""
    assert ask(primary, "SELECT pg_is_in_recovery()") == "f"
    assert rows(primary) == wanted
    assert ask(standby, "SELECT pg_is_in_recovery()") == "t"
    wait_for(lambda: rows(standby) == wanted, f"{standby} has other rows than {primary}")


@pytest.fixture(scope="module")
def state() -> dict[str, Any]:
    """What the tests know of the rows: which there were at which moment."""
    primary = "data1" if ask("data1", "SELECT pg_is_in_recovery()") == "f" else "data2"
    wait_for(lambda: bool(backups()), "the first backup is not made by itself", within=120)
    ask(primary, "DROP TABLE IF EXISTS kept")
    ask(primary, "CREATE TABLE kept (number int PRIMARY KEY)")
    return {"primary": primary, "standby": "data2" if primary == "data1" else "data1"}


def test_a_backup_is_made_now(state: dict[str, Any]) -> None:
    before = backups()
    state["rows"] = write(state["primary"], 1, 100)

    printed = SCENARIO.play(playbook=BACKUP)

    assert len(backups()) == len(before) + 1
    assert backups()[-1].endswith("D")
    assert f"the last, {backups()[-1]}, ended" in printed


def test_the_repository_is_encrypted_and_nobody_else_reads_it() -> None:
    backup1 = hosts()["backup1"]
    info = "/var/lib/pgbackrest/backup/main/backup.info"
    assert backup1.check_output("head -c 8 %s", info) == "Salted__"
    assert backup1.file("/var/lib/pgbackrest").mode == 0o750
    assert backup1.file("/etc/pgbackrest/conf.d/passphrase.conf").mode == 0o640
    for name in ("data1", "data2"):
        assert not hosts()[name].file("/etc/pgbackrest/conf.d/passphrase.conf").exists


def test_a_stranger_is_not_admitted() -> None:
    """With a certificate that was not exchanged, even one of the right name."""
    data1 = hosts()["data1"]
    data1.check_output("install -d -o postgres -m 700 /tmp/stranger")
    try:
        data1.check_output(
            "openssl req -x509 -config /etc/pgbackrest/certificate.cnf -newkey ec"
            " -pkeyopt ec_paramgen_curve:prime256v1 -noenc -keyout /tmp/stranger/key.pem"
            " -out /tmp/stranger/certificate.pem && chown postgres: /tmp/stranger/*"
        )
        done = data1.run(
            "runuser -u postgres -- pgbackrest --stanza=main --repo1-host-key-file=/tmp/stranger/key.pem"
            " --repo1-host-cert-file=/tmp/stranger/certificate.pem info"
        )
        assert "unknown ca" in done.stdout + done.stderr
    finally:
        data1.check_output("rm -r /tmp/stranger")


def test_the_check_tells_of_old_backups_and_of_a_log_that_does_not_arrive(state: dict[str, Any]) -> None:
    backup1 = hosts()["backup1"]
    assert check()[0] == 0
    for timer in ("postgres-backup-full", "postgres-backup-diff", "postgres-backup-check"):
        assert backup1.service(f"{timer}.timer").is_running
        assert backup1.service(f"{timer}.timer").is_enabled

    backup1.check_output(
        "sed -i 's/^ALLOWED_HOURS = .*/ALLOWED_HOURS = 0/' /usr/local/sbin/postgres-backup-check"
    )
    try:
        status, words = check()
        assert status == 1
        assert "hours ago, allowed are 0" in words
        assert backup1.run("systemctl start postgres-backup-check").rc != 0
        assert "postgres-backup-check" in backup1.check_output("systemctl --failed")
    finally:
        backup1.check_output(
            "sed -i 's/^ALLOWED_HOURS = .*/ALLOWED_HOURS = 26/' /usr/local/sbin/postgres-backup-check"
        )
        backup1.check_output("systemctl reset-failed postgres-backup-check")

    primary = hosts()[state["primary"]]
    primary.check_output("systemctl stop pgbackrest")
    try:
        status, words = check()
        assert status == 1
        assert "but the log of the primary does not arrive: ERROR" in words
        with pytest.raises(AssertionError, match=r"backup1: .* but the log of the primary does not arrive"):
            SCENARIO.play(playbook=VERIFY)
    finally:
        primary.check_output("systemctl start pgbackrest")
    SCENARIO.play(playbook=VERIFY)


@pytest.mark.parametrize(
    ("to", "reason"),
    [
        ("yesterday", "postgres_restore_to: 'yesterday' is no moment"),
        ("2026-01-01 00:00:00", "is no moment"),
        ("2001-01-01 00:00:00+00", "no backup ended before 2001-01-01"),
        ("2999-01-01 00:00:00+00", "lies in the future"),
        ("", "say which server is restored and to which moment"),
    ],
)
def test_a_moment_that_cannot_be_restored_is_refused_before_anything_is_touched(
    state: dict[str, Any], to: str, reason: str
) -> None:
    with pytest.raises(AssertionError, match=re.escape(reason)):
        restore(state["primary"], to)
    assert rows(state["primary"]) == state["rows"]


def test_destroyed_data_are_back_as_of_a_moment_and_then_of_a_later_one(state: dict[str, Any]) -> None:
    primary = state["primary"]
    early = state["rows"] | write(primary, 101, 200)
    noted = moment(primary)
    state["rows"] = (early | write(primary, 201, 300)) - set(range(1, 51))
    ask(primary, "DELETE FROM kept WHERE number <= 50")
    later = moment(primary)
    write(primary, 301, 400)
    timeline = ask(primary, "SELECT timeline_id FROM pg_control_checkpoint()")
    assert check()[0] == 0  # all of it has arrived
    destroy(primary)

    printed = restore(primary, noted)

    assert f"{primary} is the primary with the data of {noted}" in printed
    assert_replicated(primary, state["standby"], early)

    restore(primary, later, postgres_restore_timeline=timeline)

    assert_replicated(primary, state["standby"], state["rows"])
    with frozen_backup():
        converge_changes_nothing()


def test_lost_servers_that_are_made_anew_have_their_last_data_back(state: dict[str, Any]) -> None:
    primary = state["primary"]
    state["rows"] |= write(primary, 401, 500)
    assert check()[0] == 0
    for name in (primary, state["standby"]):
        destroy(name)
        hosts()[name].check_output("rm -r /etc/postgresql/17 /var/lib/postgresql/17")
    with pytest.raises(AssertionError, match="no backups of this cluster can be kept"):
        SCENARIO.play()

    restore(primary, "latest")

    assert_replicated(primary, state["standby"], state["rows"])
    converge_changes_nothing()


def test_after_a_failover_the_new_primary_archives_and_is_backed_up(state: dict[str, Any]) -> None:
    SCENARIO.play(playbook=FAILOVER, postgres_new_primary=state["standby"])
    state["primary"], state["standby"] = state["standby"], state["primary"]
    state["rows"] |= write(state["primary"], 501, 600)

    SCENARIO.play(playbook=BACKUP, postgres_backup_type="incr")

    assert backups()[-1].endswith("I")
    assert check()[0] == 0
    assert_replicated(state["primary"], state["standby"], state["rows"])


def test_a_standby_whose_log_the_primary_has_dropped_takes_it_from_the_repository(
    state: dict[str, Any],
) -> None:
    primary, standby = state["primary"], state["standby"]
    ask(primary, "ALTER SYSTEM SET max_slot_wal_keep_size = '32MB'")
    ask(primary, "SELECT pg_reload_conf()")
    try:
        hosts()[standby].check_output("systemctl stop postgresql@17-main")
        state["rows"] |= write(primary, 601, 700)
        for _ in range(5):
            ask(primary, "SELECT pg_logical_emit_message(false, 'test', 'x'), pg_switch_wal()")
        ask(primary, "CHECKPOINT")
        assert ask(primary, "SELECT wal_status FROM pg_replication_slots") == "lost"
    finally:
        ask(primary, "ALTER SYSTEM RESET max_slot_wal_keep_size")
        ask(primary, "SELECT pg_reload_conf()")

    SCENARIO.play()

    assert_replicated(primary, standby, state["rows"])
    journal = hosts()[standby].check_output("tail -n 100 /var/log/postgresql/postgresql-17-main.log")
    assert "restored log file" in journal


@pytest.mark.parametrize("name", ["data1", "data2", "backup1"])
def test_no_secret_can_be_seen(name: str) -> None:
    assert_no_secrets(hosts()[name], SCENARIO.secrets.values())
