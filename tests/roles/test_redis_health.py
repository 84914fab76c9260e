"""Whether servers and sentinels are complete, and which version they may have next."""

from typing import Any

import pytest
from support.made_up_redis import USERS
from support.role_files import (
    Place,
    evaluate,
    load_module,
    load_shared,
)

server = load_shared("redis_server")
packages = load_module("redis_packages")
health = load_module("redis_health")
switchover = load_module("redis_switchover")


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
