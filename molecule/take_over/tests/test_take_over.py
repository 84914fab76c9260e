"""A server that was there before keeps its messages; what is refused changes nothing."""

import re

import pytest
import redis
from scenario import Scenario, address
from services import wait_for

SCENARIO = Scenario("take_over")
MESSAGES = [f"message-{number}" for number in range(1, 501)]
FILES = (
    "/etc/redis/redis.conf /etc/redis/users.acl /etc/systemd/system/redis-server.service.d/celery-fleet.conf"
)

units = ["redis-server"]


@pytest.fixture(scope="module")
def hosts():
    return SCENARIO.hosts().values()


def operator(host):
    return redis.Redis(
        host=address(host),
        username="operator",
        password=SCENARIO.secrets["redis_operator"],
        decode_responses=True,
        retry=redis.retry.Retry(redis.backoff.ConstantBackoff(0.2), 50),
    )


def messages(host):
    return list(reversed(operator(host).lrange("celery", 0, -1)))


def restart(host):
    host.check_output("systemctl restart redis-server")
    wait_for(lambda: operator(host).ping(), "Redis does not answer", 30)


def refusal(**variables):
    """What a run that must fail says, one line a host; nothing on a host may change."""
    hosts = SCENARIO.hosts().values()
    before = [host.check_output(f"sha256sum {FILES}") for host in hosts]
    with pytest.raises(AssertionError) as failure:
        SCENARIO.play(**variables)
    assert [host.check_output(f"sha256sum {FILES}") for host in hosts] == before
    return str(failure.value)


def test_every_message_is_there_after_the_take_over_and_a_restart(hosts):
    for host in hosts:
        assert messages(host) == MESSAGES
        assert operator(host).config_get("appendonly") == {"appendonly": "yes"}
        restart(host)
        assert messages(host) == MESSAGES


def test_the_password_from_before_opens_nothing(hosts):
    for host in hosts:
        with pytest.raises(redis.exceptions.AuthenticationError):
            redis.Redis(host=address(host), password=SCENARIO.secrets["present"]).ping()


@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"redis_extra_settings": {"hz-typo": 10}}, "hz-typo"),
        ({"redis_extra_settings": {"hz": "often"}}, "hz: "),
        ({"redis_extra_settings": {"rename-command": "CONFIG hidden extra"}}, "rename-command: "),
        ({"redis_bind": ["192.0.2.1"]}, "192.0.2.1 is no address of this host"),
    ],
)
def test_what_redis_would_refuse_is_refused_before_a_file_is_written(hosts, variables, reason):
    printed = refusal(**variables)

    assert len(re.findall(re.escape(reason), printed)) >= len(hosts), printed


def test_a_rule_that_redis_does_not_know_is_refused_before_a_file_is_written():
    users = [
        {"name": "app", "preset": "app", "password": SCENARIO.secrets["redis_app"], "rules": ["+no-such"]},
        {"name": "operator", "preset": "operator", "password": SCENARIO.secrets["redis_operator"]},
    ]

    printed = refusal(redis_users=users)

    assert "Unknown command or category name" in printed, printed
    assert SCENARIO.secrets["redis_app"] not in printed


def test_a_server_that_lets_nobody_in_is_refused_before_a_file_is_written():
    users = [
        {"name": "operator", "preset": "operator", "password": "another-password-0123456789"},
    ]

    printed = refusal(redis_users=users)

    assert "cannot ask Redis as the user operator" in printed


def test_what_was_refused_leaves_a_server_that_starts_again(hosts):
    for host in hosts:
        restart(host)
        assert messages(host) == MESSAGES


def test_a_stopped_server_with_data_and_no_append_only_file_is_refused(hosts):
    host = next(iter(hosts))
    operator(host).save()
    host.check_output("systemctl stop redis-server && mv /var/lib/redis/appendonlydir /var/lib/redis/aside")
    try:
        with pytest.raises(AssertionError, match=r"holds data and redis-server\.service does not run"):
            SCENARIO.play("--limit", "broker12")
    finally:
        host.check_output(
            "mv /var/lib/redis/aside /var/lib/redis/appendonlydir && systemctl start redis-server"
        )
    wait_for(lambda: messages(host) == MESSAGES, "messages are missing", 30)
