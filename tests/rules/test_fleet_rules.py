"""The rules of an inventory: what is right passes, each fault is one line that names it."""

from typing import Any

import pytest
from support.made_up_fleets import (
    APP,
    CPU,
    DATA,
    GENERAL,
    GROUPS,
    HOSTS,
    findings,
    with_group,
    with_settings,
    with_values,
)


def test_a_fleet_without_a_fault_has_no_findings() -> None:
    assert findings(HOSTS, GROUPS) == []


TYPES: list[tuple[str, str, Any, str]] = [
    ("workers", "celery_app_supervised", "maybe", "is 'maybe'; allowed: true or false"),
    ("workers", "celery_app_beat", 2, "is 2; allowed: true or false"),
    ("data1", "redis_previous_passwords", None, "is empty (null); allowed: true or false"),
    ("data1", "redis_port", "abc", "is 'abc'; allowed: a whole number from 1 to 65535"),
    ("data1", "redis_port", 6379.5, "is 6379.5; allowed: a whole number from 1 to 65535"),
    (
        "data1",
        "redis_port",
        True,
        "is the boolean true; allowed: a whole number from 1 to 65535 (put it in quotes)",
    ),
    ("data1", "redis_port", 65536, "is 65536; allowed: a whole number from 1 to 65535"),
    ("data1", "redis_maxclients", 10**30, "is 1000000000000000000000000000000; allowed"),
    ("data1", "redis_bind", "127.0.0.1", "is '127.0.0.1'; allowed: a list"),
    ("data1", "redis_bind", [["127.0.0.1"]], "element 1: is a list; allowed: a text"),
    ("data1", "redis_users", {"app": "secret-secret-secret"}, "is a dictionary; allowed: a list"),
    (
        "data1",
        "redis_appendfsync",
        False,
        "is the boolean false; allowed: always, everysec, no (put it in quotes)",
    ),
    ("data1", "redis_appendfsync", "sometimes", "is 'sometimes'; allowed: always, everysec, no"),
    ("data1", "redis_extra_settings", "maxmemory 1gb", "is 'maxmemory 1gb'; allowed: a dictionary"),
    ("data1", "redis_maxmemory_percent", 0, "is 0; allowed: a whole number from 1 to 100"),
    ("data1", "redis_timeout", -1, "is -1; allowed: a whole number from 0 to 2147483647"),
    ("data1", "postgres_port", 0, "is 0; allowed: a whole number from 1 to 65535"),
    ("data1", "postgres_listen_addresses", None, "is empty (null); allowed: a list"),
    ("workers", "celery_app_stop_timeout", "long", "is 'long'; allowed: a whole number from 1 to 86400"),
    ("workers", "celery_autoscaler_tick", 0, "is 0; allowed: a number from 0.1 to 60"),
    ("workers", "celery_autoscaler_tick", float("nan"), "is nan; allowed: a number from 0.1 to 60"),
    ("workers", "celery_app_log_level", "LOUD", "is 'LOUD'; allowed: DEBUG, INFO, WARNING, ERROR, CRITICAL"),
    ("workers", "celery_app_root", "/opt/my celery", "is '/opt/my celery'; allowed: a whole path of letters"),
    ("workers", "celery_app_root", "opt/celery", "is 'opt/celery'; allowed: a whole path"),
    ("workers", "celery_app_root", "/opt/../etc", "is '/opt/../etc'; allowed: a whole path"),
    ("workers", "celery_app_user", "root", "is 'root'; allowed: lower case letters"),
    ("workers", "celery_app_user", "My App", "is 'My App'; allowed: lower case letters"),
    ("workers", "celery_app_name", "my app", "is 'my app'; allowed: a module"),
    ("workers", "celery_app_keep_releases", 0, "is 0; allowed: a whole number from 1 to 1000"),
]


