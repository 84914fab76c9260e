"""The modules and the templates of the role postgres, without a host."""

import base64
import os
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from ansible_collections.celery_fleet.platform.plugins.module_utils import postgres_privileges as privileges
from ansible_collections.celery_fleet.platform.plugins.module_utils.postgres_scram import (
    password_matches,
    scram_verifier,
)
from support.made_up_postgres import (
    ARCHIVE,
    OF_DATA1,
    TO_BACKUP1,
)
from support.role_files import (
    ROLES,
    evaluate,
    load_module,
    load_shared,
)

config = load_module("postgres_config")
scratch = load_shared("postgres_scratch")
server = load_shared("postgres_server")
source = load_module("postgres_source")
owner = load_shared("postgres_owner")
pgbouncer = load_module("postgres_pgbouncer")
state = load_module("postgres_state")
certificate = load_module("certificate")


def test_the_verifier_is_that_of_the_standard() -> None:
    # The exchange of RFC 7677: password, salt and the proof that the client gives.
    verifier = scram_verifier("pencil", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="), 4096)
    assert verifier == (
        "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:"
        "wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
    )


@pytest.mark.parametrize(
    ("stored", "matches"),
    [
        (scram_verifier("right", b"salt"), True),
        (scram_verifier("right", b"salt", 10_000), True),
        (scram_verifier("wrong", b"salt"), False),
        ("md5" + "0" * 32, False),
        ("right", False),
        (None, False),
    ],
)
def test_a_stored_password_is_compared(stored: str | None, matches: bool) -> None:
    assert password_matches("right", stored) is matches


def test_what_is_held_beyond_the_wanted_is_superfluous() -> None:
    wanted = privileges.wanted_privileges({"app": "read_only"}, "celery", ["public"], ["public.job"], [])
    too_much = {
        privileges.Privilege("TABLE", "public.job", "app", "TRUNCATE"),
        privileges.Privilege("SCHEMA", "public", "idle", "CREATE"),
        privileges.Privilege("DATABASE", '"celery"', "PUBLIC", "CONNECT"),
        privileges.Privilege("SCHEMA", "public", "PUBLIC", "CREATE"),
    }
    left_alone = {
        privileges.Privilege("TABLE", "public.job", "owner", "TRUNCATE"),
        privileges.Privilege("SCHEMA", "public", "PUBLIC", "USAGE"),
        privileges.Privilege("TABLE", "public.job", "exporter", "SELECT"),
    }
    assert privileges.superfluous(wanted | too_much | left_alone, wanted, {"app", "idle"}) == too_much


def test_statements_name_each_thing_once() -> None:
    wanted = privileges.wanted_privileges({"app": "read_write"}, "celery", ["public"], ['public."Job"'], [])
    assert privileges.privilege_statements("GRANT", "owner", wanted) == [
        'GRANT CONNECT ON DATABASE "celery" TO "app"',
        'ALTER DEFAULT PRIVILEGES FOR ROLE "owner" GRANT USAGE ON SCHEMAS TO "app"',
        'ALTER DEFAULT PRIVILEGES FOR ROLE "owner" GRANT SELECT, USAGE ON SEQUENCES TO "app"',
        'ALTER DEFAULT PRIVILEGES FOR ROLE "owner" GRANT DELETE, INSERT, SELECT, UPDATE ON TABLES TO "app"',
        'GRANT USAGE ON SCHEMA public TO "app"',
        'GRANT DELETE, INSERT, SELECT, UPDATE ON TABLE public."Job" TO "app"',
    ]
    revoked = {privileges.Privilege("DATABASE", '"celery"', "PUBLIC", "CONNECT")}
    assert privileges.privilege_statements("REVOKE", "owner", revoked) == [
        'REVOKE CONNECT ON DATABASE "celery" FROM PUBLIC'
    ]


def test_names_are_quoted() -> None:
    assert privileges.quoted('a"b') == '"a""b"'


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


def test_all_clusters_of_a_host_are_found(tmp_path: Path) -> None:
    config, data = tmp_path / "etc", tmp_path / "var"
    (config / "13").mkdir(parents=True)
    (data / "17/main").mkdir(parents=True)
    (data / "17/main/PG_VERSION").write_text("16\n", encoding="utf-8")
    assert state.found_versions(config, data) == ["13", "16"]
    assert state.found_versions(tmp_path / "none", tmp_path / "none") == []


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
        script = make["ansible.builtin.shell"]["cmd"].replace("/etc/pgbackrest", str(tmp_path))
        return subprocess.run(["sh", "-c", script], check=True, capture_output=True, text=True).stdout

    assert made() == "made\n"
    first = (tmp_path / "certificate.pem").read_text()
    assert made() == ""
    # Written, and the play ended.
    later = (tmp_path / "certificate.pem").stat().st_mtime + 1
    os.utime(said, (later, later))
    made()
    assert (tmp_path / "certificate.pem").read_text() != first
