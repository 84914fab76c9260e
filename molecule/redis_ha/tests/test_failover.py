"""The primary dies, or is cut off, under load: another one takes over, and each task is counted.

Each execution is counted by the lines that the worker logs: what a task writes to Redis may itself be lost.
"""

import logging
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from uuid import uuid4

import pytest
from support.hosts.deployed_app import send
from support.hosts.fleet_workers import outcome, waits
from support.hosts.logged_tasks import WORKERS, Load
from support.hosts.lost_hosts import without_network, without_power
from support.hosts.replicated_redis import MASTER, SENTINEL_PORT, Servers
from support.hosts.scenario import Scenario
from support.hosts.secrets_scan import assert_no_secrets
from support.hosts.supervised_fleet import SUPERVISOR, SupervisedHost, one_worker, wait_for_workers
from support.hosts.unit_exposure import ALLOWED, exposures
from support.processes.services import wait_for

SCENARIO = Scenario("redis_ha")
SERVERS = Servers(SCENARIO)
testinfra_hosts = ["ansible://worker1"]
units = [WORKERS, SUPERVISOR]

logger = logging.getLogger(__name__)

RECOVERS_WITHIN = 60.0  # seconds; 8 on an idle machine, up to 20 with a load of ten on two cores
# What the old primary had taken and not passed on, for it does not wait for the replicas: tasks of some
# milliseconds, at ten a second, and that workers had fetched or settled some.
LOST = 1
BEGUN_AGAIN = 3


@contextmanager
def killed(name: str) -> Iterator[None]:
    """Let a host lose its power until the block ends."""
    with without_power(f"celery-fleet-redis-ha-{name}"):
        yield
    wait_for(lambda: SERVERS.info(name), f"{name} does not come back")


@contextmanager
def cut_off(name: str) -> Iterator[None]:
    """Pull a host's network cable until the block ends; its servers go on."""
    with without_network(SERVERS.hosts[name]):
        yield
    wait_for(lambda: SERVERS.info(name), f"{name} does not come back")


def fail_over(host: Any, blow: Callable[[str], AbstractContextManager[None]]) -> None:
    """Strike the primary under load; see another one take over, and the old one come back as its replica."""
    old = SERVERS.primary()
    others = [name for name in SERVERS.hosts if name != old]
    load = Load()
    supervised = SupervisedHost("worker1", host)

    # None ends because there are more than are needed.
    with one_worker(supervised), load.running():
        workers = supervised.workers()
        struck = time.monotonic()
        with blow(old):
            elected = wait_for(
                lambda: next((name for name in map(SERVERS.elected, others) if name in others), None),
                "no other primary is elected",
                RECOVERS_WITHIN,
            )
            elected_after = time.monotonic() - struck
            first = wait_for(
                lambda: load.first_since(struck + elected_after),
                "the new primary accepts nothing",
                RECOVERS_WITHIN,
            )
            accepted_after = load.sent[first] - struck
            wait_for(lambda: load.ended(host)[first] > 0, "nothing is executed", RECOVERS_WITHIN)
            executed_after = time.monotonic() - struck
            survivors = supervised.workers()
        returned = SERVERS.primary()

    counted = load.outcome(host)
    logger.info(
        "%s: elected after %.1f s, accepted after %.1f s, executed after %.1f s; %d refused; %s",
        blow.__name__,
        elected_after,
        accepted_after,
        executed_after,
        load.refused,
        counted,
    )
    assert returned == elected
    # One that a sentinel takes for two would be told to follow itself the next time.
    for name in SERVERS.hosts:
        replicas = SERVERS.connect(name, SENTINEL_PORT).sentinel_slaves(MASTER)
        assert len(replicas) == len(others), replicas
    # Nobody had to die, or to be started again.
    assert workers
    assert workers.items() <= survivors.items()
    assert executed_after < RECOVERS_WITHIN
    assert len(counted.lost) <= LOST
    assert len(counted.started_again) <= BEGUN_AGAIN


def test_a_killed_primary_is_replaced_and_comes_back_as_a_replica(host: Any) -> None:
    fail_over(host, killed)


# Each takes the host, for else pytest would run it after those that do.
@pytest.mark.usefixtures("host")
def test_workers_follow_the_load_on_the_new_primary() -> None:
    trace = f"test-{uuid4()}"
    wait_for_workers(lambda seen: seen.total() == 1, "the minimum")

    ids = send(trace, waits(1, count=40))

    wait_for_workers(lambda seen: seen.total() == 2, "the maximum")
    assert outcome(trace, ids).exactly_once


@pytest.mark.usefixtures("host")
def test_a_play_after_the_failover_changes_nothing() -> None:
    before = SERVERS.primary()
    assert before != "data1"  # which the inventory calls the first

    printed = SCENARIO.play("--diff")

    changes = re.findall(r"^(\S+) +: ok=\d+ +changed=(\d+)", printed, re.MULTILINE)
    assert dict(changes) == dict.fromkeys(SCENARIO.hosts(), "0")
    assert SERVERS.primary() == before


