"""The modules and the templates of the role postgres, without a host."""

import os
import socket
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.celery_fleet.platform.plugins.module_utils.fleet_rules import of_role
from ansible_collections.celery_fleet.platform.plugins.module_utils.fleet_rules.evaluation import inventory
from support.made_up_fleets import as_written
from support.role_files import (
    FACTS,
    HERE,
    ROLES,
    Place,
    evaluate,
    load_module,
    load_shared,
    refusal,
    render,
    security_score,
)

access = load_module("postgres_access")
config = load_module("postgres_config")
scratch = load_shared("postgres_scratch")
server = load_shared("postgres_server")
source = load_module("postgres_source")
owner = load_shared("postgres_owner")
pgbouncer = load_module("postgres_pgbouncer")
state = load_module("postgres_state")
certificate = load_module("certificate")

USERS = [
    {"name": "celery_owner", "password": "an-owner-password"},
    {"name": "celery_app", "password": "an-app-password-1"},
]
DATABASES = [{"name": "celery", "owner": "celery_owner"}]


def test_the_verifier_is_that_of_the_standard() -> None:
    # The exchange of RFC 7677: password, salt and the proof that the client gives.
    verifier = access.scram_verifier("pencil", access.base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096)
    assert verifier == (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:"
        "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )


@pytest.mark.parametrize(
    ("stored", "matches"),
    [
        (access.scram_verifier("right", b"salt"), True),
        (access.scram_verifier("right", b"salt", 10_000), True),
        (access.scram_verifier("wrong", b"salt"), False),
        ("md5" + "0" * 32, False),
        ("right", False),
        (None, False),
    ],
)
def test_a_stored_password_is_compared(stored: str | None, matches: bool) -> None:
    assert access.password_matches("right", stored) is matches


def test_what_is_held_beyond_the_wanted_is_superfluous() -> None:
    wanted = access.wanted_privileges({"app": "read_only"}, "celery", ["public"], ["public.job"], [])
    too_much = {
        access.Privilege("TABLE", "public.job", "app", "TRUNCATE"),
        access.Privilege("SCHEMA", "public", "idle", "CREATE"),
        access.Privilege("DATABASE", '"celery"', "PUBLIC", "CONNECT"),
        access.Privilege("SCHEMA", "public", "PUBLIC", "CREATE"),
    }
    left_alone = {
        access.Privilege("TABLE", "public.job", "owner", "TRUNCATE"),
        access.Privilege("SCHEMA", "public", "PUBLIC", "USAGE"),
        access.Privilege("TABLE", "public.job", "exporter", "SELECT"),
    }
    assert access.superfluous(wanted | too_much | left_alone, wanted, {"app", "idle"}) == too_much


def test_statements_name_each_thing_once() -> None:
    wanted = access.wanted_privileges({"app": "read_write"}, "celery", ["public"], ['public."Job"'], [])
    assert access.privilege_statements("GRANT", "owner", wanted) == [
        'GRANT CONNECT ON DATABASE "celery" TO "app"',
        'ALTER DEFAULT PRIVILEGES FOR ROLE "owner" GRANT USAGE ON SCHEMAS TO "app"',
        'ALTER DEFAULT PRIVILEGES FOR ROLE "owner" GRANT SELECT, USAGE ON SEQUENCES TO "app"',
        'ALTER DEFAULT PRIVILEGES FOR ROLE "owner" GRANT DELETE, INSERT, SELECT, UPDATE ON TABLES TO "app"',
        'GRANT USAGE ON SCHEMA public TO "app"',
        'GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE public."Job" TO "app"',
    ]
    revoked = {access.Privilege("DATABASE", '"celery"', "PUBLIC", "CONNECT")}
    assert access.privilege_statements("REVOKE", "owner", revoked) == [
        'REVOKE CONNECT ON DATABASE "celery" FROM PUBLIC'
    ]


def test_names_are_quoted() -> None:
    assert access.quoted('a"b') == '"a""b"'


@pytest.mark.parametrize(("loaded", "is_stale"), [(99.0, True), (100.05, True), (100.2, False)])
def test_a_newer_file_makes_the_server_stale(loaded: float, is_stale: bool) -> None:
    assert server.stale([50.0, 100.0], loaded) is is_stale


def test_a_certificate_that_its_key_does_not_fit_is_named(tmp_path: Path) -> None:
    for name in ("own", "other"):
        certificate.build("data1", 1, None, []).write(tmp_path / name)
    own, other = tmp_path / "own", tmp_path / "other"

    assert scratch.unfit(f"{own}.pem", f"{own}.key") == []
    (line,) = scratch.unfit(f"{own}.pem", f"{other}.key")
    assert "own.pem cannot be used with" in line
    assert len(scratch.unfit(f"{own}.pem", f"{tmp_path}/none.key")) == 1


@pytest.mark.parametrize(
    ("sockets", "port"),
    [
        ([".s.PGSQL.5432", ".s.PGSQL.5432.lock", "17-main.pid"], 5432),
        ([".s.PGSQL.5432", ".s.PGSQL.6000"], 6000),
        ([], 6000),
    ],
)
def test_a_port_that_waits_for_the_restart_is_not_asked(sockets: list[str], port: int) -> None:
    assert server.port_in_use(6000, sockets) == port


def test_the_diff_has_what_differs_only() -> None:
    assert config.changes({"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}) == (
        "b = 2\n",
        "b = 3\nc = 4\n",
    )


OWN = "/etc/postgresql/17/main/conf.d/celery-fleet.conf"
MAIN = "/etc/postgresql/17/main/postgresql.conf"
AUTO = "/var/lib/postgresql/17/main/postgresql.auto.conf"


def test_the_last_line_of_a_setting_counts() -> None:
    lines = [
        ("port", "5433", MAIN, 64),
        ("port", "5432", OWN, 3),
        ("work_mem", "4MB", OWN, 4),
        ("listen_addresses", "localhost", OWN, 5),
        ("work_mem", "4MB", MAIN, 820),  # the same: nothing is overridden
        ("listen_addresses", "*", MAIN, 821),
        ("jit", "off", MAIN, 822),  # nobody wants it otherwise
    ]
    assert server.overriding(lines, server.OWN_FILE) == [
        ("listen_addresses", f"{MAIN}:821", "is '*', and 'localhost' is wanted")
    ]


def test_what_alter_system_has_set_is_named_with_its_remedy() -> None:
    line = scratch.overridden([("work_mem", f"{AUTO}:3", "is '1MB', and '4MB' is wanted")])
    assert f"work_mem ({AUTO}:3) is '1MB', and '4MB' is wanted" in line
    assert "run ALTER SYSTEM RESET work_mem, or set it so in the inventory" in line


def test_the_file_of_the_role_is_read_last() -> None:
    once = scratch.with_include("port = 5433\ninclude_dir = 'conf.d'\nlisten_addresses = '*'\n\n\n")
    assert once.splitlines()[:3] == ["port = 5433", "include_dir = 'conf.d'", "listen_addresses = '*'"]
    assert once.splitlines()[-1] == "include 'conf.d/celery-fleet.conf'"
    again = scratch.with_include(once + "work_mem = '1GB'\n")
    assert again.count("include 'conf.d/celery-fleet.conf'") == 1
    assert again.splitlines()[-1] == "include 'conf.d/celery-fleet.conf'"


@pytest.mark.parametrize(
    ("printed", "line"),
    [
        (
            'LOG:  invalid value for parameter "work_mem": "many"\nHINT:  Valid units are.\n'
            'FATAL:  configuration file "/scratch/conf.d/celery-fleet.conf" contains errors\n',
            'invalid value for parameter "work_mem": "many"',
        ),
        (
            'LOG:  starting PostgreSQL 17.5\nFATAL:  could not access file "nosuch": No such file\n',
            'could not access file "nosuch": No such file',
        ),
        ('FATAL:  "/scratch/pg_hba.conf" is odd\n', '"/etc/postgresql/17/main/pg_hba.conf" is odd'),
        ("", "it ended without any output"),
    ],
)
def test_why_a_server_does_not_start_is_one_line(printed: str, line: str) -> None:
    assert scratch.refusal(printed, "/scratch", "/etc/postgresql/17/main") == line


def test_a_wrong_rule_is_told_with_its_line(tmp_path: Path) -> None:
    hba = tmp_path / "pg_hba.conf"
    hba.write_text("local all postgres peer\nhost celery all 10.0.0.0/33 scram-sha-256\n")
    printed = (
        f'LOG:  invalid CIDR mask in address "10.0.0.0/33"\nCONTEXT:  line 2 of configuration file "{hba}"\n'
        f"FATAL:  could not load {hba}\n"
    )
    assert scratch.refusal(printed, str(tmp_path), "/etc/postgresql/17/main") == (
        'pg_hba.conf: host celery all 10.0.0.0/33 scram-sha-256: invalid CIDR mask in address "10.0.0.0/33"'
    )


def test_where_nobody_can_listen_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert scratch.unusable(["127.0.0.1"], port, taken=False) == [
            f"postgres_port: another program listens on port {port} of 127.0.0.1"
        ]
        assert scratch.unusable(["127.0.0.1"], port, taken=True) == []
    assert scratch.unusable(["192.0.2.1"], port, taken=True) == [
        "postgres_listen_addresses: 192.0.2.1 is no address of this host"
    ]


@pytest.mark.parametrize(
    ("said", "advice"),
    [
        ("pg_hba.conf rejects connection for host", "make 'local all postgres peer' the first rule of /x"),
        ("fe_sendauth: no password supplied", "make 'local all postgres peer' the first rule of /x"),
        ('role "postgres" does not exist', "CREATE ROLE postgres SUPERUSER LOGIN"),
    ],
)
def test_a_server_that_lets_nobody_in_is_told_with_its_remedy(said: str, advice: str) -> None:
    line = state.refused_login(said, Path("/x"), "postgresql@17-main")
    assert said in line
    assert advice in line


def test_a_path_that_the_role_does_not_manage_is_told_with_its_remedy() -> None:
    for name in ("data_directory", "hba_file"):
        line = state.elsewhere(name, "/srv/pg", Path("/wanted"), "postgresql@17-main")
        assert line.startswith(f"{name} is /srv/pg, and the role manages /wanted: ")


def test_data_in_a_folder_that_the_unit_hides_are_found(tmp_path: Path) -> None:
    home, data = tmp_path / "home", tmp_path / "data"
    for folder in (home / "shop/space", home / "main/pg_wal", home / "main/pg_tblspc", tmp_path / "ssd"):
        folder.mkdir(parents=True)
    data.symlink_to(home / "main")
    (data / "pg_tblspc/1").symlink_to(home / "shop/space")
    (data / "pg_tblspc/2").symlink_to(tmp_path / "ssd")

    assert state.homes(data, (f"{home}/",)) == [str(home / "main"), str(home / "shop/space")]
    assert state.homes(data) == []


def test_a_second_cluster_is_found(tmp_path: Path) -> None:
    for name in ("17/main", "17/reports", "15/main"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "postgresql.conf").touch()
    assert state.other_clusters(tmp_path, "17") == ["17/reports"]


def test_apt_says_which_versions_there_are_and_why_an_archive_cannot_be_used() -> None:
    names = "postgresql-17-pgvector\npostgresql-9.6\npostgresql-17\npostgresql-client-18\npostgresql-18\n"
    assert source.versions(names) == ["17", "18"]
    said = (
        "Err:1 https://mirror.example trixie-pgdg InRelease\n"
        "W: Failed to fetch https://mirror.example/dists/x  Could not resolve 'mirror.example'\n"
        "W: Some index files failed to download.\n"
    )
    assert source.complaint(said, "https://mirror.example/") == (
        "Failed to fetch https://mirror.example/dists/x  Could not resolve 'mirror.example'"
    )


def test_each_object_is_given_to_the_owner() -> None:
    objects = [
        ("table", 'public."Job"'),
        ("statistics object", "public.s"),
        ("function", "public.f(integer)"),
    ]
    assert owner.statements(objects, '"shop"') == [
        'ALTER TABLE public."Job" OWNER TO "shop"',
        'ALTER STATISTICS public.s OWNER TO "shop"',
        'ALTER FUNCTION public.f(integer) OWNER TO "shop"',
    ]


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


def rendered(variables: dict[str, Any], place: Place = HERE) -> dict[str, str]:
    """The rendered files, by what they are."""
    paths = {
        "settings": "etc/postgresql/main/conf.d/celery-fleet.conf.j2",
        "access": "etc/postgresql/main/pg_hba.conf.j2",
        "unit": "etc/systemd/system/postgresql@.service.d/celery-fleet.conf.j2",
    }
    texts = render("postgres", list(paths.values()), variables, place)
    return {name: texts[path] for name, path in paths.items()}


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


# One primary and two standbys, seen from the first standby.
HOSTS: dict[str, Any] = {
    "data1": {"postgres_replication_host": "10.0.0.1"},
    "data2": {"postgres_replication_of": "data1"},
    "data3": {"postgres_replication_of": "data1"},
}
ON_DATA2 = Place("data2", HOSTS, "data1,data2,data3")
OF_DATA1: dict[str, Any] = {
    "postgres_replication_of": "data1",
    "postgres_replication_password": "a-replication:password",
}


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


# The same servers and the host of their backups.
ARCHIVE = Place("backup1", {**HOSTS, "backup1": {}}, "all", {"postgres": [*HOSTS]})
TO_BACKUP1: dict[str, Any] = {
    "postgres_repository": "backup1",
    "postgres_repository_passphrase": "a-passphrase-of-backups",
}
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


def test_an_archive_that_cannot_work_is_refused() -> None:
    cases = [
        (TO_BACKUP1, ""),
        ({**TO_BACKUP1, "postgres_repository": ""}, ""),
        ({**TO_BACKUP1, "postgres_repository_passphrase": "short"}, "allowed: 16 or more ASCII"),
        (
            {**TO_BACKUP1, "postgres_repository": "data1"},
            "data1 is one of the servers, and backups must outlive",
        ),
        ({**TO_BACKUP1, "postgres_repository": "nowhere"}, "'nowhere' is no host of the inventory"),
    ]
    for given, message in cases:
        found = refused({**HOSTS, "backup1": given}, "backup1", {"postgres": [*HOSTS]})
        assert message in "; ".join(found)
        assert bool(found) == bool(message)


@pytest.mark.parametrize(
    ("to", "right"),
    [
        ("latest", True),
        ("2026-11-24 10:00:00+00", True),
        ("2026-11-24 10:00:00.123456-03:30", True),
        ("2026-11-24 10:00:00", False),
        ("2026-11-24", False),
        ("2026-11-24T10:00:00Z", False),
        ("now; true", False),
    ],
)
def test_a_moment_has_a_time_zone(to: str, right: bool) -> None:
    variables = {**TO_BACKUP1, "postgres_restore_to": to}
    ((*errors,),) = evaluate("postgres", "__postgres_restore_errors", [variables], ARCHIVE)
    assert not errors if right else "is no moment" in errors[0]


STATE: dict[str, Any] = {
    "versions": ["17"],
    "data": True,
    "configured": True,
    "running": True,
    "standby": False,
}
PRIMARY = {**STATE, "streaming": False, "position": 1000, "replayed": 1000, "last_commit": ""}
STANDBY = {**PRIMARY, "standby": True, "streaming": True}
BARE = {"versions": [], "data": False, "configured": False, "running": False, "standby": False}
STOPPED = {**STATE, "running": False}
SILENT = {"msg": "unreachable", "unreachable": True}


def states(data1: dict[str, Any], data2: dict[str, Any], data3: dict[str, Any]) -> dict[str, Any]:
    """The variables of data2 when the servers answered so."""
    return {**OF_DATA1, "__postgres_states": {"data1": data1, "data2": data2, "data3": data3}}


def test_what_the_servers_say_counts_and_not_the_inventory() -> None:
    cases = [
        (states(BARE, BARE, BARE), ["data1", True]),
        (states(PRIMARY, STANDBY, STANDBY), ["data1", True]),
        (states(STANDBY, PRIMARY, STANDBY), ["data2", False]),  # after a failover
        (states(SILENT, BARE, PRIMARY), ["data3", True]),  # a new host after a failover
    ]
    expression = "[__postgres_primary, __postgres_standby | bool]"
    assert evaluate("postgres", expression, [given for given, _wanted in cases], ON_DATA2) == [
        wanted for _given, wanted in cases
    ]


def test_servers_that_do_not_fit_together_are_named() -> None:
    cases = [
        (
            states(PRIMARY, {**STANDBY, "versions": ["15", "17"]}, STANDBY),
            "a cluster of PostgreSQL 15, and version 17 is wanted: keep it (postgres_version: 15), or",
        ),
        (states(PRIMARY, PRIMARY, STANDBY), "two primaries take writes: data1, data2; choose one with"),
        (states(PRIMARY, STOPPED, STANDBY), "this was a primary, and data1 is the primary now"),
        (states(PRIMARY, {**STOPPED, "configured": False}, STANDBY), "data of a cluster without its config"),
    ]
    right = [states(BARE, BARE, BARE), states(STANDBY, PRIMARY, STANDBY), states(SILENT, STANDBY, STANDBY)]
    given = [variables for variables, _message in cases]
    found = evaluate("postgres", "__postgres_state_errors", [*given, *right], ON_DATA2)
    for (_given, message), errors in zip(cases, found[: len(cases)], strict=True):
        assert len(errors) == 1
        assert message in errors[0]
    assert found[len(cases) :] == [[], [], []]


def test_how_far_a_standby_is_behind_is_known_while_its_primary_answers() -> None:
    behind = {**STANDBY, "replayed": 900}
    cases = [
        states(PRIMARY, behind, STANDBY),
        states(SILENT, behind, STANDBY),
        states(PRIMARY, SILENT, STANDBY),
    ]

    assert evaluate("postgres", "__postgres_known_lag | int", cases, ON_DATA2) == [100, 0, 0]


def test_an_empty_host_becomes_a_primary_only_beside_other_empty_hosts() -> None:
    cases = [states(BARE, BARE, BARE), states(BARE, SILENT, BARE), states(BARE, STOPPED, BARE)]
    cases = [{**variables, "postgres_replication_of": ""} for variables in cases]
    place = Place("data1", HOSTS)
    new, *refused = evaluate("postgres", "__postgres_state_errors", cases, place)
    assert new == []
    assert all("no new primary is made while the other servers" in errors[0] for errors in refused)
    # After a failover the host that the inventory calls the primary is made a standby.
    replaced = {**states(BARE, PRIMARY, STANDBY), "postgres_replication_of": ""}
    expression = "[__postgres_primary, __postgres_standby | bool, __postgres_state_errors]"
    assert evaluate("postgres", expression, [replaced], place) == [["data2", True, []]]


def test_a_standby_that_would_lose_more_than_it_must_is_not_promoted() -> None:
    behind = {**STANDBY, "replayed": 100, "position": 100}
    cut_off = {**STANDBY, "streaming": False}
    cases = [
        (
            {**states(PRIMARY, behind, STANDBY), "postgres_promote_max_lag": 899},
            "it is 900 bytes behind data1",
        ),
        (states(PRIMARY, cut_off, STANDBY), "it does not follow data1, which is the primary and answers"),
        (states(SILENT, behind, cut_off), "other standbys have received more: data3; promote that one"),
        (states(PRIMARY, STOPPED, STANDBY), "PostgreSQL does not run here"),
    ]
    right = [
        {**states(PRIMARY, behind, STANDBY), "postgres_promote_max_lag": 900},
        states(SILENT, cut_off, cut_off),
        states(PRIMARY, PRIMARY, STANDBY),
    ]
    given = [variables for variables, _message in cases]
    found = evaluate("postgres", "__postgres_promote_errors", [*given, *right], ON_DATA2)
    for (_given, message), errors in zip(cases, found[: len(cases)], strict=True):
        assert len(errors) == 1
        assert message in errors[0]
    assert found[len(cases) :] == [[], [], []]


def test_all_clusters_of_a_host_are_found(tmp_path: Path) -> None:
    config, data = tmp_path / "etc", tmp_path / "var"
    (config / "13").mkdir(parents=True)
    (data / "17/main").mkdir(parents=True)
    (data / "17/main/PG_VERSION").write_text("16\n", encoding="utf-8")
    assert state.found_versions(config, data) == ["13", "16"]
    assert state.found_versions(tmp_path / "none", tmp_path / "none") == []


def test_the_rules_of_access_know_scram_and_the_local_administrator_only(files: dict[str, str]) -> None:
    rules = [line for line in files["access"].splitlines() if line and not line.startswith("#")]
    assert rules[0] == "local all postgres peer"
    assert all(rule.endswith(" scram-sha-256") for rule in rules[1:])
    assert rules[-2:] == [
        "host celery celery_app,celery_owner 10.0.0.0/24 scram-sha-256",
        "hostssl all reader samenet scram-sha-256",
    ]


RIGHT: dict[str, Any] = {"postgres_users": USERS, "postgres_databases": DATABASES}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"postgres_users": [{"name": "app", "password": "short"}]}, "allowed: 16 or more ASCII characters"),
    ({"postgres_users": [{"name": "postgres", "password": "x" * 16}]}, "cannot be a name"),
    ({"postgres_users": [{"name": "replicator", "password": "x" * 16}]}, "cannot be a name"),
    ({"postgres_databases": [{"name": "shop", "owner": "nobody"}]}, "the owner nobody of shop is not in"),
    ({"postgres_grants": [{"database": "shop", "user": "x"}]}, "x on shop names a user or a database"),
    ({"postgres_extra_settings": {"port": 1}}, "port belongs to the role"),
    ({"postgres_extra_settings": {"primary_conninfo": ""}}, "primary_conninfo belongs to the role"),
    ({"postgres_extra_settings": {"archive_command": ""}}, "archive_command belongs to the role"),
    ({"postgres_source": "ubuntu"}, "postgres_source: is 'ubuntu'; allowed: debian, pgdg"),
    (
        {"postgres_replication_clients": ["2001:db8::11/32"]},
        "'2001:db8::11/32' is the network of a whole provider",
    ),
    ({"postgres_replication_of": "alone"}, "alone cannot be a standby of itself"),
    ({"postgres_replication_of": "data9"}, "'data9' is no host of the inventory"),
]


