"""Every link is TLS; passwords and certificates change under load, and each task is executed once."""

from __future__ import annotations

import ssl
import time
from typing import Any
from uuid import uuid4

import pytest
import redis
from support.hosts.deployed_app import ended, results, send
from support.hosts.deployed_app import redis as broker
from support.hosts.fleet_workers import load, outcome, waits
from support.hosts.replicated_redis import MASTER, SENTINEL_PORT, Servers
from support.hosts.scenario import Scenario, address
from support.hosts.secrets_scan import assert_no_secrets
from support.hosts.supervised_fleet import SUPERVISOR, SupervisedHost, one_worker
from support.processes.services import wait_for

SCENARIO = Scenario("redis_tls")
SERVERS = Servers(SCENARIO)
LISTENERS = [
    ("data1", 6379),
    ("data2", 6379),
    *((name, SENTINEL_PORT) for name in ("data1", "data2", "worker1")),
]
USERS = ("app", "supervisor", "operator", "replication", "sentinel")
NEW = "rotated-{}-0123456789"

testinfra_hosts = ["ansible://worker1"]
units = ["celery-worker@general-*.service", SUPERVISOR, "celery-beat.service"]


@pytest.fixture
def trace() -> str:
    return f"test-{uuid4()}"


@pytest.mark.parametrize(("name", "port"), LISTENERS)
def test_a_plain_connection_is_refused(name: str, port: int) -> None:
    host = address(SCENARIO.hosts()[name])

    with redis.Redis(host=host, port=port, socket_timeout=5) as plain, pytest.raises(redis.ConnectionError):
        plain.ping()
    listening = SCENARIO.hosts()[name].check_output(f"ss -Hltn 'sport = :{port}'")
    assert listening  # so it was not only nobody who refused


@pytest.mark.parametrize(("name", "port"), LISTENERS)
def test_the_certificate_is_the_hosts_own_and_of_the_fleets_authority(name: str, port: int) -> None:
    host = address(SCENARIO.hosts()[name])

    with pytest.raises(redis.ConnectionError, match="certificate verify failed"):
        redis.Redis(host=host, port=port, ssl=True).ping()
    with SERVERS.connect(name, port) as known:
        assert known.ping()
    served = ssl.get_server_certificate((host, port), ca_certs=str(SERVERS.authority))
    issued = (SERVERS.authority.parent / name / "redis.pem").read_text()
    assert served.strip() == issued.strip()


def test_the_servers_replicate_and_the_sentinels_agree_though_nothing_plain_is_left() -> None:
    primary = SERVERS.primary()

    for name in SERVERS.hosts:
        assert SERVERS.connect(name).config_get("port", "tls-replication") == {
            "port": "0",
            "tls-replication": "yes",
        }
        seen = SERVERS.connect(name, SENTINEL_PORT).sentinel_master(MASTER)
        assert (seen["flags"], seen["num-other-sentinels"]) == ("master", 2)
    (replica,) = set(SERVERS.hosts) - {primary}
    key = f"test-{uuid4()}"
    with SERVERS.connect(primary) as client, SERVERS.connect(replica) as other:
        client.set(key, "1", ex=60)
        wait_for(lambda: other.get(key), "nothing is replicated")


def test_workers_supervisor_and_beat_work(host: Any, trace: str) -> None:
    ids = send(trace, waits(0, count=10))

    assert {found["status"] for found in results(ids).values()} == {"SUCCESS"}
    assert SupervisedHost("worker1", host).status()
    wait_for(lambda: broker().exists("redbeat::lock"), "beat takes no lock")


def rotate(users: dict[str, tuple[str, str]]) -> str:
    """Run the playbook with a new and a previous password of each user."""
    return SCENARIO.play(
        "-vvv",
        playbook="../../playbooks/rotate_redis_passwords.yml",
        redis_users=[
            {"name": name, "preset": name, "password": new, "previous_password": previous}
            for name, (new, previous) in users.items()
        ],
        redis_app_password=users["app"][0],
        redis_supervisor_password=users["supervisor"][0],
    )


def test_passwords_are_rotated_under_load_and_the_old_ones_are_refused(host: Any, trace: str) -> None:
    old = {name: SCENARIO.secrets[f"redis_{name}"] for name in USERS}
    new = {name: NEW.format(name) for name in USERS}
    run_ids = {name: SERVERS.run_ids(name) for name in SERVERS.hosts}
    before = SupervisedHost("worker1", host).workers()

    with load(trace, rate=5, seconds=0.2) as ids:
        printed = rotate({name: (new[name], old[name]) for name in USERS})
        try:
            after = SupervisedHost("worker1", host).workers()
            refused = [answer(*listener) for listener in LISTENERS]
            seen = len(ended(trace))
            ended(trace, seen + 10)
        finally:
            # The tests, too, have no other passwords than the inventory's.
            printed += rotate({name: (old[name], new[name]) for name in USERS})
    counted = outcome(trace, ids)

    assert counted.exactly_once, counted
    assert refused == ["invalid username-password pair or user is disabled."] * len(LISTENERS)
    assert [answer(*listener) for listener in LISTENERS] == ["PONG"] * len(LISTENERS)
    assert set(before.values()).isdisjoint(after.values())  # all were restarted
    for secret in [*old.values(), *new.values()]:
        assert secret not in printed
    for name in SERVERS.hosts:
        # No server had to restart.
        assert SERVERS.run_ids(name) == run_ids[name]
    SERVERS.primary()


def answer(name: str, port: int) -> str:
    """Return what a listener says to the operator with the inventory's password."""
    try:
        return "PONG" if SERVERS.connect(name, port).ping() else ""
    except redis.AuthenticationError as error:
        return str(error)


def test_certificates_are_renewed_under_load_and_without_a_restart_of_a_server(host: Any, trace: str) -> None:
    old = {listener: serial(*listener) for listener in LISTENERS}
    run_ids = {name: SERVERS.run_ids(name)[0] for name in SERVERS.hosts}
    supervised = SupervisedHost("worker1", host)

    # None ends because there are more than are needed.
    with one_worker(supervised), load(trace, rate=5, seconds=0.1) as ids:
        workers = supervised.workers()
        # More than a new one has.
        SCENARIO.play(common_certificate_renew_days=366)
        renewed = time.monotonic()
        wait_for(lambda: time.monotonic() - renewed > 2, "time stands still")
        survivors = supervised.workers()
    counted = outcome(trace, ids)

    assert counted.exactly_once, counted
    for listener in LISTENERS:
        assert serial(*listener) != old[listener], listener
    assert {name: SERVERS.run_ids(name)[0] for name in SERVERS.hosts} == run_ids
    assert workers.items() <= survivors.items()
    SERVERS.primary()


def serial(name: str, port: int) -> str:
    """Return what a listener shows, which differs with each certificate."""
    return ssl.get_server_certificate(
        (address(SCENARIO.hosts()[name]), port), ca_certs=str(SERVERS.authority)
    )


@pytest.mark.usefixtures("host")
def test_no_secret_and_no_key_can_be_seen() -> None:
    keys = [path.read_text().splitlines()[1] for path in SERVERS.authority.parent.glob("**/*.key")]
    assert len(keys) == 4
    for host in SCENARIO.hosts().values():
        assert_no_secrets(host, [*SCENARIO.secrets.values(), *keys])
        # The authority's key stays where it was made.
        assert host.run("grep -rl -- %s /etc /root /tmp", keys_of_authority()).rc == 1


def keys_of_authority() -> str:
    return SERVERS.authority.with_suffix(".key").read_text().splitlines()[1]
