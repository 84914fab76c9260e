"""The modules and the templates of the role postgres, without a host."""

from typing import Any

import pytest
from role_files import evaluate, load_module, render

access = load_module("postgres", "postgres_access")
live = load_module("postgres", "postgres_live_config")

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
    assert live.stale([50.0, 100.0], loaded) is is_stale


@pytest.mark.parametrize(
    ("sockets", "port"),
    [
        ([".s.PGSQL.5432", ".s.PGSQL.5432.lock", "17-main.pid"], 5432),
        ([".s.PGSQL.5432", ".s.PGSQL.6000"], 6000),
        ([], 6000),
    ],
)
def test_a_port_that_waits_for_the_restart_is_not_asked(sockets: list[str], port: int) -> None:
    assert live.port_in_use(6000, sockets) == port


def test_the_diff_has_what_differs_only() -> None:
    assert live.changes({"a": "1", "b": "2"}, {"a": "1", "b": "3", "c": "4"}) == ("b = 2\n", "b = 3\nc = 4\n")


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
    settings, access = "etc/postgresql/main/conf.d/celery-fleet.conf.j2", "etc/postgresql/main/pg_hba.conf.j2"
    rendered = render("postgres", [settings, access], variables)
    return {"settings": rendered[settings], "access": rendered[access]}


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
    ):
        assert line in lines


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
    ({"postgres_users": [{"name": "app", "password": "short"}]}, "must be 16 or more ASCII characters"),
    ({"postgres_users": [{"name": "postgres", "password": "x" * 16}]}, "cannot be a name"),
    ({"postgres_databases": [{"name": "shop", "owner": "nobody"}]}, "the owner nobody of shop is not in"),
    ({"postgres_grants": [{"database": "shop", "user": "x"}]}, "x on shop names a user or a database"),
    ({"postgres_extra_settings": {"port": 1}}, "port belongs to the role"),
]


def test_wrong_input_is_named_and_right_input_passes() -> None:
    found = evaluate("postgres", "__postgres_errors", [*[inputs for inputs, _message in WRONG], RIGHT])
    for (_inputs, message), errors in zip(WRONG, found[:-1], strict=True):
        assert message in "; ".join(errors)
    assert found[-1] == []
