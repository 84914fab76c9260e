"""The modules and the templates of the role redis, without a host."""

import os
import pwd
import re
import socket
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.celery_fleet.platform.plugins.module_utils.fleet_rules import of_role
from ansible_collections.celery_fleet.platform.plugins.module_utils.fleet_rules.evaluation import inventory
from support.made_up_fleets import as_written
from support.role_files import (
    FACTS,
    ROLES,
    Place,
    evaluate,
    load_module,
    load_shared,
    refusal,
    render,
    security_score,
)

module = load_module("redis_live_config")
config_file = load_module("redis_config_file")
server = load_shared("redis_server")
replication = load_module("redis_replication")
restore = load_module("redis_restore")
packages = load_module("redis_packages")
health = load_module("redis_health")
switchover = load_module("redis_switchover")
takeover = load_module("redis_takeover")
config_check = load_module("redis_config_check")
scratch = load_shared("redis_scratch")

USERS: list[dict[str, Any]] = [
    {"name": "app", "preset": "app", "password": "an-app-password-1"},
    {
        "name": "operator",
        "preset": "operator",
        "password": "an-operator-password",
        "previous_password": "a-former-password",
        "rules": ["-debug"],
    },
]


@pytest.mark.parametrize(
    ("value", "written"),
    [(True, "yes"), (False, "no"), (["3600 1", "300 100"], "3600 1 300 100"), ([], ""), (6379, "6379")],
)
def test_values_are_written_as_redis_reads_them(value: object, written: str) -> None:
    assert module.words(value) == written


@pytest.mark.parametrize(
    ("name", "wanted", "running"),
    [
        ("maxmemory", "1gb", "1073741824"),
        ("maxmemory", "1G", "1000000000"),
        ("maxmemory", "512MB", "536870912"),
        ("appendonly", "YES", "yes"),
        ("save", "", ""),
        ("save", "3600 1  300 100", "3600 1 300 100"),
        ("notify-keyspace-events", "Kl", "lK"),
        ("notify-keyspace-events", "KA", "g$lshztxedK"),
        (
            "client-output-buffer-limit",
            "pubsub 32mb 8mb 60",
            "normal 0 0 0 slave 1 1 1 pubsub 33554432 8388608 60",
        ),
        ("client-output-buffer-limit", "replica 1kb 1 1", "normal 0 0 0 slave 1024 1 1 pubsub 1 1 1"),
        ("bind", "127.0.0.1 -::1", "127.0.0.1 -::1"),
    ],
)
def test_two_ways_to_write_the_same_are_equal(name: str, wanted: str, running: str) -> None:
    assert module.same(name, wanted, running)


@pytest.mark.parametrize(
    ("name", "wanted", "running"),
    [
        ("maxmemory", "1gb", "1000000000"),
        ("save", "", "3600 1"),
        ("bind", "127.0.0.1 -::1", "-::1 127.0.0.1"),
        ("notify-keyspace-events", "K", "lK"),
        ("client-output-buffer-limit", "pubsub 1 1 1", "normal 0 0 0 slave 1 1 1 pubsub 2 1 1"),
    ],
)
def test_what_differs_is_seen(name: str, wanted: str, running: str) -> None:
    assert not module.same(name, wanted, running)


def test_an_unknown_setting_is_named() -> None:
    with pytest.raises(module.RedisError, match="knows no setting maxmemry"):
        module.differing({"maxmemry": "1gb", "port": "1"}, {"port": "1"})


def test_arguments_cannot_break_out_of_their_quotes() -> None:
    assert server.quoted('a"b\\c\nd é') == '"a\\x22b\\x5cc\\x0ad \\xc3\\xa9"'


def test_the_diff_shows_neither_secrets_nor_whole_hashes() -> None:
    shown = module.diff_text(
        {"maxmemory": "1gb", "masterauth": "hush"}, {"app": "on #" + "ab" * 32 + " ~*"}, {"masterauth"}
    )
    assert shown == "masterauth (secret)\nmaxmemory 1gb\nuser app on #abab… ~*\n"


def test_users_are_read_from_the_list() -> None:
    lines = ["user default off sanitize-payload resetchannels -@all", "user app on #1 ~* &* +@all"]
    assert module.acl_entries(lines) == {"default": "off resetchannels -@all", "app": "on #1 ~* &* +@all"}


