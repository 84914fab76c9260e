"""Copies are made by a replica, whole or not at all; one of them brings an empty pair of servers back."""

from __future__ import annotations

import tarfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import docker
import pytest
import redis
from support.hosts.replicated_redis import Servers
from support.hosts.scenario import Scenario
from support.hosts.secrets_scan import assert_no_secrets
from support.processes.services import wait_for

SCENARIO = Scenario("redis_restore")
SERVERS = Servers(SCENARIO)
RESTORE = "../../playbooks/restore_redis.yml"
FOLDER = "/var/backups/redis"
KEPT = 3  # as the inventory says

testinfra_hosts = ["ansible://data1"]
units = ["redis-server", "redis-backup"]


@pytest.fixture(autouse=True)
def in_sync(host: Any) -> None:  # noqa: ARG001 - whose journal is shown
    """Begin with a replica that follows."""
    wait_for(lambda: SERVERS.info("data2").get("master_link_status") == "up", "data2 does not follow", 60)


def fill() -> dict[str, Any]:
    """Give the primary data of each kind, in two databases, and return them."""
    with SERVERS.connect("data1") as client:
        client.flushall()
        for number in range(2000):
            client.lpush("queue", f"message {number}")
            client.set(f"result:{number}", "x" * 100, ex=86400)
        client.hset("hash", mapping={"a": "1"})
        client.zadd("zset", {"a": 1})
        client.xadd("stream", {"a": "1"})
        client.select(1)
        client.set("elsewhere", "1")
        assert client.wait(1, 10_000) == 1
    return content("data1")


def content(name: str) -> dict[str, Any]:
    """Return what a server has, key by key."""
    found = {}
    with SERVERS.connect(name) as client:
        for database in (0, 1):
            client.select(database)
            for key in client.scan_iter(count=1000):
                # Not DUMP, whose bytes differ with the encoding.
                match client.type(key):
                    case "list":
                        value = client.lrange(key, 0, -1)
                    case "hash":
                        value = client.hgetall(key)
                    case "zset":
                        value = client.zrange(key, 0, -1, withscores=True)
                    case "stream":
                        value = client.xrange(key)
                    case _:
                        value = client.get(key)
                found[f"{database}:{key}"] = value
    return found


def run_id(name: str) -> str:
    """Return what a restart of a server changes; nothing while it does not answer."""
    with suppress(redis.RedisError), SERVERS.connect(name) as client:
        return str(client.info("server")["run_id"])
    return ""


def copies(name: str) -> list[str]:
    return str(SERVERS.hosts[name].check_output(f"ls {FOLDER}")).split()


def back_up(name: str) -> str:
    """Make a copy; return what was said of it."""
    host = SERVERS.hosts[name]
    host.check_output("systemctl start redis-backup.service")
    said = "journalctl --no-pager --output=cat --unit=redis-backup.service _COMM=redis-backup"
    return str(host.check_output(f"{said} | tail -n 1"))


def fetch(name: str, folder: Path) -> Path:
    """Bring the newest copy of a host to this machine."""
    newest = copies(name)[-1]
    archive, _state = (
        docker.from_env()
        .containers.get(f"celery-fleet-redis-restore-{name}")
        .get_archive(f"{FOLDER}/{newest}")
    )
    packed = folder / "copy.tar"
    packed.write_bytes(b"".join(archive))
    with tarfile.open(packed) as tar:
        tar.extractall(folder, filter="data")
    return folder / newest


def wipe() -> None:
    """Take everything from both servers, as new disks would."""
    for host in SERVERS.hosts.values():
        host.check_output("systemctl stop redis-server && rm -rf /var/lib/redis/*")
        host.check_output("systemctl start redis-server")
    wait_for(lambda: SERVERS.info("data2").get("master_link_status") == "up", "data2 does not follow", 60)