def test_an_address_alone_is_that_host_alone() -> None:
    addresses = ["198.51.100.11", "2001:db8::11", "10.0.0.0/24", "2001:db8::/32", "samenet", "db.example.org"]
    clients = [{"databases": ["celery"], "users": ["celery_app"], "addresses": addresses}]
    files = rendered({"postgres_clients": clients})
    assert [line.split()[3] for line in files["access"].splitlines()[-6:]] == [
        "198.51.100.11/32",
        "2001:db8::11/128",
        "10.0.0.0/24",
        "2001:db8::/32",
        "samenet",
        "db.example.org",
    ]
    of_data1 = {**OF_DATA1, "postgres_replication_clients": ["2001:db8::11"]}
    rules = rendered(of_data1, ON_DATA2)["access"].splitlines()
    assert rules[-1] == "host replication,postgres replicator 2001:db8::11/128 scram-sha-256"
    hba = "etc/pgbouncer/fleet/hba.conf.j2"
    pooled = render(
        "postgres",
        [hba],
        {
            "ansible_facts": {**FACTS, "interfaces": []},
            "postgres_clients": [clients[0] | {"addresses": addresses[:2]}],
        },
    )
    assert [line.split()[3] for line in pooled[hba].splitlines()[-2:]] == [
        "198.51.100.11/32",
        "2001:db8::11/128",
    ]


