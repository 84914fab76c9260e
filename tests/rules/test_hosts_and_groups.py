"""Faults of hosts and groups of an inventory: names, replication, files of variables."""

from typing import Any

import pytest
from ansible_collections.celery_fleet.platform.plugins.module_utils.fleet_rules import lines, validate
from ansible_collections.celery_fleet.platform.plugins.module_utils.fleet_rules.evaluation import inventory
from support.made_up_fleets import (
    APP,
    DATA,
    GROUPS,
    HOSTS,
    WORKERS,
    as_written,
    findings,
    with_values,
)


def test_misspelt_and_empty_groups_are_named() -> None:
    misspelt = {**GROUPS, "worker": GROUPS["workers"]}
    del misspelt["workers"]

    assert "group worker: is unknown, and there is no group workers; did you mean workers?" in findings(
        HOSTS, misspelt
    )
    assert "group workers: is empty; allowed: at least one host, or no such group" in findings(
        HOSTS, {**GROUPS, "workers": []}
    )
    assert findings(HOSTS, {**GROUPS, "datacenter1": ["data1"], "worker": ["worker1"]}) == []
    (nothing, *_) = findings({"host1": {}}, {"webservers": ["host1"]})
    assert nothing == (
        "groups: no host is in a group that a playbook deploys; "
        "allowed: redis, postgres, workers, beat, monitoring"
    )
    assert findings({}, {}) == [
        "hosts: there is no host; allowed: hosts in the groups redis, postgres, workers, beat, monitoring"
    ]


@pytest.mark.parametrize(
    ("first", "second", "one"),
    [
        ({"ansible_host": "198.51.100.22"}, {}, True),
        ({"ansible_host": "2001:DB8::16"}, {"ansible_host": "2001:db8:0:0::16"}, True),
        ({"ansible_host": "Worker.example"}, {"ansible_host": "worker.example."}, True),
        ({"ansible_host": "198.51.100.22", "ansible_port": 22}, {}, True),
        ({"ansible_host": "198.51.100.22", "ansible_port": 2222}, {}, False),
        ({"ansible_host": "198.51.100.22", "ansible_ssh_common_args": "-J a"}, {}, False),
        ({"ansible_connection": "local"}, {"ansible_connection": "ansible.builtin.local"}, True),
        ({"ansible_connection": "docker", "ansible_host": "c1"}, {"ansible_connection": "docker"}, False),
    ],
)
def test_two_names_of_one_host_are_named(first: dict[str, Any], second: dict[str, Any], one: bool) -> None:
    hosts = {**HOSTS, "worker1": {**HOSTS["worker1"], **first}, "worker2": {**HOSTS["worker2"], **second}}

    found = findings(hosts, GROUPS)

    assert ["are one host" in line for line in found] == [True] * one
    assert not one or found[0].startswith("ansible_host: worker1 and worker2 are one host")


SENTINEL = {"redis_sentinel": True, "redis_replication_of": "data1"}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"redis_sentinel": "true"},
            "redis_replication_of: is empty; allowed: the address of the first primary",
        ),
        (SENTINEL, "redis_sentinel: 1 hosts have a sentinel of celery; allowed: an odd number, 3 or more"),
        (SENTINEL, "redis_sentinel: redis_users has no user with the preset sentinel"),
        (SENTINEL, "redis_sentinel_quorum: 2 of 1 sentinels cannot agree"),
        (
            {"redis_replication_of": "localhost"},
            "redis_replication_of: localhost makes each host a replica of itself",
        ),
        (
            {"redis_replication_of": "data11"},
            "redis_replication_of: 'data11' is no host of the inventory; did you mean",
        ),
    ],
)
def test_a_fault_of_replication_is_named(values: dict[str, Any], words: str) -> None:
    assert [line for line in with_values("data1", **values) if line.startswith(f"data1: {words}")]


def test_an_address_from_elsewhere_can_be_the_first_primary() -> None:
    users = [*DATA["redis_users"], {"name": "replica", "preset": "replication", "password": APP}]

    assert with_values("data1", redis_users=users, redis_replication_of="redis.example.com") == []


def test_files_of_variables_that_resemble_a_group_are_named() -> None:
    files = {
        "worker": "group_vars/worker.yml",
        "workers": "group_vars/workers.yml",
        "site": "group_vars/site",
    }
    seen = inventory(HOSTS, {**GROUPS, "all": list(HOSTS)}, as_written, files)

    assert lines(validate(seen), seen) == [
        "group_vars/worker.yml: names no group and no host of the inventory; did you mean workers?"
    ]


def test_many_hosts_with_one_fault_are_one_line() -> None:
    names = [f"worker{number}" for number in range(1, 21)]
    hosts = {name: {"ansible_host": f"198.51.100.{100 + n}", **WORKERS} for n, name in enumerate(names)}
    groups = {**GROUPS, "workers": names}
    for name in names[:8]:
        hosts[name]["celery_app_root"] = "x"

    (line,) = findings({"data1": HOSTS["data1"], **hosts}, groups)

    assert line.startswith("worker1, worker2, worker3, worker4, worker5 and 3 more: celery_app_root: ")


def test_a_name_with_control_characters_stays_in_its_line() -> None:
    (line,) = with_values("workers", celery_app_root="/opt/a\n\x1b[31mred")

    assert "\n" not in line
    assert "\x1b" not in line
