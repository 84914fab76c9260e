"""What the role postgres renders: settings, rules of access, units."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.made_up_postgres import ARCHIVE, DATABASES, OF_DATA1, ON_DATA2, TO_BACKUP1, USERS, rendered
from support.role_files import (
    load_module,
    load_shared,
    render,
    security_score,
)

access = load_module("postgres_access")
server = load_shared("postgres_server")
BASE = "[Service]\nType=oneshot\nExecStart=/bin/true\n"
UNITS = [
    "postgresql@.service.d/celery-fleet-sandbox.conf",
    "postgresql.service.d/celery-fleet-sandbox.conf",
    "pgbouncer.service.d/celery-fleet.conf",
    "pgbackrest.service.d/celery-fleet.conf",
    "postgres-backup@.service",
    "postgres-backup-check.service",
]


@pytest.fixture(scope="module")
def units() -> dict[str, str]:
    """Each unit, or what the role adds to that of a package, by its path."""
    paths = [f"etc/systemd/system/{path}.j2" for path in UNITS]
    texts = render("postgres", paths, {"__postgres_states": {"localhost": {}}})
    return {path: texts[f"etc/systemd/system/{path}.j2"] for path in UNITS}


@pytest.mark.parametrize("path", UNITS)
def test_each_unit_exposes_at_most_2_5(units: dict[str, str], path: str, tmp_path: Path) -> None:
    unit = path.split("/", maxsplit=1)[0].removesuffix(".d").replace("@", "")
    text = units[path]
    (tmp_path / unit).write_text(BASE + text if path.endswith(".conf") else text)

    score = security_score(tmp_path, unit)

    assert score.returncode == 0, score.stdout + score.stderr
    assert "Overall exposure level" in score.stdout


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    """The rendered files."""
    variables: dict[str, Any] = {
        "postgres_users": USERS,
        "postgres_databases": DATABASES,
        "postgres_clients": [
            {"databases": ["celery"], "users": ["celery_app", "celery_owner"], "addresses": ["10.0.0.0/24"]},
            {"databases": ["all"], "users": ["reader"], "addresses": ["samenet"], "tls": True},
        ],
        "postgres_extra_settings": {"work_mem": "1GB", "log_line_prefix": "it's", "jit": False},
    }
    return rendered(variables)


def test_the_settings_are_computed_and_may_be_overridden(files: dict[str, str]) -> None:
    lines = files["settings"].splitlines()
    for line in (
        "shared_buffers = '1024MB'",
        "effective_cache_size = '3072MB'",
        "maintenance_work_mem = '256MB'",
        "work_mem = '1GB'",
        "log_line_prefix = 'it''s'",
        "jit = off",
        "max_connections = 100",
        "password_encryption = 'scram-sha-256'",
        "log_min_duration_statement = '1s'",
        "shared_preload_libraries = 'pg_stat_statements'",
    ):
        assert line in lines


def test_a_server_alone_has_nothing_of_a_replication(files: dict[str, str]) -> None:
    for name, text in files.items():
        assert not any(word in text for word in ("replicat", "primary", "slot", "ExecStartPre")), name


def test_a_server_reaches_the_primary_whichever_of_the_others_it_is() -> None:
    files = rendered({**OF_DATA1, "postgres_replication_clients": ["10.0.0.0/24"]}, ON_DATA2)

    (conninfo,) = [line for line in files["settings"].splitlines() if line.startswith("primary_conninfo")]
    assert " = 'host=10.0.0.1,data3 port=5432 user=replicator passfile=" in conninfo
    assert "target_session_attrs=primary" in conninfo
    assert "primary_slot_name = 'data2'" in files["settings"].splitlines()
    assert "max_slot_wal_keep_size = '4GB'" in files["settings"].splitlines()
    assert files["access"].splitlines()[-1] == (
        "host replication,postgres replicator 10.0.0.0/24 scram-sha-256"
    )
    assert "ExecStartPre=/usr/local/sbin/postgres-may-start %i" in files["unit"].splitlines()
    assert "password" not in files["settings"].replace("password_encryption", "")


def test_with_tls_nobody_may_connect_in_the_clear_and_servers_verify_each_other() -> None:
    clients = [{"databases": ["celery"], "users": ["celery_app"], "addresses": ["10.0.0.0/24"]}]
    files = rendered({**OF_DATA1, "postgres_tls": True, "postgres_clients": clients}, ON_DATA2)

    kinds = {line.split()[0] for line in files["access"].splitlines() if not line.startswith("#") and line}
    assert kinds == {"local", "hostssl"}
    settings = files["settings"].splitlines()
    assert "ssl = 'on'" in settings
    (conninfo,) = [line for line in settings if line.startswith("primary_conninfo")]
    assert "sslmode=verify-full sslrootcert=/etc/postgresql-common/tls/authority.pem" in conninfo


def test_the_password_is_written_as_libpq_reads_it() -> None:
    path = "var/lib/postgresql/replication.pgpass.j2"
    text = render("postgres", [path], {"postgres_replication_password": r"with:colon\and-backslash"})
    assert text[path].splitlines()[-1] == r"*:*:*:replicator:with\:colon\\and-backslash"


PGBACKREST = "etc/pgbackrest/pgbackrest.conf.j2"


def test_the_repository_knows_all_servers_and_each_server_only_the_repository() -> None:
    repository = render("postgres", [PGBACKREST], TO_BACKUP1, ARCHIVE)[PGBACKREST].splitlines()
    for line in (
        "tls-server-auth=data1=main",
        "tls-server-auth=data3=main",
        "pg1-host=10.0.0.1",
        "pg3-host=data3",
        "repo1-cipher-type=aes-256-cbc",
        "repo1-retention-full=2",
    ):
        assert line in repository
    on_data2 = replace(ARCHIVE, host="data2")
    server = render("postgres", [PGBACKREST], {**OF_DATA1, **TO_BACKUP1}, on_data2)[PGBACKREST].splitlines()
    assert [line for line in server if line.startswith("tls-server-auth")] == ["tls-server-auth=backup1=main"]
    assert "repo1-host=backup1" in server
    assert not [line for line in [*repository, *server] if "cipher-pass" in line]

    settings = rendered({**OF_DATA1, **TO_BACKUP1}, on_data2)["settings"].splitlines()
    assert "archive_mode = 'on'" in settings
    assert """archive_command = 'pgbackrest --stanza=main archive-push "%p"'""" in settings
    assert """restore_command = 'pgbackrest --stanza=main archive-get %f "%p"'""" in settings


def test_the_archive_listens_where_its_hosts_are() -> None:
    for host, address in (("backup1", "*"), ("2001:db8::9", "::")):
        variables = {**TO_BACKUP1, "postgres_repository_host": host}
        lines = render("postgres", [PGBACKREST], variables, ARCHIVE)[PGBACKREST].splitlines()
        assert f"tls-server-address={address}" in lines


def test_the_rules_of_access_know_scram_and_the_local_administrator_only(files: dict[str, str]) -> None:
    rules = [line for line in files["access"].splitlines() if line and not line.startswith("#")]
    assert rules[0] == "local all postgres peer"
    assert all(rule.endswith(" scram-sha-256") for rule in rules[1:])
    assert rules[-2:] == [
        "host celery celery_app,celery_owner 10.0.0.0/24 scram-sha-256",
        "hostssl all reader samenet scram-sha-256",
    ]