def refused(
    hosts: dict[str, dict[str, Any]], name: str, groups: dict[str, list[str]] | None = None
) -> list[str]:
    """What the role refuses on a host of an inventory."""
    seen = replace(inventory(hosts, groups or {}, as_written), play=list(hosts))
    found = of_role("postgres", seen.hosts[name], seen)
    return [f"{finding.variable}: {finding.text}" for finding in found]


@pytest.mark.parametrize(("inputs", "message"), WRONG)
def test_wrong_input_is_named(inputs: dict[str, Any], message: str) -> None:
    assert message in "; ".join(refused({"alone": inputs}, "alone"))


def test_right_input_passes() -> None:
    assert refused({"alone": {**RIGHT, "postgres_version": 17}}, "alone") == []


def test_a_version_that_the_role_does_not_manage_is_refused() -> None:
    cases: list[dict[str, Any]] = [
        {"ansible_facts": {**FACTS, "distribution_major_version": "14"}},
        {"postgres_version": "9.6"},
        {"postgres_version": "14"},
        {},
    ]
    unknown, old, older, right = evaluate("postgres", "__postgres_errors", cases)
    assert "carries no version of PostgreSQL that" in unknown[0]
    assert "'9.6' is no major version that this role manages (allowed: 15 and newer" in old[0]
    assert "'14' is no major version that this role manages (allowed: 15 and newer" in older[0]
    assert right == []