@pytest.mark.parametrize(("host", "variable", "value", "words"), TYPES)
def test_a_value_of_another_kind_or_range_is_named_with_what_is_allowed(
    host: str, variable: str, value: Any, words: str
) -> None:
    (line,) = with_values(host, **{variable: value})

    assert line.startswith(f"{host}: {variable}: {words}")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("celery_app_beat", "false"),
        ("celery_app_beat", "Yes"),
        ("celery_app_beat", 1),
        ("celery_app_stop_timeout", "900"),
        ("celery_app_stop_timeout", 900.0),
        ("celery_autoscaler_tick", "0.5"),
        ("celery_autoscaler_cpu_threshold", 100),
        ("celery_app_revision", 1.5),
        ("celery_app_worker_groups", [{**GENERAL, "max_workers": "6", "target_wait": "2.5"}, CPU]),
    ],
)
def test_texts_that_mean_a_boolean_or_a_number_are_right(variable: str, value: Any) -> None:
    assert with_values("workers", **{variable: value}) == []


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"min_workers": 9, "max_workers": 4},
            "'general': min_workers is 9 and max_workers is 4; allowed: a min_workers of at most",
        ),
        ({"min_workers": -1}, "'general': min_workers is -1; allowed: a whole number from 0 to 10000"),
        (
            {"max_workers": 0, "min_workers": 0},
            "'general': max_workers is 0; allowed: a whole number from 1 to 10000",
        ),
        ({"target_wait": -5}, "'general': target_wait is -5; allowed: a number from 0.1 to 86400"),
        ({"target_wait": "soon"}, "'general': target_wait is 'soon'; allowed: a number from 0.1 to 86400"),
        ({"concurrency": 0}, "'general': concurrency is 0; allowed: a whole number from 1 to 10000"),
        (
            {"pool": "process"},
            "'general': pool is 'process'; allowed: prefork, threads, gevent, eventlet, solo",
        ),
        ({"queues": []}, "'general': queues is an empty list; allowed: at least one queue"),
        ({"queues": "default"}, "'general': queues is 'default'; allowed: a list"),
        ({"queues": ["a,b"]}, "'general': queues: 'a,b' cannot be a queue"),
        ({"queues": ["a", "a"]}, "'general': queues: duplicate name: a"),
        ({"queues": ["default", "cpu_intensive"]}, "queue 'cpu_intensive' belongs to general and cpu"),
        ({"max_worker": 4}, "'general': max_worker is unknown; did you mean max_workers?"),
        ({"maximum": 4}, "'general': maximum is named max_workers now"),
        ({"minimum": 4}, "'general': minimum is named min_workers now"),
        ({"promise": 4}, "'general': promise is named target_wait now"),
        ({"queue": ["a"]}, "'general': queue is unknown; did you mean queues?"),
        ({"colour": "red"}, "'general': colour is unknown; allowed: concurrency, cpu_quota, drain_timeout"),
        ({"name": "Web"}, "'Web' cannot be a name; allowed: lower case letters"),
        ({"name": "beat"}, "'beat' cannot be a name"),
        ({"name": "cpu"}, "duplicate name: cpu; allowed: one group a name"),
        (
            {"options": {"max-tasks-per-child": 50}},
            "'general': options: max-tasks-per-child is unknown; did you mean max_tasks_per_child?",
        ),
        (
            {"options": {"max_tasks_per_child": "many"}},
            "options: max_tasks_per_child is 'many'; allowed: a whole",
        ),
        ({"options": {"purge": True}}, "options: purge is not allowed; each start of a worker would delete"),
        (
            {"options": {"concurrency": 4}},
            "options: concurrency is not allowed; use concurrency of the group",
        ),
        ({"options": {"nonsense": 4}}, "options: nonsense is unknown; allowed: autoscale"),
    ],
)
def test_a_fault_of_a_worker_group_is_named_with_the_group(values: dict[str, Any], words: str) -> None:
    found = with_group(**values)

    assert [
        line for line in found if line.startswith("workers: celery_app_worker_groups: ") and words in line
    ]
    # A name that is taken belongs to two groups, whose queues do too.
    assert len(found) == 1 or values.get("name") == "cpu"