def test_a_sentinel_is_told_settings_of_its_primary_and_of_its_own() -> None:
    assert module.setters({"quorum": "3", "sentinel-pass": "new"}, "celery") == [
        ("SENTINEL", "SET", "celery", "quorum", "3"),
        ("SENTINEL", "CONFIG", "SET", "sentinel-pass", "new"),
    ]
    assert module.setters({"port": "1", "bind": "a"}, None) == [("CONFIG", "SET", "port", "1", "bind", "a")]
    assert module.setters({}, None) == []


@pytest.mark.parametrize(("free", "taken"), [("port", "tls-port"), ("tls-port", "port")])
def test_a_port_is_free_before_it_is_taken(free: str, taken: str) -> None:
    settings = dict(sorted({"bind": "a", free: "0", taken: "6379"}.items()))

    ((_config, _set, *words),) = module.setters(settings, None)

    assert words.index(free) < words.index(taken)


def test_the_logins_of_a_sentinel_are_read_from_its_file() -> None:
    lines = [
        "# x 'y",
        "sentinel auth-pass celery new",
        "sentinel auth-pass other old",
        "sentinel sentinel-user s",
    ]
    assert module.sentinel_logins(lines, "celery") == {
        "auth-user": "",
        "auth-pass": "new",
        "sentinel-user": "s",
        "sentinel-pass": "",
    }


WANTED = """# Ansible managed
dir /var/lib/redis
masterauth "hush"
maxmemory 2048mb
save 3600 1 300 100
"""
# The same after a failover, as Redis 8.0 writes it.
REWRITTEN = """# Ansible managed
dir "/var/lib/redis"
masterauth "hush"
maxmemory 2gb
save 3600 1

# Generated by CONFIG REWRITE
save 300 100
replicaof 192.0.2.12 6379
latency-tracking-info-percentiles 50 99 99.9
"""


def test_a_file_that_the_server_rewrote_is_left_alone() -> None:
    assert config_file.merged(REWRITTEN, WANTED, "replicaof", "") == REWRITTEN


@pytest.mark.parametrize(
    ("old", "wanted"),
    [
        (REWRITTEN, WANTED.replace("2048", "1024")),
        (REWRITTEN, WANTED.replace("hush", "rotated")),
        (REWRITTEN, WANTED.replace("300 100", "300 99")),
        (REWRITTEN, f"{WANTED}port 6380\n"),
        (f"appendonly no\n{REWRITTEN}", WANTED),
        (REWRITTEN.replace("maxmemory 2gb\n", ""), WANTED),
    ],
)
def test_a_setting_that_differs_is_written_and_the_failover_outlives_it(old: str, wanted: str) -> None:
    text = config_file.merged(old, wanted, "replicaof", "")
    assert text == f"{wanted}# Generated by CONFIG REWRITE\nreplicaof 192.0.2.12 6379\n"


def test_what_a_sentinel_learned_stays_only_if_it_is_about_the_same_primary() -> None:
    wanted = "port 26379\nsentinel monitor celery 192.0.2.11 6379 2\n"
    old = "port 26380\nsentinel monitor celery 192.0.2.12 6379 3\nsentinel current-epoch 7\n"
    text = config_file.merged(old, wanted, "sentinel", r"sentinel monitor celery [0-9.]+ ")
    assert text == (
        "port 26379\n# Generated by CONFIG REWRITE\n"
        "sentinel monitor celery 192.0.2.12 6379 3\nsentinel current-epoch 7\n"
    )
    assert config_file.merged(text, wanted, "sentinel", r"sentinel monitor celery [0-9.]+ ") == text
    assert config_file.merged(old, wanted, "sentinel", r"sentinel monitor other [0-9.]+ ") == wanted


def test_the_diff_of_a_file_shows_no_secret() -> None:
    text = 'masterauth "hush"\nsentinel auth-pass celery hush\nsentinel sentinel-pass hush\nport 1\n'
    assert config_file.masked(text) == (
        "masterauth (secret)\nsentinel auth-pass celery (secret)\nsentinel sentinel-pass (secret)\nport 1\n"
    )


def test_a_host_knows_its_own_address() -> None:
    assert replication.is_local("127.0.0.1")
    assert not replication.is_local("192.0.2.1")
    with pytest.raises(module.RedisError, match=r"name nowhere\.invalid cannot be resolved"):
        replication.is_local("nowhere.invalid")


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