def test_the_role_itself_refuses_wrong_input_and_an_unknown_version() -> None:
    """In a playbook of somebody's own, with nothing but the path of the roles."""
    inputs = {"postgres_users": [{"name": "postgres", "password": "x" * 16}], "postgres_version": "9.6"}
    found = refusal("postgres", inputs)
    assert "'9.6' is no major version" in found
    assert "postgres_users: 'postgres' cannot be a name" in found


def test_a_cluster_has_one_primary_and_a_password() -> None:
    def on_data2(given: dict[str, Any], **others: dict[str, Any]) -> list[str]:
        return refused({**HOSTS, **others, "data2": given}, "data2")

    assert on_data2(OF_DATA1) == []
    of_a_standby = on_data2({**OF_DATA1, "postgres_replication_of": "data3"})
    assert "data3 is itself a standby, of data1; allowed: the primary" in of_a_standby[0]
    assert on_data2({"postgres_replication_of": "data1"}) == [
        "postgres_replication_password: is not set; allowed: 16 or more ASCII characters without blanks"
    ]
    (error,) = on_data2(OF_DATA1, alone={})
    assert error.startswith("postgres_replication_of: two primaries in one play with standbys: alone, data1;")


def test_memory_is_not_promised_twice() -> None:
    both = {"redis": ["alone"], "postgres": ["alone"]}
    enough = {"postgres_memory_percent": 40, "redis_maxmemory_percent": 60}

    assert refused({"alone": RIGHT}, "alone", both) == [
        "redis_maxmemory_percent: is 50 and postgres_memory_percent is 100, more memory than there is; "
        "allowed: 100 together"
    ]
    assert refused({"alone": RIGHT | enough}, "alone", both) == []