def test_a_key_that_is_missing_is_named() -> None:
    group = {name: value for name, value in GENERAL.items() if name != "pool"}

    assert with_values("workers", celery_app_worker_groups=[group, CPU]) == [
        "workers: celery_app_worker_groups: 'general': pool is missing; "
        "allowed: prefork, threads, gevent, eventlet, solo"
    ]


def test_bounds_of_a_group_that_differ_between_hosts_are_named() -> None:
    other = with_values("worker2", celery_app_worker_groups=[{**GENERAL, "max_workers": 7}, CPU])

    assert other == [
        "worker2: celery_app_worker_groups: 'general': min_workers and max_workers differ from those "
        "on worker1; "
        "allowed: the same on all hosts, they are of the whole fleet"
    ]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"SETTING": None}, 'SETTING: is empty (null); allowed: a text, "" for an empty one'),
        ({"SETTING": "a\0b"}, "SETTING: holds a character that no variable can have"),
        (
            {"CELERY_BROKER_URL": "app:another-password@data1"},
            "CELERY_BROKER_URL: is no URL; allowed: redis://",
        ),
        ({"SETTING": ["a"]}, "SETTING: is a list; allowed: a text"),
        ({"SETTING": {"a": 1}}, "SETTING: is a dictionary; allowed: a text"),
        ({"MY-SETTING": "a"}, "MY-SETTING: 'MY-SETTING' cannot be the name of a setting"),
        (
            {"CELERY_BROKER_URL": "amqp://guest@mq"},
            "CELERY_BROKER_URL: 'amqp' is no supported broker; allowed: redis://",
        ),
        (
            {"CELERY_BROKER_URL": "redis://app:p@ss@data1/0"},
            "CELERY_BROKER_URL: has a character in its password",
        ),
        (
            {"CELERY_BROKER_URL": "redis://app:pa/ss@data1/0"},
            "CELERY_BROKER_URL: has a character in its password",
        ),
        (
            {"CELERY_RESULT_BACKEND": "redis://app:10%@data1/0"},
            "CELERY_RESULT_BACKEND: has a % that begins no",
        ),
        (
            {"DATABASE_URL": "postgresql://o:a b@data1/celery"},
            "DATABASE_URL: has a blank or a control character",
        ),
        (
            {"DATABASE_URL": "postgresql://o:p@2001:db8::11:5432/celery"},
            "DATABASE_URL: has an IPv6 address without",
        ),
        (
            {"CELERY_BROKER_URL": "redis://app:another-password@data1:6379/0"},
            "CELERY_BROKER_URL: the password of app, decoded, is not the one in redis_users of data1",
        ),
        (
            {"CELERY_BROKER_URL": f"redis://ap:{APP}@data1:6379/0"},
            "CELERY_BROKER_URL: 'ap' is no user of data1; allowed: app, operator, supervisor (redis_users)",
        ),
    ],
)
def test_a_fault_of_a_setting_is_named_and_its_value_is_not(settings: dict[str, Any], words: str) -> None:
    (line,) = with_settings(**settings)

    assert line.startswith(f"workers: celery_app_environment: {words}")
    assert APP not in line
    assert "another-password" not in line


