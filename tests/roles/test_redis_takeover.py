"""What the role asks a Redis server before it takes it over, of real servers as people have them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from support.processes.services import RedisServer, RedisServerFactory, free_port, wait_for
from support.role_files import load_module, load_shared

takeover = load_module("redis_takeover")
server = load_shared("redis_server")

WANTED = {"dir": "/var/lib/redis", "databases": "16", "maxmemory": "100mb"}
UNIT = "redis-server.service"
CONFIG = Path("/etc/redis/redis.conf")


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[RedisServer], Any]:
    """A way to a server through the redis-cli beside it, for the modules run it on the server's host."""

    def way(target: RedisServer) -> Any:
        client = tmp_path / "redis-cli"
        client.write_text(
            f'#!/bin/sh\nexec docker exec -i -e REDISCLI_AUTH {target.container.id} redis-cli "$@"\n'
        )
        client.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/local/bin:/usr/bin:/bin")
        return server.Server(("-h", target.host, "-p", str(target.port)), None, "")

    return way


def test_a_connection_that_is_closed_before_the_reply_is_made_again(
    redis_server: RedisServer, ask: Callable[[RedisServer], Any]
) -> None:
    client = Redis.from_url(redis_server.url, decode_responses=True)

    def waiting() -> str:
        return wait_for(
            lambda: next((one["id"] for one in client.client_list() if one["cmd"] == "blpop"), None),
            "nobody waits",
        )

    with ThreadPoolExecutor(1) as executor:
        asked = executor.submit(ask(redis_server).do, ("BLPOP", "reply", "60"))
        first = waiting()
        client.client_kill_filter(_id=first)
        wait_for(lambda: waiting() != first, "the command is not sent again")
        client.rpush("reply", "7")

        assert asked.result() == [["reply", "7"]]


def test_a_connection_that_is_closed_each_time_is_an_error_and_no_empty_reply(
    redis_server: RedisServer, ask: Callable[[RedisServer], Any]
) -> None:
    way = ask(redis_server)

    with pytest.raises(server.RedisError, match=r"^redis-cli: .*Error: "):
        way.raw(["CLIENT KILL TYPE normal SKIPME no", "INFO"])


def test_a_node_of_a_cluster_is_refused(
    redis_server_factory: RedisServerFactory, ask: Callable[[RedisServer], Any]
) -> None:
    node = ask(redis_server_factory("--cluster-enabled", "yes", "--cluster-port", str(free_port())))

    assert "is a node of a cluster" in takeover.place_errors(node, WANTED)[0]


def test_a_replica_is_refused_unless_the_fleet_has_replicas(
    redis_server: RedisServer, redis_server_factory: RedisServerFactory, ask: Callable[[RedisServer], Any]
) -> None:
    follower = ask(redis_server_factory("--replicaof", f"{redis_server.host} {redis_server.port}"))

    (error,) = takeover.place_errors(follower, WANTED)

    assert f"is a replica of {redis_server.host}:{redis_server.port}" in error
    assert takeover.place_errors(follower, {**WANTED, "masteruser": "replicas"}) == []


def test_keys_beyond_the_wanted_databases_are_refused(
    redis_server_factory: RedisServerFactory, ask: Callable[[RedisServer], Any]
) -> None:
    many = ask(redis_server_factory("--databases", "32"))
    assert takeover.place_errors(many, WANTED) == []
    many.raw(["SELECT 20", "LPUSH orders message"])

    (error,) = takeover.place_errors(many, WANTED)

    assert "has keys in database 20" in error
    assert error.endswith("redis_databases: 16; allowed: 21 or more")
    assert takeover.place_errors(many, {**WANTED, "databases": 21}) == []


COMMAND = "{{ path=/usr/bin/redis-server ; argv[]=/usr/bin/redis-server {} ; ignore_errors=no ; pid=0 }}"
DEBIANS = f"{CONFIG} --supervised systemd --daemonize no"