HA_USERS: list[dict[str, Any]] = [
    *USERS,
    {"name": "replicas", "preset": "replication", "password": "a-replicas-password"},
    {"name": "watch", "preset": "sentinel", "password": "a-sentinels-password"},
]

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


@pytest.mark.parametrize(
    ("info", "lacking"),
    [
        ({"loading": "1", "role": "master"}, "it loads its data"),
        ({"loading": "0", "role": "master"}, ""),
        (
            {
                "loading": "0",
                "role": "slave",
                "master_link_status": "down",
                "master_host": "data1",
                "master_port": "6379",
            },
            "it does not follow its primary data1:6379",
        ),
        (
            {
                "loading": "0",
                "role": "slave",
                "master_link_status": "up",
                "master_sync_in_progress": "0",
                "master_host": "data1",
                "master_port": "6379",
            },
            "",
        ),
    ],
)
def test_a_server_is_ready_with_its_data_and_its_primary(info: dict[str, str], lacking: str) -> None:
    assert server.lacking(info) == lacking


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


def test_the_keys_of_a_copy_and_of_a_server_are_counted() -> None:
    lines = ["[offset 99] \\o/ RDB looks OK! \\o/", "[info] 12 keys read", "[info] 5 expires"]
    report = "\n".join([*lines, "[info] 2 already expired"])
    assert restore.counted(report) == (12, 5, 2)
    info = {
        "role": "master",
        "db0": "keys=7,expires=3,avg_ttl=1",
        "db1": "keys=3,expires=0",
        "dbsize": "keys=9",
    }
    assert restore.keys_of(info) == 10


RIGHT: dict[str, Any] = {"redis_users": USERS}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"redis_users": [{**USERS[1], "password": "short"}]}, "is shorter than 16 characters"),
    (
        {"redis_users": [{"name": "default", "preset": "app", "password": "x" * 16}, USERS[1]]},
        "cannot be a name",
    ),
    ({"redis_users": [{"name": "app", "password": "x" * 16}, USERS[1]]}, "neither a preset nor rules"),
    (
        {"redis_users": [{**USERS[0], "preset": "producer", "queues": ["a*"]}, USERS[1]]},
        "'a*' of app cannot be the name of a queue",
    ),
    (
        {"redis_users": [{**USERS[0], "preset": "producer", "queues": []}, USERS[1]]},
        "queues of app is empty; allowed: at least one",
    ),
    (
        {"redis_users": [{**USERS[0], "queues": ["a"]}, USERS[1]]},
        "app has queues, which go with the preset producer only",
    ),
    ({"redis_users": [USERS[0]]}, "no user 'operator' with the preset operator"),
    ({"redis_users": [*USERS, USERS[0]]}, "duplicate name: app"),
    (
        {"redis_users": USERS, "redis_extra_settings": {"requirepass": "x"}},
        "requirepass belongs to the role",
    ),
    ({"redis_users": USERS, "redis_backup": True}, "no user with the preset backup"),
    (
        {"redis_users": USERS, "redis_extra_settings": {"maxmemory": "1gb"}},
        "maxmemory belongs to the role",
    ),
]


def refused(hosts: dict[str, dict[str, Any]], name: str, *groups: str) -> list[str]:
    """What the role refuses on a host of an inventory."""
    seen = inventory(hosts, {group: [name] for group in groups}, as_written)
    found = of_role("redis", seen.hosts[name], seen)
    return [f"{finding.variable}: {finding.text}" for finding in found]


@pytest.mark.parametrize(("inputs", "message"), WRONG)
def test_wrong_input_is_named(inputs: dict[str, Any], message: str) -> None:
    assert message in "; ".join(refused({"data1": inputs}, "data1"))


def test_right_input_passes() -> None:
    assert refused({"data1": RIGHT}, "data1") == []


def test_the_role_itself_refuses_wrong_input_and_a_host_that_has_no_such_server() -> None:
    """In a playbook of somebody's own, with nothing but the path of the roles."""
    inputs = {
        "redis_users": [{**USERS[1], "password": "short"}],
        "redis_provider": "valkey",
        "ansible_facts": {**FACTS, "distribution_major_version": "12"},
    }

    assert refusal("redis", inputs) == (
        "redis_provider: Debian 12 has no valkey; it is in Debian 13; "
        "redis_users: the password of operator is shorter than 16 characters; allowed: 16 or more"
    )