@pytest.mark.parametrize(
    ("variable", "users", "words"),
    [
        (
            "redis_users",
            [{"name": "app", "preset": "app", "password": "short"}],
            "the password of app is shorter",
        ),
        (
            "redis_users",
            [{"name": "default", "preset": "app", "password": APP}],
            "'default' cannot be a name",
        ),
        ("redis_users", [{"name": "other", "password": APP}], "other has neither a preset nor rules"),
        (
            "redis_users",
            [{"name": "other", "prest": "app", "rules": [], "password": APP}],
            "prest is unknown; did you",
        ),
        (
            "redis_users",
            [{"name": "other", "preset": "ap", "password": APP}],
            "'other': preset is 'ap'; allowed: app",
        ),
        (
            "redis_users",
            [{"name": "m", "preset": "monitor", "password": f"{APP} #"}],
            "has a character that its files",
        ),
        (
            "redis_users",
            [{"name": "operator", "rules": ["+@all"], "password": APP}],
            "duplicate name: operator",
        ),
        ("postgres_users", [{"name": "postgres", "password": APP}], "'postgres' cannot be a name"),
        (
            "postgres_users",
            [{"name": "other", "password": "a b"}],
            "the password of other is too short or has",
        ),
    ],
)
def test_a_fault_of_a_user_is_named(variable: str, users: list[dict[str, Any]], words: str) -> None:
    found = with_values("data1", **{variable: [*DATA[variable], *users]})

    assert [line for line in found if line.startswith(f"data1: {variable}: ") and words in line]
    assert APP not in str(found)


OTHERS: list[tuple[str, dict[str, Any], str]] = [
    (
        "data1",
        {"redis_operator": "nobody"},
        "redis_operator: redis_users has no user 'nobody' with the preset",
    ),
    ("data1", {"redis_backup": "yes"}, "redis_backup: redis_users has no user with the preset backup"),
    (
        "data1",
        {"redis_maxmemory_percent": 60},
        "redis_maxmemory_percent: is 60 and postgres_memory_percent is 50",
    ),
    (
        "data1",
        {"redis_extra_settings": {"maxmemory": "1gb"}},
        "redis_extra_settings: maxmemory belongs to the role",
    ),
    ("data1", {"postgres_extra_settings": {"port": 1}}, "postgres_extra_settings: port belongs to the role"),
    ("data1", {"postgres_repository": "data1"}, "postgres_repository: data1 is one of the servers"),
    ("data1", {"postgres_repository": "backup"}, "postgres_repository: 'backup' is no host of the inventory"),
    (
        "data1",
        {"postgres_replication_of": "dta1"},
        "postgres_replication_of: 'dta1' is no host of the inventory; did",
    ),
    (
        "data1",
        {"postgres_max_connections": 4, "postgres_app_pool_size": 1},
        "postgres_max_connections: 4 leaves 1",
    ),
    (
        "data1",
        {"postgres_databases": [{"name": "celery", "owner": "nobody"}]},
        "postgres_databases: the owner nobody of celery is not in postgres_users",
    ),
    (
        "data1",
        {"postgres_clients": [{"databases": [], "user": [], "users": [], "addresses": []}]},
        "postgres_clients: element 1: user is unknown; did you mean users?",
    ),
    (
        "worker1",
        {"celery_app_supervise": True},
        "celery_app_supervise: is unknown; did you mean celery_app_supervised?",
    ),
    (
        "worker1",
        {"celery_app_suprvised": 1},
        "celery_app_suprvised: is unknown; did you mean celery_app_supervised?",
    ),
    ("data1", {"redis_user": []}, "redis_user: is unknown; did you mean redis_users?"),
    # Another word is no misspelt one: somebody's own variable, a warning.
    (
        "data1",
        {"postgres_owner_password": "x"},
        "postgres_owner_password: is unknown; no role and no other variable uses it",
    ),
    ("data1", {"common_time_zone": "UTC"}, "common_time_zone: is unknown; did you mean common_timezone?"),
    (
        "workers",
        {"celery_app_plain_workers": True},
        "celery_app_supervised: a supervisor learns nothing of plain",
    ),
    (
        "workers",
        {"celery_app_worker_groups": []},
        "celery_app_worker_groups: is an empty list: there is nothing",
    ),
    ("workers", {"celery_app_sdists": ["odfpy==1.4"]}, "celery_app_sdists: 'odfpy==1.4' is no name; allowed"),
    (
        "workers",
        {"celery_app_sdists_image": "debian:13\nRUN curl x"},
        "celery_app_sdists_image: 'debian:13\\nRUN curl x' is no name; allowed: an image such as debian:13",
    ),
    (
        "workers",
        {"celery_app_sdists_packages": ["gcc; id"]},
        "celery_app_sdists_packages: 'gcc; id' is no name; allowed: packages of Debian, such as libldap-dev",
    ),
    (
        "workers",
        {"celery_app_indexes": [{"url": f"https://deploy:{APP}@index.example/simple"}]},
        "celery_app_indexes: element 1: url holds a user or a password; allowed: username and password",
    ),
    (
        "workers",
        {"celery_app_indexes": [{"url": "index.example/simple"}]},
        "celery_app_indexes: element 1: url is 'index.example/simple'; allowed: the URL of a simple index",
    ),
    ("workers", {"celery_autoscaler_http": "0.0.0.0:9541"}, "celery_autoscaler_http: is open to other hosts"),
    (
        "workers",
        {"celery_autoscaler_http": "everywhere"},
        "celery_autoscaler_http: is 'everywhere'; allowed: host:port",
    ),
    (
        "workers",
        {"celery_autoscaler_enabled": "no"},
        "celery_autoscaler_enabled: is false, but celery_app_supervised",
    ),
    (
        "workers",
        {"celery_autoscaler_broker_url": "amqp://mq"},
        "celery_autoscaler_broker_url: 'amqp' is no supported broker",
    ),
]