def test_too_few_connections_for_the_worker_groups_are_refused() -> None:
    # Two worker hosts under supervisors, which share their groups, and one without.
    supervised = {
        "celery_app_supervised": True,
        "celery_app_worker_groups": [
            {"name": "short", "pool": "prefork", "concurrency": 4, "workers": 1, "max_workers": 5},
            {"name": "io", "pool": "threads", "concurrency": 50, "workers": 1, "max_workers": 2},
        ],
    }
    fixed = {"name": "fixed", "pool": "prefork", "concurrency": 4, "workers": 2}
    hosts: dict[str, Any] = {
        "localhost": {},
        "worker1": {"celery_app_worker_groups": [fixed]},
        "worker2": supervised,
        "worker3": supervised,
    }
    pooled: dict[str, Any] = {
        "postgres_pgbouncer": True,
        "postgres_app_pool_size": 10,
        "postgres_max_connections": 10,
    }
    pooled |= {
        "postgres_databases": [{"name": "celery", "owner": "o"}],
        "postgres_users": [{"name": "o", "password": "p" * 16}],
    }
    cases = [
        {"postgres_app_pool_size": 10, "postgres_max_connections": 50},
        {"postgres_app_pool_size": 10, "postgres_max_connections": 51},
        {"postgres_max_connections": 10},
        pooled | {"postgres_pgbouncer_max_clients": 48, "postgres_pgbouncer_pool_size": 7},
        pooled | {"postgres_pgbouncer_max_clients": 47, "postgres_pgbouncer_pool_size": 8},
    ]
    too_few, *right, too_small_pool = [refused({**hosts, "localhost": case}, "localhost") for case in cases]
    sum_of_groups = "(fixed on worker1: 8, short: 20, io: 20)"
    assert too_few == [
        "postgres_max_connections: 50 leaves 47 for the app, whose workers may open 48 "
        f"{sum_of_groups}; allowed: 51 or more"
    ]
    assert right == [[], [], []]
    assert too_small_pool == [
        "postgres_max_connections: 10 leaves 7 for PgBouncer, which may open 8"
        " (postgres_pgbouncer_pool_size: 8 for each database); allowed: 11 or more",
        "postgres_pgbouncer_max_clients: is 47, and the workers of the app may open 48 "
        f"{sum_of_groups}; allowed: 48 or more",
    ]


