"""What was there before is taken over or refused in one line; what is refused changes nothing."""

from pathlib import Path
from typing import Any

import psycopg
import pytest
from support.hosts.scenario import Scenario, address

SCENARIO = Scenario("postgres")
ARCHIVE = Path(__file__).with_name("archive")
OBJECTS = """
SET ROLE celery_owner;
CREATE SCHEMA test_own;
CREATE TYPE test_own.state AS ENUM ('new', 'done');
CREATE TABLE test_own.job
    (id bigserial PRIMARY KEY, number int GENERATED ALWAYS AS IDENTITY, state test_own.state);
CREATE VIEW test_own.open AS SELECT id FROM test_own.job;
CREATE SEQUENCE test_own.counter;
CREATE FUNCTION test_own.one() RETURNS int LANGUAGE sql AS 'SELECT 1';
INSERT INTO test_own.job (state) SELECT 'new' FROM generate_series(1, 100);
"""
OWNERS = """
SELECT DISTINCT pg_get_userbyid(owner) FROM (
    SELECT nspowner AS owner FROM pg_namespace WHERE nspname = 'test_own'
    UNION ALL SELECT relowner FROM pg_class WHERE relnamespace = 'test_own'::regnamespace
    UNION ALL SELECT proowner FROM pg_proc WHERE pronamespace = 'test_own'::regnamespace
    UNION ALL SELECT typowner FROM pg_type WHERE typnamespace = 'test_own'::regnamespace
    UNION ALL SELECT datdba FROM pg_database WHERE datname = 'celery') AS things
"""

units = ["postgresql@15-main", "postgresql@17-main", "pgbouncer"]


def ask(host: Any, statement: str, database: str = "celery") -> str:
    return str(host.check_output("runuser -u postgres -- psql -At -d %s -c %s", database, statement))


def version(host: Any) -> str:
    return str(host.check_output("ls /etc/postgresql"))


def files(host: Any) -> str:
    """What the role writes, as checksums with owners and modes."""
    places = "/etc/postgresql/*/main /etc/pgbouncer/fleet /etc/systemd/system/*.service.d"
    return str(
        host.check_output(
            f"find {places} -type f ! -name '*~' -exec sha256sum {{}} + -exec stat -c '%n %U %G %a' {{}} +"
        )
    )


@pytest.fixture(scope="module")
def db12() -> Any:
    return SCENARIO.hosts()["db12"]


@pytest.fixture(scope="module")
def db13() -> Any:
    return SCENARIO.hosts()["db13"]


def refused(host: Any, words: str, **variables: Any) -> None:
    """A run is refused with these words, and host and service are as they were, also after a restart."""
    name = {"15": "db12", "17": "db13"}[version(host)]
    before = files(host)
    with pytest.raises(AssertionError) as failure:
        SCENARIO.play(f"--limit={name}", **variables)
    assert words in str(failure.value)
    assert files(host) == before
    host.check_output("systemctl restart %s", f"postgresql@{version(host)}-main")
    assert ask(host, "SELECT 1") == "1"


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        (
            {
                "postgres_clients": [
                    {"databases": ["celery"], "users": ["celery_app"], "addresses": ["10.0.0.0/33"]}
                ],
                "postgres_pgbouncer": False,
            },
            "10.0.0.0/33",
        ),
        (
            {
                "postgres_clients": [
                    {"databases": ["/("], "users": ["celery_app"], "addresses": ["10.0.0.0/24"]}
                ],
                "postgres_pgbouncer": False,
            },
            "(postgres_clients): pg_hba.conf: host /( celery_app 10.0.0.0/24 scram-sha-256: invalid regular",
        ),
        ({"postgres_extra_settings": {"work_mem": "many"}}, "invalid value for parameter"),
        ({"postgres_shared_preload_libraries": ["no_such"]}, "could not access file"),
        ({"postgres_extra_settings": {"shared_buffers": "900TB"}}, "shared_buffers"),
        ({"postgres_listen_addresses": ["192.0.2.1"]}, "192.0.2.1 is no address of this host"),
    ],
    ids=["network", "rule", "setting", "library", "memory", "address"],
)
def test_what_the_server_would_refuse_is_refused_before_it_is_written(
    db13: Any, variables: Any, words: str
) -> None:
    refused(db13, words, **variables)


def test_a_version_that_the_host_cannot_have_is_refused(db13: Any) -> None:
    refused(db13, "cluster of PostgreSQL 17, and version 16 is wanted: keep it", postgres_version="16")


def test_an_archive_that_cannot_be_reached_is_refused(db13: Any) -> None:
    url = "http://127.0.0.1:9/pub"
    refused(db13, f"the archive {url} cannot be used", postgres_source="pgdg", postgres_pgdg_url=url)
    assert not db13.file("/etc/apt/sources.list.d/celery-fleet-postgresql.sources").exists