@pytest.mark.parametrize(
    ("redis_share", "postgres_share", "said"), [(None, None, 100), (50, 51, 51), (50, 50, 0), (25, 75, 0)]
)
def test_memory_is_not_promised_twice(redis_share: int, postgres_share: int, said: int) -> None:
    shares = {"redis_maxmemory_percent": redis_share, "postgres_memory_percent": postgres_share}
    inputs = RIGHT | {name: share for name, share in shares.items() if share is not None}
    line = f"redis_maxmemory_percent: is 50 and postgres_memory_percent is {said}, more memory than there is"

    found = refused({"data1": inputs}, "data1", "redis", "postgres")

    assert [line in words for words in found] == [True] * bool(said)
    assert refused({"data1": inputs}, "data1", "redis") == []


def sentinels(master: str, *primaries: str) -> dict[str, dict[str, Any]]:
    """A number of hosts with a sentinel each, by name."""
    return {
        f"{master}{number}": {
            "redis_sentinel": True,
            "redis_sentinel_master": master,
            "redis_replication_of": primary,
        }
        for number, primary in enumerate(primaries)
    }


INVENTORY: dict[str, dict[str, Any]] = {
    **sentinels("three", "three0", "three0", "three0"),
    **sentinels("two", "two0", "two0"),
    **sentinels("four", "four0", "four0", "four0", "four0"),
    **sentinels("split", "split0", "split0", "split1"),
    "alone": {"ansible_host": "192.0.2.11"},
}


def ha(master: str, primary: str, **more: object) -> dict[str, Any]:
    return {
        "redis_users": HA_USERS,
        "redis_sentinel": True,
        "redis_sentinel_master": master,
        "redis_replication_of": primary,
        **more,
    }


REFUSED: list[tuple[dict[str, Any], str]] = [
    (ha("two", "two0"), "2 hosts have a sentinel of two; allowed: an odd number, 3 or more"),
    (ha("four", "four0"), "4 hosts have a sentinel of four; allowed: an odd number, 3 or more"),
    (ha("split", "split0"), "two primaries of the name split: split0 here and 'split1' on split2"),
    (
        ha("three", "split1"),
        "two primaries: it is split1 here and 'split0' on split1; allowed: both the same",
    ),
    (ha("three", "alone"), "two primaries: it is alone here and '' on alone; allowed: both the same"),
    (ha("three", "192.0.2.11"), "two primaries: it is 192.0.2.11 here and '' on alone"),
    (ha("three", "localhost"), "localhost makes each host a replica of itself"),
    (ha("three", "127.0.1.1"), "127.0.1.1 makes each host a replica of itself"),
    (ha("three", ""), "redis_replication_of: is empty; allowed: the address of the first primary"),
    (ha("three", "three0", redis_users=HA_USERS[:3]), "no user with the preset sentinel"),
    (ha("three", "three0", redis_users=[*USERS, HA_USERS[3]]), "no user with the preset replication"),
    (ha("three", "three0", redis_sentinel_quorum=4), "4 of 3 sentinels cannot agree"),
    (
        ha(
            "three", "three0", redis_users=[*HA_USERS[:3], {**HA_USERS[3], "password": 'a "quoted" password'}]
        ),
        "the password of watch has a character that its files cannot hold",
    ),
]


@pytest.mark.parametrize(("inputs", "message"), [*REFUSED, (ha("three", "three0"), "")])
def test_a_replication_that_cannot_work_is_refused_and_one_that_can_passes(
    inputs: dict[str, Any], message: str
) -> None:
    name = f"{inputs['redis_sentinel_master']}0"

    found = refused({**INVENTORY, name: inputs}, name)

    assert message in "; ".join(found)
    assert bool(found) == bool(message)


INSTALLED, SECURITY, RELEASED = "5:7.0.15-1~deb12u1", "5:7.0.15-1~deb12u4", "5:7.0.15-1~deb12u3"
# What is installed and gone from the sources could not be had again.
PACKAGE = packages.Package("redis-server", INSTALLED, SECURITY, [SECURITY, RELEASED], False)