def test_pgbouncer_refuses_clients_by_name() -> None:
    entry = {"databases": ["celery"], "users": ["all"]}
    addresses = ["10.0.0.0/24", "fd00::/8", "samenet", "worker1.example.org"]
    case = {"postgres_clients": [entry | {"addresses": addresses}]}
    assert refused({"alone": case | {"postgres_pgbouncer": True}}, "alone") == [
        "postgres_clients: 'worker1.example.org' is no network, and PgBouncer knows no other; "
        "allowed: such as 10.0.0.0/24, samenet"
    ]
    assert refused({"alone": case}, "alone") == []


def test_pgbouncer_knows_the_networks_of_the_host() -> None:
    facts = {
        "interfaces": ["lo", "eth0", "br-one", "dummy0"],
        "lo": {"ipv4": {"address": "127.0.0.1", "network": "127.0.0.0", "prefix": "8"}},
        "eth0": {
            "ipv4": {"address": "10.0.0.7", "network": "10.0.0.0", "prefix": "24"},
            "ipv4_secondaries": [{"address": "10.2.0.1", "network": "10.2.0.0", "prefix": "24"}],
        },
        "br_one": {"ipv4": {"address": "10.1.0.1", "network": "10.1.0.0", "prefix": "16"}},
        "dummy0": {},
    }
    (networks,) = evaluate("postgres", "__postgres_own_networks", [{"ansible_facts": facts}], HERE)
    assert networks.split() == ["10.1.0.0/16", "10.0.0.0/24", "10.2.0.0/24", "127.0.0.0/8"]


