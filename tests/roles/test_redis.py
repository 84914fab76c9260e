"""The module and the templates of the role redis, without a host."""

from typing import Any

import pytest
from role_files import evaluate, load_module, render

module = load_module("redis", "redis_live_config")

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
    assert module.quoted('a"b\\c\nd é') == '"a\\x22b\\x5cc\\x0ad \\xc3\\xa9"'


def test_the_diff_shows_neither_secrets_nor_whole_hashes() -> None:
    shown = module.diff_text(
        {"maxmemory": "1gb", "masterauth": "hush"}, {"app": "on #" + "ab" * 32 + " ~*"}, {"masterauth"}
    )
    assert shown == "masterauth (secret)\nmaxmemory 1gb\nuser app on #abab… ~*\n"


def test_users_are_read_from_the_list() -> None:
    lines = ["user default off sanitize-payload resetchannels -@all", "user app on #1 ~* &* +@all"]
    assert module.acl_entries(lines) == {"default": "off resetchannels -@all", "app": "on #1 ~* &* +@all"}


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
    assert default == "user default off resetkeys resetchannels -@all"
    assert app.startswith("user app on #")
    assert " -@dangerous " in app
    assert operator.count(" #") == 2
    assert operator.endswith(" ~* &* +@all -debug")
    for user in USERS:
        assert str(user["password"]) not in files["access"]


RIGHT: dict[str, Any] = {"redis_users": USERS}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"redis_users": [{**USERS[1], "password": "short"}]}, "is shorter than 16 characters"),
    (
        {"redis_users": [{"name": "default", "preset": "app", "password": "x" * 16}, USERS[1]]},
        "cannot be a name",
    ),
    ({"redis_users": [{"name": "app", "password": "x" * 16}, USERS[1]]}, "neither a preset nor rules"),
    ({"redis_users": [USERS[0]]}, "no user 'operator' with the preset operator"),
    ({"redis_users": [*USERS, USERS[0]]}, "stands there twice"),
    (
        {"redis_users": USERS, "redis_extra_settings": {"requirepass": "x"}},
        "requirepass belongs to the role",
    ),
    (
        {"redis_users": USERS, "redis_extra_settings": {"maxmemory": "1gb"}},
        "maxmemory belongs to the role",
    ),
]


def test_wrong_input_is_named_and_right_input_passes() -> None:
    found = evaluate("redis", "__redis_errors", [*[inputs for inputs, _message in WRONG], RIGHT])
    for (_inputs, message), errors in zip(WRONG, found[:-1], strict=True):
        assert message in "; ".join(errors)
    assert found[-1] == []