def test_another_archive_becomes_a_source_once_apt_has_read_it(db13: Any) -> None:
    """An archive with one name and no package, signed with a key that nobody has any more."""
    folder, source = (
        "/srv/archive/dists/trixie-pgdg",
        "/etc/apt/sources.list.d/celery-fleet-postgresql.sources",
    )
    for name, path in (("InRelease", folder), ("Packages", f"{folder}/main/binary-amd64")):
        text = (ARCHIVE / name).read_text()
        db13.check_output("mkdir --parents %s && printf %%s %s >%s", path, text, f"{path}/{name}")
    server = "python3 -m http.server --bind 127.0.0.1 --directory /srv/archive 8765"
    db13.check_output(f"systemd-run --unit=test-archive {server}")
    given = {
        "postgres_source": "pgdg",
        "postgres_pgdg_url": "http://127.0.0.1:8765",
        "postgres_pgdg_key": str(ARCHIVE / "key.asc"),
    }
    try:
        SCENARIO.play("--limit=db13", **given)
        assert "postgresql-18" in db13.check_output("apt-cache pkgnames postgresql-").splitlines()
        assert db13.check_output("stat -c '%%U %%G %%a' %s", source) == "root root 644"
    finally:
        db13.check_output("systemctl stop test-archive; rm -r /srv/archive %s; apt-get update", source)


def test_a_server_that_lets_nobody_in_is_refused_with_its_remedy(db12: Any) -> None:
    hba = f"/etc/postgresql/{version(db12)}/main/pg_hba.conf"
    unit = f"postgresql@{version(db12)}-main"
    db12.check_output(f"cp --preserve {hba} /root/hba && sed -i '1i local all all reject' {hba}")
    db12.check_output("systemctl reload %s", unit)
    try:
        before = files(db12)
        with pytest.raises(AssertionError, match="make 'local all postgres peer' the first rule of"):
            SCENARIO.play("--limit=db12")
        assert files(db12) == before
    finally:
        db12.check_output(f"mv /root/hba {hba}; systemctl reload {unit}")


def test_a_line_that_wins_over_the_role_is_overruled_or_refused(db12: Any, db13: Any) -> None:
    """The file of the role is read once more at the end of postgresql.conf; ALTER SYSTEM is the user's."""
    main = f"/etc/postgresql/{version(db12)}/main/postgresql.conf"
    db12.check_output(f"""echo "listen_addresses = '*'" >>{main}""")
    db12.check_output("systemctl restart %s", f"postgresql@{version(db12)}-main")
    assert ask(db12, "SHOW listen_addresses") == "*"
    ask(db13, "ALTER SYSTEM SET log_min_duration_statement = '5s'")
    before = files(db13)
    try:
        with pytest.raises(AssertionError) as failure:
            SCENARIO.play()
        assert "run ALTER SYSTEM RESET log_min_duration_statement" in str(failure.value)
        assert files(db13) == before
    finally:
        ask(db13, "ALTER SYSTEM RESET log_min_duration_statement")
        ask(db13, "SELECT pg_reload_conf()")
    assert ask(db12, "SHOW listen_addresses") == "localhost,db12"
    assert "0.0.0.0:5432" not in db12.check_output("ss -Hltn 'sport = :5432'")


def test_the_objects_follow_the_owner_of_their_database(db13: Any) -> None:
    names = ("celery_owner", "celery_app", "celery_app_b", "celery_report")
    users = [{"name": name, "password": SCENARIO.secrets[f"postgres_{name}"]} for name in names]
    grants = [{"database": "celery", "user": "celery_app", "access": "read_write"}]
    ask(db13, f"DROP SCHEMA IF EXISTS test_own CASCADE; {OBJECTS}")
    try:
        for owner in ("celery_app_b", "celery_owner"):
            databases = [{"name": "celery", "owner": owner}, {"name": "other", "owner": "celery_owner"}]
            SCENARIO.play(
                "--limit=db13",
                postgres_users=users,
                postgres_databases=databases,
                postgres_grants=grants,
            )
            assert ask(db13, OWNERS) == owner
            # The next migration works, and the app with what it makes.
            with psycopg.connect(
                host=address(db13),
                dbname="celery",
                user=owner,
                password=SCENARIO.secrets[f"postgres_{owner}"],
            ) as connection:
                connection.execute(f"ALTER TABLE test_own.job ADD COLUMN by_{owner} int")
                connection.execute(f"CREATE TABLE test_own.{owner} (id int)")
            assert ask(db13, f"SELECT has_table_privilege('celery_app', 'test_own.{owner}', 'INSERT')") == "t"
            assert ask(db13, "SELECT count(*) FROM test_own.job") == "100"
            assert (
                ask(db13, "SELECT pg_get_userbyid(datdba) FROM pg_database WHERE datname = 'other'")
                == "celery_owner"
            )
    finally:
        ask(db13, "DROP SCHEMA test_own CASCADE")
        SCENARIO.play("--limit=db13")


@pytest.mark.parametrize("unit", ["postgresql@{}-main", "postgresql", "pgbouncer"])
def test_each_unit_exposes_at_most_2_5(host: Any, unit: str) -> None:
    host.run_expect([0], f"systemd-analyze security --threshold=25 {unit.format(version(host))}")


def test_a_long_query_is_compiled_in_the_sandbox(host: Any) -> None:
    ask(host, "SET jit_above_cost = 0; SELECT sum(number) FROM generate_series(1, 1000) AS number")