def test_the_replica_makes_copies_and_the_primary_leaves_it_to_it() -> None:
    before = copies("data1")
    data = fill()

    said = back_up("data2")

    assert f": {len(data)} keys" in said
    assert back_up("data1") == "No copy: this is the primary, and its replicas make theirs"
    assert copies("data1") == before
    assert copies("data2")[-1] in said


def test_the_newest_copies_are_kept_and_nothing_half_written() -> None:
    made = [back_up("data2").split(":")[0].rpartition("/")[2] for _ in range(KEPT + 2)]

    assert copies("data2") == sorted(set(made))[-KEPT:]


def test_without_its_primary_a_replica_makes_no_copy() -> None:
    before = copies("data2")
    primary, replica = SERVERS.hosts["data1"], SERVERS.hosts["data2"]
    primary.check_output("systemctl stop redis-server")
    try:
        wait_for(lambda: SERVERS.info("data2").get("master_link_status") == "down", "data2 sees nothing", 60)
        assert replica.run("systemctl start redis-backup.service").rc != 0
    finally:
        primary.check_output("systemctl start redis-server")
    assert copies("data2") == before


def test_a_copy_brings_empty_servers_back(tmp_path: Path) -> None:
    data = fill()
    back_up("data2")
    copy = fetch("data2", tmp_path)
    wipe()

    printed = SCENARIO.play(playbook=RESTORE, redis_restore_file=str(copy))

    assert f"{len(data)} keys, of {len(data)} in the copy" in printed
    for name in SERVERS.hosts:
        assert content(name) == data
    # The append-only file goes on from there.
    with SERVERS.connect("data1") as client:
        client.set("after", "1")
        # While a sync of its file takes long, Redis keeps up to two seconds in memory, which a crash loses.
        wait_for(lambda: not client.info("persistence")["aof_buffer_length"], "data1 does not write")
    before = run_id("data1")
    SERVERS.hosts["data1"].check_output("systemctl kill --signal=KILL redis-server")
    wait_for(lambda: run_id("data1") not in {"", before}, "data1 does not come back", 60)
    assert content("data1") == data | {"0:after": "1"}


def test_what_cannot_be_restored_is_refused_in_one_line_and_nothing_is_touched(tmp_path: Path) -> None:
    data = fill()
    back_up("data2")
    copy = fetch("data2", tmp_path)
    run_ids = {name: run_id(name) for name in SERVERS.hosts}
    half = tmp_path / "half.rdb"
    half.write_bytes(copy.read_bytes()[:-1000])

    for file, refusal in (
        (copy, f"this server has {len(data)} keys; allowed is an empty one"),
        (half, "is no whole RDB file"),
        (tmp_path / "no such", "is no file here"),
    ):
        with pytest.raises(AssertionError, match=refusal):
            SCENARIO.play(playbook=RESTORE, redis_restore_file=str(file))

    for name in SERVERS.hosts:
        assert content(name) == data
        assert run_id(name) == run_ids[name]
        assert SERVERS.hosts[name].check_output("ls -d /var/lib/redis/restore.* 2>/dev/null || true") == ""


def test_no_secret_can_be_seen_and_the_copies_are_for_redis_only() -> None:
    for host in SERVERS.hosts.values():
        assert_no_secrets(host, SCENARIO.secrets.values())
        assert host.check_output(f"stat --format='%U %a' {FOLDER}") == "redis 700"
    assert (
        SERVERS.hosts["data2"].check_output(f"stat --format='%U %a' {FOLDER}/*.rdb | sort -u") == "redis 600"
    )


def test_the_timer_waits() -> None:
    for host in SERVERS.hosts.values():
        properties = "ActiveState,UnitFileState,NextElapseUSecRealtime"
        shown = host.check_output(f"systemctl show --property={properties} redis-backup.timer")
        assert "ActiveState=active" in shown
        assert "UnitFileState=enabled" in shown
        assert "NextElapseUSecRealtime=\n" not in f"{shown}\n"
