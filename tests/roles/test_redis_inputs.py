"""Which inputs the role redis refuses, and which pass."""

from typing import Any

import pytest
from ansible_collections.celery_fleet.platform.plugins.module_utils.fleet_rules import of_role
from ansible_collections.celery_fleet.platform.plugins.module_utils.fleet_rules.evaluation import inventory
from support.made_up_fleets import as_written
from support.made_up_redis import HA_USERS, USERS
from support.role_files import (
    FACTS,
    refusal,
)

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