@pytest.mark.parametrize(
    ("read", "static", "action"),
    [
        (100.0, 100.0, ""),
        (250.0, 100.0, "reloaded"),
        (150.0, 100.0, ""),  # read by a reload already
        (100.0, 150.0, "restarted"),  # which a reload did not apply
        (250.0, 250.0, "restarted"),
    ],
)
def test_pgbouncer_reads_what_is_newer_than_what_it_runs(read: float, static: float, action: str) -> None:
    done, files = pgbouncer.wanted({"read": read}, {"static": static}, loaded=200.0, started=120.0)
    assert done == action
    assert bool(files) == bool(action)


def test_the_files_of_the_archive_are_read_before_they_are_written() -> None:
    check = "[__postgres_archive_check, __postgres_archive_files, __postgres_archive_secret_files]"

    (repository,) = evaluate("postgres", check, [TO_BACKUP1], ARCHIVE)
    (server,) = evaluate("postgres", check, [{**OF_DATA1, **TO_BACKUP1}], replace(ARCHIVE, host="data2"))

    for words, (file,), _secret in (repository, server):
        assert words[-1] == "info"
        assert f"--config={{root}}{file['path']}" in words
    assert "--config-include-path={root}/etc/pgbackrest/conf.d" in repository[0]
    assert repository[2][0]["path"].startswith("/etc/pgbackrest/conf.d/")
    # It reaches no repository that has not heard of it yet.
    assert "--reset-repo1-host" in server[0]


def test_a_certificate_that_a_cut_off_play_left_is_made_anew(tmp_path: Path) -> None:
    tasks = yaml.safe_load((ROLES / "postgres/tasks/archive.yml").read_text())
    (make,) = (task for task in tasks if task["name"] == "archive | Make the key and the certificate")
    said = tmp_path / "certificate.cnf"
    said.write_text("[req]\nprompt = no\ndistinguished_name = host\n[host]\nCN = data1\n")

    def made() -> str:
        script = ["sh", "-c", make["ansible.builtin.shell"]["cmd"]]
        return subprocess.run(script, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    assert made() == "made\n"
    first = (tmp_path / "certificate.pem").read_text()
    assert made() == ""
    # Written, and the play ended.
    later = (tmp_path / "certificate.pem").stat().st_mtime + 1
    os.utime(said, (later, later))
    made()
    assert (tmp_path / "certificate.pem").read_text() != first