@pytest.mark.parametrize(
    ("command", "user", "errors"),
    [
        (DEBIANS, "redis", []),
        ("", "", []),
        (f"{DEBIANS} --appendonly no", "redis", ["starts the server with --appendonly"]),
        (
            "/srv/redis.conf --supervised systemd",
            "redis",
            ["reads /srv/redis.conf and not /etc/redis/redis.conf"],
        ),
        (DEBIANS, "root", ["runs the server as the user root and not as redis"]),
    ],
)
def test_what_a_unit_says_beside_the_file_is_refused(
    monkeypatch: pytest.MonkeyPatch, command: str, user: str, errors: list[str]
) -> None:
    shown = {"ExecStart": COMMAND.format(command), "User": user} if command else {}
    monkeypatch.setattr(takeover, "unit_properties", lambda _unit: shown)

    found = takeover.unit_errors(UNIT, CONFIG)

    assert len(found) == len(errors)
    assert all(error in line for error, line in zip(errors, found, strict=True))


def test_a_renamed_command_in_an_included_file_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "redis.conf"
    (tmp_path / "more-1.conf").write_text('requirepass "of the file"\nrename-command LPUSH hidden\n')
    config.write_text("port 6379\ninclude more-*.conf\n")

    assert "has rename-command" in takeover.file_errors(config)[0]
    assert server.default_passwords(None, config) == ["", "of the file"]
    config.write_text("port 6379\n")
    assert takeover.file_errors(config) == []


def test_a_stopped_server_with_its_data_elsewhere_is_refused(tmp_path: Path) -> None:
    config, other = tmp_path / "redis.conf", tmp_path / "srv"
    (other / "appendonlydir").mkdir(parents=True)
    config.write_text(f"dir {other}\nappendonly yes\n")

    (error,) = takeover.stopped_errors(config, UNIT, WANTED)

    assert f"has its data elsewhere (dir {other})" in error
    assert takeover.stopped_errors(config, UNIT, {"dir": str(other)}) == []


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("port 6379\ndir /srv/redis\n", "the port 6379 of"),
        ("dir /srv/redis\n", "the port 6379 of"),
        ("port 6380\ndir /var/lib/redis\n", "the dir /var/lib/redis of"),
        ("port 6380\ndir /srv/redis\n", ""),
    ],
)
def test_an_instance_of_debians_template_that_is_in_the_way_is_refused(
    tmp_path: Path, text: str, refused: str
) -> None:
    config = tmp_path / "redis-shop.conf"
    config.write_text(text)
    shown = {"redis-server@shop.service": {"ExecStart": COMMAND.format(f"{config} --daemonize no")}}

    errors = takeover.instance_errors(UNIT, shown, {**WANTED, "port": 6379, "tls-port": 0})

    assert len(errors) == bool(refused)
    assert all(refused in error and "systemctl disable --now redis-server@shop" in error for error in errors)


@pytest.mark.parametrize(
    ("package", "version", "newest"),
    [
        ("redis-server", "5:7.0.15-1~deb12u5", 10),
        ("redis-server", "5:8.0.2-3+deb13u1", 12),
        ("valkey-server", "8.1.1+dfsg1-3", 11),
        # What is not known is not judged.
        ("redis-server", "9:99.1.0", 0),
        ("redis-server", "", 0),
    ],
)
def test_what_a_version_reads_is_known(package: str, version: str, newest: int) -> None:
    assert takeover.reads(package, version) == newest


@pytest.mark.parametrize("name", ["dump.rdb", "appendonlydir/appendonly.aof.2.base.rdb"])
def test_data_of_a_newer_server_are_refused_before_anything_is_installed(tmp_path: Path, name: str) -> None:
    (tmp_path / "appendonlydir").mkdir()
    (tmp_path / name).write_bytes(b"REDIS0012\xfa\x09redis-ver")
    config, wanted = tmp_path / "none.conf", {**WANTED, "dir": str(tmp_path)}

    (error,) = takeover.version_errors(config, "redis-server", "5:7.0.15-1~deb12u5", wanted)

    assert f"{tmp_path / name} is of a newer server: its RDB version is 12" in error
    assert takeover.version_errors(config, "redis-server", "5:8.0.2-3", wanted) == []