def by_text(left: str, right: str) -> int:
    """Compare versions as apt does, for these."""
    return (left > right) - (left < right)


@pytest.mark.parametrize(
    ("package", "version", "offered", "outdated"),
    [
        (PACKAGE, "", SECURITY, True),
        (PACKAGE, RELEASED, RELEASED, True),
        (PACKAGE._replace(installed=SECURITY), "", SECURITY, False),
        (PACKAGE._replace(installed=SECURITY, held=True), "", SECURITY, False),
    ],
)
def test_the_version_that_apt_prefers_is_wanted_unless_another_is_named(
    package: Any, version: str, offered: str, outdated: bool
) -> None:
    found = packages.compare([package], version, by_text)

    assert found == {"installed": package.installed, "offered": offered, "outdated": outdated}


@pytest.mark.parametrize(
    ("package", "version", "words"),
    [
        (PACKAGE, "5:9", rf"no redis-server 5:9; they offer {SECURITY}, {RELEASED}$"),
        (PACKAGE, INSTALLED, rf"they offer {SECURITY}, {RELEASED}$"),
        (PACKAGE._replace(offered=[]), "5:9", "they offer none$"),
        (PACKAGE._replace(installed=SECURITY), RELEASED, f"older than the installed {SECURITY}$"),
        (PACKAGE._replace(held=True), "", "^on hold: redis-server; apt-mark unhold"),
    ],
)
def test_a_version_that_cannot_be_had_is_refused(package: Any, version: str, words: str) -> None:
    with pytest.raises(server.RedisError, match=words):
        packages.compare([package], version, by_text)


def test_a_primary_lacks_the_replicas_that_do_not_follow() -> None:
    info = {
        "loading": "0",
        "role": "master",
        "connected_slaves": "2",
        "slave0": "ip=192.0.2.12,port=6379,state=online,offset=100,lag=0",
        "slave1": "ip=192.0.2.13,port=6379,state=wait_bgsave,offset=0,lag=0",
        "slave_expires_tracked_keys": "0",
    }
    assert health.server_lacks(info, 2) == ["1 of 2 replicas follow it"]
    assert health.server_lacks(info, 1) == []


def test_a_sentinel_lacks_who_is_down_or_does_not_follow() -> None:
    master = {"flags": "master", "ip": "192.0.2.11"}
    replicas = [{"flags": "slave", "master-link-status": "ok"}] * 2
    sentinels = [{"flags": "sentinel"}] * 2
    assert health.sentinel_lacks(master, replicas, sentinels, 2, 3) == []
    down = {"flags": "s_down,slave,disconnected", "master-link-status": "err"}
    assert health.sentinel_lacks(
        {"flags": "s_down,master", "ip": "192.0.2.11"}, [replicas[0], down], [sentinels[0], down], 2, 3
    ) == [
        "its sentinel finds the primary 192.0.2.11 s_down,master",
        "its sentinel sees 1 of 2 replicas follow",
        "its sentinel sees 1 of 2 other sentinels",
    ]


def test_a_replica_has_everything_when_all_have() -> None:
    info = {
        "master_repl_offset": "120",
        "slave0": "ip=192.0.2.12,port=6379,state=online,offset=120,lag=0",
        "slave1": "ip=192.0.2.13,port=6379,state=online,offset=100,lag=0",
    }
    assert switchover.behind(info) == 20
    with pytest.raises(server.RedisError, match="no replica follows"):
        switchover.behind({"master_repl_offset": "120"})


def test_a_primary_is_new_when_all_sentinels_name_it() -> None:
    old, new = ("192.0.2.11", "6379"), ("192.0.2.12", "6379")
    assert switchover.agreed([new, new], old) == new
    assert switchover.agreed([new, old], old) is None
    assert switchover.agreed([old, old], old) is None