@pytest.mark.parametrize(("host", "values", "words"), OTHERS)
def test_a_fault_is_named_once_with_its_variable(host: str, values: dict[str, Any], words: str) -> None:
    (line,) = [line for line in with_values(host, **values) if words in line]

    assert line.startswith(f"{host}: {words}")


@pytest.mark.parametrize("variable", ["celery_app_name", "celery_app_source", "celery_app_environment"])
def test_a_variable_that_nobody_has_set_is_named(variable: str) -> None:
    hosts = {name: {**values} for name, values in HOSTS.items()}
    for name in GROUPS["workers"]:
        del hosts[name][variable]

    assert f"workers: {variable}: is not set; the role celery_app needs it" in findings(hosts, GROUPS)


@pytest.mark.parametrize(
    ("address", "pooled", "words"),
    [
        ("198.51.100.0/24", True, ""),
        ("198.51.100.7", True, ""),
        ("2001:db8::/64", False, ""),
        ("2001:db8::/32", False, ""),
        ("samenet", True, ""),
        ("app.example.com", False, ""),
        ("app.example.com", True, "PgBouncer knows no other"),
        ("10.0.0.300/24", False, "is no network; allowed: such as 10.0.0.0/24"),
        ("10.0.0.0/33", False, "is no network; allowed: such as 10.0.0.0/24"),
        ("10.0.0", False, "is no network; allowed: such as 10.0.0.0/24"),
        (
            "2001:db8::11/32",
            False,
            "is the network of a whole provider; allowed: the address alone, or with /128",
        ),
        ("app server", False, "is no network and no name of a host"),
    ],
)
def test_an_address_that_postgresql_cannot_read_is_named(address: str, pooled: bool, words: str) -> None:
    clients = [{"databases": ["celery"], "users": ["celery_owner"], "addresses": [address]}]

    found = with_values("data1", postgres_clients=clients, postgres_pgbouncer=pooled)

    assert len(found) == bool(words)
    assert not words or (found[0].startswith(f"data1: postgres_clients: '{address}' ") and words in found[0])


def test_a_variable_that_another_one_uses_is_somebodys_own() -> None:
    own = {"redis_user": "app", "fleet_user": "{{ redis_user }}"}

    assert with_values("data1", **own) == []


def test_all_findings_are_told_at_once() -> None:
    hosts = {name: {**values} for name, values in HOSTS.items()}
    hosts["data1"] |= {"redis_port": "x", "postgres_port": "y"}
    hosts["worker1"] |= {"celery_app_beat": "maybe"}

    assert [line.split(":")[1].strip() for line in findings(hosts, GROUPS)] == [
        "redis_port",
        "postgres_port",
        "celery_app_beat",
    ]