def users_with_new_passwords(*names: str) -> list[dict[str, str]]:
    """Return redis_users with new passwords for some of them, beside which the present ones stay valid."""
    users = [
        {"name": name, "preset": name, "password": SCENARIO.secrets[f"redis_{name}"]}
        for name in ("app", "supervisor", "operator", "replication", "sentinel")
    ]
    for user in users:
        if user["name"] in names:
            user.update(previous_password=user["password"], password=f"rotated-{user['name']}-0123456789")
    return users


@pytest.mark.usefixtures("host")
def test_changed_settings_are_applied_live_and_shown_and_the_primary_stays() -> None:
    before = SERVERS.primary()
    run_ids = {name: SERVERS.run_ids(name) for name in SERVERS.hosts}
    users = users_with_new_passwords("replication", "sentinel")

    # Even at this verbosity, which prints the arguments of each module.
    printed = SCENARIO.play(
        "--diff",
        "-vvv",
        "--limit=redis",
        redis_min_replicas_max_lag=9,
        redis_sentinel_quorum=3,
        redis_sentinel_down_after=6,
        redis_users=users,
    )

    for line in ("+min-replicas-max-lag 9", "+quorum 3", "+down-after-milliseconds 6000"):
        assert len(re.findall(rf"^{re.escape(line)}$", printed, re.MULTILINE)) >= len(SERVERS.hosts), line
    for secret in [*SCENARIO.secrets.values(), *(user["password"] for user in users)]:
        assert secret not in printed
    assert SERVERS.primary() == before
    for name in SERVERS.hosts:
        assert SERVERS.run_ids(name) == run_ids[name]
        assert SERVERS.connect(name).config_get("min-replicas-max-lag") == {"min-replicas-max-lag": "9"}
        seen = SERVERS.connect(name, SENTINEL_PORT).sentinel_master(MASTER)
        assert (seen["quorum"], seen["down-after-milliseconds"]) == (3, 6000)

    SCENARIO.play("--limit=redis")
    # They log in with what is theirs now: a sentinel that is not let in takes its primary for dead.
    assert SERVERS.primary() == before
    for name in SERVERS.hosts:
        seen = SERVERS.connect(name, SENTINEL_PORT).sentinel_master(MASTER)
        assert (seen["flags"], seen["num-other-sentinels"]) == ("master", 2)


@pytest.mark.usefixtures("host")
def test_what_a_sentinel_would_refuse_is_refused_before_a_file_is_written() -> None:
    host = SCENARIO.hosts("redis")["data1"]
    files = "/etc/redis/sentinel.conf /etc/redis/sentinel-users.acl /etc/redis/users.acl"
    before = host.check_output(f"sha256sum {files}")

    # No input leads there: the rules are the role's own.
    wrong = {"__redis_sentinel_client_rules": ["+no-such-command"]}
    done = SCENARIO.run("--limit=data1", playbook="sentinel.yml", variables=wrong)

    assert done.returncode != 0
    assert "Unknown command or category name" in done.stdout
    assert host.check_output(f"sha256sum {files}") == before
    seen = SERVERS.connect("data1", SENTINEL_PORT).sentinel_master(MASTER)
    assert seen["num-other-sentinels"] == 2


@pytest.mark.usefixtures("host")
def test_a_setting_that_needs_a_restart_has_the_replicas_restart_first_and_the_primary_last() -> None:
    primary = SERVERS.primary()
    before = {name: started_at(host) for name, host in SERVERS.hosts.items()}

    # With a new password in the same run: the first to restart logs in to one that has not yet.
    SCENARIO.play("--limit=redis", redis_tcp_backlog=510, redis_users=users_with_new_passwords("replication"))

    restarted = {name: started_at(host) for name, host in SERVERS.hosts.items()}
    assert all(restarted[name] > before[name] for name in restarted)
    assert max(restarted, key=lambda name: restarted[name]) == primary
    assert SERVERS.primary() == primary


def started_at(host: Any) -> int:
    """Return when a host's Redis server was started, by the clock that all containers have in common."""
    shown = host.check_output(
        "systemctl show --property=ExecMainStartTimestampMonotonic --value redis-server"
    )
    return int(shown)


def test_a_primary_that_is_cut_off_is_replaced_and_comes_back_as_a_replica(host: Any) -> None:
    fail_over(host, cut_off)


@pytest.mark.usefixtures("host")
def test_sentinels_may_do_only_what_they_must() -> None:
    for host in SCENARIO.hosts("redis").values():
        assert exposures(host)["redis-sentinel.service"] <= ALLOWED


def test_no_secret_can_be_seen() -> None:
    for host in SCENARIO.hosts("redis").values():
        assert_no_secrets(host, SCENARIO.secrets.values())