def test_only_a_whole_set_with_one_version_is_upgraded() -> None:
    def errors(offers: list[str], hosts: list[str]) -> list[str]:
        names = ["data1", "data2", "data3"]
        inventory = {
            name: {"redis_replication_of": "data1", "__redis_offer": {"offered": version}}
            for name, version in zip(names, offers, strict=True)
        }
        (found,) = evaluate(
            "redis",
            "__redis_outdated_errors",
            [{"redis_users": USERS, "redis_replication_of": "data1"}],
            Place("data1", inventory, ":".join(hosts), {"redis": names}),
        )
        return list(found)

    everybody = ["data1", "data2", "data3"]
    assert errors(["2", "2", "2"], everybody) == []
    assert errors(["2", "3", "2"], everybody) == [
        "the apt sources of the hosts offer 2 and 3; say which one all shall have: -e redis_version=…"
    ]
    assert errors(["2", "2", "2"], ["data1"]) == [
        "the servers and sentinels of a set are upgraded together: --limit leaves out data2, data3"
    ]


def test_a_process_is_asked_only_where_it_listens_itself(tmp_path: Path) -> None:
    with socket.socket() as own, socket.socket(socket.AF_UNIX) as local, socket.socket() as silent:
        own.bind(("127.0.0.1", 0))
        silent.bind(("127.0.0.1", 0))
        local.bind(str(tmp_path / "socket"))
        own.listen()
        local.listen()

        found = server.listening(os.getpid())

        assert ("-s", str(tmp_path / "socket")) in found
        assert ("-h", "127.0.0.1", "-p", str(own.getsockname()[1])) in found
        assert ("-h", "127.0.0.1", "-p", str(silent.getsockname()[1])) not in found


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("0100007F", "127.0.0.1"),
        ("00000000", "127.0.0.1"),
        ("0" * 32, "::1"),
        ("B80D0120000000000000000011000000", "2001:db8::11"),
    ],
)
def test_an_address_is_read_as_the_kernel_writes_it(text: str, address: str) -> None:
    assert server._address(text) == address


def test_the_last_line_of_a_setting_counts(tmp_path: Path) -> None:
    path = tmp_path / "redis.conf"
    path.write_text('# requirepass no\nrequirepass one\nREQUIREPASS "two words"\n\nunfinished "\n')

    assert server.file_settings(path) == {"requirepass": "two words"}
    assert server.file_settings(tmp_path / "none") == {}


def test_only_modules_that_come_from_a_file_are_in_the_way() -> None:
    assert takeover.loaded_from({"name": "vectorset", "path": ""}) == ""
    assert takeover.loaded_from(["name", "bf", "ver", 1, "path", "/usr/lib/bf.so"]) == "/usr/lib/bf.so"


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        (
            "*** FATAL CONFIG FILE ERROR (Redis 7.0.15) ***\nReading the configuration file, at line 5\n"
            ">>> 'masterauth \"a secret\" twice'\nBad directive or wrong number of arguments\n",
            "masterauth: Bad directive or wrong number of arguments",
        ),
        (
            "12:C 27 Nov 2026 10:00:00.000 # WARNING Memory overcommit: a background save may fail\n"
            "12:M 27 Nov 2026 10:00:00.000 # Error loading ACLs: /tmp/x/users.acl:2: Unknown command\n",
            "Error loading ACLs: /tmp/x/users.acl:2: Unknown command",
        ),
        (
            "7:M 27 Nov 2026 10:00:00.000 # Unresolved Configuration(s) Detected:\n"
            "7:M 27 Nov 2026 10:00:00.000 # >>> 'hz-typo 1'\n"
            "7:M 27 Nov 2026 10:00:00.000 # Module Configuration detected without loadmodule directive\n",
            "this Redis knows no setting hz-typo",
        ),
        ("", "it ended without any output"),
    ],
)
def test_the_line_that_says_why_redis_does_not_start_is_found(output: str, reason: str) -> None:
    assert scratch.refusal(output) == reason


def test_addresses_of_other_hosts_are_found_out() -> None:
    assert config_check.unusable(["127.0.0.1", "-192.0.2.1", "*", "192.0.2.1", "no-such-host.invalid"]) == [
        "192.0.2.1",
        "no-such-host.invalid",
    ]


@pytest.mark.parametrize(
    ("appendonly", "kept", "refused"), [("no", False, True), ("no", True, True), ("yes", True, False)]
)
def test_data_that_a_stopped_server_would_not_read_is_refused(
    tmp_path: Path, appendonly: str, kept: bool, refused: bool
) -> None:
    config = tmp_path / "redis.conf"
    config.write_text(f"dir {tmp_path}\nappendonly {appendonly}\n")
    (tmp_path / "dump.rdb").write_bytes(b"what cannot be read may have keys")
    if kept:
        (tmp_path / "appendonlydir").mkdir()

    errors = takeover.stopped_errors(config, "redis-server.service", {"dir": str(tmp_path)})

    assert bool(errors) is refused, errors


