"""What the role redis renders: settings, users, units."""

import re
from pathlib import Path
from typing import Any

import pytest
from support.made_up_redis import HA_USERS, USERS
from support.role_files import (
    FACTS,
    evaluate,
    load_module,
    render,
    security_score,
)

module = load_module("redis_live_config")


@pytest.fixture(scope="module")
def files() -> dict[str, str]:
    """The rendered files."""
    variables: dict[str, Any] = {
        "redis_users": USERS,
        "redis_bind": ["127.0.0.1", "broker"],
        "redis_save": [],
        "redis_extra_settings": {"slowlog-max-len": 256, "activedefrag": False},
    }
    settings, access = "etc/redis/redis.conf.j2", "etc/redis/users.acl.j2"
    rendered = render("redis", [settings, access], variables)
    return {"settings": rendered[settings], "access": rendered[access]}


def test_the_settings_are_rendered(files: dict[str, str]) -> None:
    lines = files["settings"].splitlines()
    assert lines[1] == "# Ansible managed"
    for line in (
        "bind 127.0.0.1 broker",
        'save ""',
        'logfile ""',
        "appendonly yes",
        "maxmemory 2048mb",
        "maxmemory-policy noeviction",
        "protected-mode yes",
        "slowlog-max-len 256",
        "activedefrag no",
    ):
        assert line in lines


def test_the_users_are_rendered_with_hashes_only(files: dict[str, str]) -> None:
    default, app, operator = files["access"].splitlines()
    assert default == "user default off ~* &* +@all"
    assert app.startswith("user app on #")
    assert " -@dangerous " in app
    assert operator.count(" #") == 2
    assert operator.endswith(" ~* &* +@all -debug")
    for user in USERS:
        assert str(user["password"]) not in files["access"]


# As getent answers: the address that is asked for, each of its sockets.
RESOLVED = {
    "ansible_facts": FACTS
    | {"getent_ahosts": {"data1": None, "2001:db8::11": [["RAW"]], "203.0.113.11": [["RAW"]]}}
}


@pytest.fixture(scope="module")
def ha_files() -> dict[str, str]:
    """The rendered files of a host with a replicated server and a sentinel."""
    names = ["redis.conf", "sentinel.conf", "sentinel-users.acl"]
    variables = {"redis_users": HA_USERS, "redis_replication_of": "data1", "redis_min_replicas_to_write": 1}
    rendered = render("redis", [f"etc/redis/{name}.j2" for name in names], variables | RESOLVED)
    return {name: rendered[f"etc/redis/{name}.j2"] for name in names}


def test_a_replicated_server_can_log_in_to_the_others_whatever_it_is(ha_files: dict[str, str]) -> None:
    lines = ha_files["redis.conf"].splitlines()
    for line in ("masteruser replicas", 'masterauth "a-replicas-password"', "min-replicas-to-write 1"):
        assert line in lines
    assert not [line for line in lines if line.startswith("replicaof")]


def test_a_sentinel_watches_the_first_primary(ha_files: dict[str, str]) -> None:
    lines = ha_files["sentinel.conf"].splitlines()
    for line in (
        "sentinel monitor celery 203.0.113.11 6379 2",
        "sentinel auth-user celery watch",
        "sentinel auth-pass celery a-sentinels-password",
        "sentinel sentinel-user watch",
        "sentinel sentinel-pass a-sentinels-password",
        "sentinel down-after-milliseconds celery 5000",
    ):
        assert line in lines


def test_a_sentinel_has_the_users_of_redis_with_rights_of_their_own(ha_files: dict[str, str]) -> None:
    default, app, operator, replicas, watch = ha_files["sentinel-users.acl"].splitlines()
    assert default == "user default off resetchannels -@all"
    assert app.startswith("user app on #")
    assert "+sentinel|get-master-addr-by-name" in app
    assert "+@all" not in app
    assert "failover" not in app
    assert operator.endswith(" &* +@all")
    assert replicas.endswith(" -@all")
    assert "+sentinel|is-master-down-by-addr" in watch


def test_with_tls_nothing_listens_in_the_clear() -> None:
    names = ["etc/redis/redis.conf.j2", "etc/redis/sentinel.conf.j2"]
    variables = {"redis_users": HA_USERS, "redis_replication_of": "data1", "redis_tls": True}
    rendered = render("redis", names, variables | RESOLVED)
    for name, port in zip(names, (6379, 26379), strict=True):
        for line in (
            "port 0",
            f"tls-port {port}",
            "tls-replication yes",
            "tls-auth-clients no",
            "tls-key-file /etc/redis/tls/key.pem",
        ):
            assert line in rendered[name].splitlines()
    # Where the others are found.
    assert "sentinel monitor celery 203.0.113.11 6379 2" in rendered[names[1]]


def test_the_host_reaches_its_own_server_where_it_listens() -> None:
    binds = [["127.0.0.1", "x"], ["-::1"], ["*"], ["0.0.0.0"], ["::*"], ["192.0.2.11"]]  # noqa: S104
    found = evaluate("redis", "__redis_address", [{"redis_bind": bind} for bind in binds])
    assert found == ["127.0.0.1", "::1", "127.0.0.1", "127.0.0.1", "::1", "192.0.2.11"]


def test_previous_passwords_are_accepted_until_their_time_ends() -> None:
    accepted, ended = evaluate(
        "redis",
        "__redis_acl[2]['passwords'] | length",
        [{"redis_users": USERS}, {"redis_users": USERS, "redis_previous_passwords": False}],
    )
    assert (accepted, ended) == (2, 1)


def test_the_unit_of_the_copies_exposes_at_most_2_5(tmp_path: Path) -> None:
    template = "etc/systemd/system/redis-backup.service.j2"
    unit = render("redis", [template], {"redis_users": USERS})[template]
    (tmp_path / "redis-backup.service").write_text(unit)

    score = security_score(tmp_path, "redis-backup.service")

    assert score.returncode == 0, score.stdout + score.stderr
    assert "Overall exposure level" in score.stdout


def test_nothing_of_redis_is_named_where_the_provider_is_valkey() -> None:
    files = render(
        "redis",
        [
            "etc/redis/redis.conf.j2",
            "etc/redis/sentinel.conf.j2",
            "etc/systemd/system/redis-backup.service.j2",
            "usr/local/sbin/redis-backup.j2",
        ],
        {
            "redis_users": [
                *HA_USERS,
                {"name": "copies", "preset": "backup", "password": "a-backup-password"},
            ],
            "redis_provider": "valkey",
            "redis_replication_of": "192.0.2.11",
            "redis_sentinel": True,
            "redis_tls": True,
            **RESOLVED,
        },
    )
    of_redis = re.compile(
        r"(?m)/(?:etc|run|lib)/redis|redis-(?:server|sentinel|cli|check)|^(?:User|Group)=redis"
    )
    assert of_redis.findall("\n".join(files.values())) == []
    assert "dir /var/lib/valkey" in files["etc/redis/redis.conf.j2"]
