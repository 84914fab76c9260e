"""What a changed variable does to a running server. These tests change the hosts and put them back."""

import re
from collections.abc import Collection
from typing import Any

import pytest
import redis
from support.hosts.redis_provider import UNITS, provider
from support.hosts.scenario import Scenario, address

SCENARIO = Scenario("redis")
NEW_PASSWORD = "rotated-" + "0123456789abcdef"

units = UNITS


def operator(host: Any, password: str | None = None) -> redis.Redis:
    return redis.Redis(
        host=address(host),
        username="operator",
        password=password or SCENARIO.secrets["redis_operator"],
        decode_responses=True,
        retry=redis.retry.Retry(redis.backoff.ConstantBackoff(0.2), 50),
    )


def starts(host: Any) -> int:
    """How often the unit was started."""
    unit = f"{provider(host)}-server"
    return len(host.check_output(f"journalctl -u {unit} -o cat | grep '^Started '").splitlines())


@pytest.fixture(scope="module")
def hosts() -> Collection[Any]:
    return SCENARIO.hosts().values()


@pytest.fixture
def users() -> list[dict[str, Any]]:
    secrets = SCENARIO.secrets
    return [
        {"name": name, "preset": name, "password": secrets[f"redis_{name}"]}
        for name in ("app", "supervisor", "operator")
    ]


def test_live_changes_are_applied_without_a_restart_and_shown(
    hosts: Collection[Any], users: list[dict[str, Any]]
) -> None:
    users[0]["rules"] = ["-incrby"]
    users[2].update(password=NEW_PASSWORD, previous_password=SCENARIO.secrets["redis_operator"])
    run_ids, connections = [], []
    for host in hosts:
        client = operator(host)
        client.acl_setuser(
            "stranger", enabled=True, passwords=["+intruder"], categories=["+@all"], keys=["*"]
        )
        # A setting that the role leaves at its default: clients would be thrown out.
        client.config_set("maxmemory-clients", "20mb")
        run_ids.append(client.info("server")["run_id"])
        worker = redis.Redis(host=address(host), username="app", password=SCENARIO.secrets["redis_app"])
        connections.append((worker, worker.client_id()))

    wanted: dict[str, Any] = {"redis_tcp_keepalive": 77, "redis_save": [], "redis_users": users}
    foretold = SCENARIO.play("--check", "--diff", **wanted)
    assert operator(next(iter(hosts))).config_get("tcp-keepalive") == {"tcp-keepalive": "60"}
    # Even at this verbosity, which prints the arguments of each module.
    printed = SCENARIO.play("--diff", "-vvv", **wanted)

    for printed_by_all in (foretold, printed):
        assert NEW_PASSWORD not in printed_by_all
        # The file's own diff stands before the server's.
        output = printed_by_all.split(
            "TASK [celery_fleet.platform.redis : service | Apply the settings and the users]"
        )[1]
        assert len(re.findall(r"^-tcp-keepalive 60$", output, re.MULTILINE)) == len(hosts)
        assert len(re.findall(r"^\+tcp-keepalive 77$", output, re.MULTILINE)) == len(hosts)
        assert len(re.findall(r"^-user stranger ", output, re.MULTILINE)) == len(hosts)
        assert len(re.findall(r"^-maxmemory-clients 20971520$", output, re.MULTILINE)) == len(hosts)
        assert NEW_PASSWORD not in output
    for host, run_id, (worker, client_id) in zip(hosts, run_ids, connections, strict=True):
        client = operator(host, NEW_PASSWORD)
        assert client.info("server")["run_id"] == run_id
        wanted_now = {"tcp-keepalive": "77", "save": "", "maxmemory-clients": "0"}
        assert client.config_get(*wanted_now) == wanted_now
        assert client.acl_users() == ["app", "default", "operator", "supervisor"]
        assert operator(host).ping(), "the previous password is accepted while a new one is rolled out"
        # A worker keeps its connection and has its new rules at once.
        with pytest.raises(redis.exceptions.NoPermissionError):
            worker.incr("test:counter")
        assert worker.client_id() == client_id


def test_a_static_change_restarts_once_and_keeps_the_data(
    hosts: Collection[Any], users: list[dict[str, Any]]
) -> None:
    users[2]["previous_password"] = NEW_PASSWORD
    before = []
    for host in hosts:
        client = operator(host, NEW_PASSWORD)
        # As on a server that had no append-only file: a mere restart would load an empty one.
        client.config_set("appendonly", "no")
        client.set("test:taken-over", "kept")
        host.check_output(f"rm -rf /var/lib/{provider(host)}/appendonlydir")
        before.append(starts(host))

    printed = SCENARIO.play("--diff", redis_databases=17, redis_users=users)

    assert "restart needed by databases" in printed
    for host, count in zip(hosts, before, strict=True):
        client = operator(host)
        assert client.config_get("databases") == {"databases": "17"}
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.get("test:taken-over") == "kept"
        assert starts(host) == count + 1


def test_the_former_variables_put_everything_back(hosts: Collection[Any]) -> None:
    SCENARIO.play()
    for host in hosts:
        expected = {"databases": "16", "tcp-keepalive": "60", "save": "3600 1 300 100 60 10000"}
        assert operator(host).config_get(*expected) == expected
        with pytest.raises(redis.exceptions.AuthenticationError):
            operator(host, NEW_PASSWORD).ping()


def test_an_unknown_setting_is_refused_before_the_server_meets_it(hosts: Collection[Any]) -> None:
    with pytest.raises(AssertionError, match="this Redis knows no setting maxmemry-clients"):
        SCENARIO.play("--check", "--limit=broker13", redis_extra_settings={"maxmemry-clients": "1gb"})
    for host in hosts:
        assert operator(host).ping()


@pytest.mark.parametrize(
    ("name", "wanted", "refusal"),
    [
        ("broker12", "valkey", "Debian 12 has no valkey; it is in Debian 13"),
        ("broker13", "valkey", "valkey cannot stand beside or take over /var/lib/redis/appendonlydir, /"),
        ("valkey13", "redis", "redis cannot stand beside or take over /var/lib/valkey/appendonlydir, /"),
    ],
)
def test_another_provider_is_refused_and_the_present_one_goes_on(
    hosts: Collection[Any], name: str, wanted: dict[str, set[str]], refusal: str
) -> None:
    with pytest.raises(AssertionError, match=f"redis_provider: {refusal}"):
        SCENARIO.play(f"--limit={name}", redis_provider=wanted)
    for host in hosts:
        assert operator(host).ping()