def test_the_users_are_written_before_the_settings_that_name_their_file() -> None:
    names = [task["name"] for task in yaml.safe_load((ROLES / "redis/tasks/configure.yml").read_text())]

    users, settings = map(
        names.index, ["configure | Write the access control list", "configure | Write the settings"]
    )
    assert users < settings


def test_nothing_is_written_before_it_was_tried() -> None:
    for tasks, writers in (
        ("configure", ["Write the access control list", "Write the settings"]),
        ("sentinel", ["Write the access control list", "Write the settings"]),
    ):
        names = [task["name"] for task in yaml.safe_load((ROLES / f"redis/tasks/{tasks}.yml").read_text())]
        tried = next(at for at, name in enumerate(names) if "on a scratch" in name)
        assert all(tried < names.index(f"{tasks} | {writer}") for writer in writers)
        assert all(
            names.index(f"{tasks} | Write the additions to the unit") < names.index(f"{tasks} | {writer}")
            for writer in writers
        )


def test_a_scratch_sentinel_watches_nobody_and_shares_nothing(tmp_path: Path) -> None:
    settings = "port 26379\nreplicaof 192.0.2.1 6379\nsentinel monitor celery 192.0.2.1 6379 2\n"

    scratch.prepare(tmp_path, settings, "user default off\n", pwd.getpwuid(os.getuid()).pw_name)

    lines = (tmp_path / "redis.conf").read_text().splitlines()
    assert "sentinel monitor celery 127.0.0.1 1 2" in lines
    assert not any("192.0.2.1" in line for line in lines)
    assert lines.index("port 26379") < lines.index("port 0")
    assert f"aclfile {tmp_path}/users.acl" in lines


def test_what_a_sentinel_has_rewritten_needs_no_scratch_sentinel(tmp_path: Path) -> None:
    path = tmp_path / "sentinel.conf"
    watches = r"sentinel monitor celery ([0-9.]+|[0-9a-f:.]*:[0-9a-f:.]*) "
    wanted = "port 26379\nsentinel monitor celery 192.0.2.1 6379 2\n"
    path.write_text(
        "port 26379\nsentinel monitor celery 192.0.2.2 6379 2\nsentinel known-replica celery 192.0.2.1\n"
    )

    assert config_check.is_written(path, wanted, "sentinel", watches)
    assert not config_check.is_written(path, wanted.replace("26379", "26380"), "sentinel", watches)


def test_a_setting_that_somebody_has_set_beside_the_wanted_ones_is_found() -> None:
    started = {
        "hz": "10",
        "maxmemory-clients": "0",
        "port": "0",
        "timeout": "0",
        "masterauth": "",
        "new": "1",
    }
    running = {"hz": "10", "maxmemory-clients": "100", "port": "6379", "timeout": "7", "masterauth": "x"}

    assert module.beside(running, started, ["timeout"]) == {"maxmemory-clients": "0"}


def test_a_port_that_another_service_has_is_found_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        settings = f"bind 127.0.0.1\nport {port}\ntls-port 0\n"
        addresses = ["127.0.0.1", "-::1", "*"]

        assert config_check.taken(addresses, settings, os.getuid() + 1) == [f"127.0.0.1:{port}", f"*:{port}"]
        # The server's own is no obstacle.
        assert config_check.taken(addresses, settings, os.getuid()) == []
    assert config_check.taken(addresses, settings, os.getuid() + 1) == []


def test_what_the_server_added_below_its_mark_makes_no_difference(tmp_path: Path) -> None:
    path = tmp_path / "redis.conf"
    path.write_text("port 6379\n\n# Generated by CONFIG REWRITE\nreplicaof 192.0.2.11 6379\n")

    assert config_check.is_written(path, "port 6379\n")
    assert not config_check.is_written(path, "port 6380\n")
    assert not config_check.is_written(tmp_path / "none", "port 6379\n")


def test_what_a_failover_has_rewritten_needs_no_scratch_server(tmp_path: Path) -> None:
    path = tmp_path / "redis.conf"
    path.write_text(REWRITTEN)

    assert config_check.is_written(path, WANTED)
