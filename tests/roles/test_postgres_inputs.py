"""Which inputs the role postgres refuses, and which pass."""

from dataclasses import replace
from typing import Any

import pytest
from ansible_collections.celery_fleet.platform.plugins.module_utils.fleet_rules import of_role
from ansible_collections.celery_fleet.platform.plugins.module_utils.fleet_rules.evaluation import inventory
from support.made_up_fleets import as_written
from support.made_up_postgres import DATABASES, HOSTS, OF_DATA1, ON_DATA2, TO_BACKUP1, USERS, rendered
from support.role_files import (
    FACTS,
    HERE,
    evaluate,
    load_module,
    load_shared,
    refusal,
    render,
)

access = load_module("postgres_access")
owner = load_shared("postgres_owner")


def test_an_archive_that_cannot_work_is_refused() -> None:
    cases = [
        (TO_BACKUP1, ""),
        ({**TO_BACKUP1, "postgres_repository": ""}, ""),
        ({**TO_BACKUP1, "postgres_repository_passphrase": "short"}, "allowed: 16 or more ASCII"),
        (
            {**TO_BACKUP1, "postgres_repository": "data1"},
            "data1 is one of the servers, and backups must outlive",
        ),
        ({**TO_BACKUP1, "postgres_repository": "nowhere"}, "'nowhere' is no host of the inventory"),
    ]
    for given, message in cases:
        found = refused({**HOSTS, "backup1": given}, "backup1", {"postgres": [*HOSTS]})
        assert message in "; ".join(found)
        assert bool(found) == bool(message)


RIGHT: dict[str, Any] = {"postgres_users": USERS, "postgres_databases": DATABASES}
WRONG: list[tuple[dict[str, Any], str]] = [
    ({"postgres_users": [{"name": "app", "password": "short"}]}, "allowed: 16 or more ASCII characters"),
    ({"postgres_users": [{"name": "postgres", "password": "x" * 16}]}, "cannot be a name"),
    ({"postgres_users": [{"name": "replicator", "password": "x" * 16}]}, "cannot be a name"),
    ({"postgres_databases": [{"name": "shop", "owner": "nobody"}]}, "the owner nobody of shop is not in"),
    ({"postgres_grants": [{"database": "shop", "user": "x"}]}, "x on shop names a user or a database"),
    ({"postgres_extra_settings": {"port": 1}}, "port belongs to the role"),
    ({"postgres_extra_settings": {"primary_conninfo": ""}}, "primary_conninfo belongs to the role"),
    ({"postgres_extra_settings": {"archive_command": ""}}, "archive_command belongs to the role"),
    ({"postgres_source": "ubuntu"}, "postgres_source: is 'ubuntu'; allowed: debian, pgdg"),
    (
        {"postgres_replication_clients": ["2001:db8::11/32"]},
        "'2001:db8::11/32' is the network of a whole provider",
    ),
    ({"postgres_replication_of": "alone"}, "alone cannot be a standby of itself"),
    ({"postgres_replication_of": "data9"}, "'data9' is no host of the inventory"),
]


def test_an_address_alone_is_that_host_alone() -> None:
    addresses = ["198.51.100.11", "2001:db8::11", "10.0.0.0/24", "2001:db8::/32", "samenet", "db.example.org"]
    clients = [{"databases": ["celery"], "users": ["celery_app"], "addresses": addresses}]
    files = rendered({"postgres_clients": clients})
    assert [line.split()[3] for line in files["access"].splitlines()[-6:]] == [
        "198.51.100.11/32",
        "2001:db8::11/128",
        "10.0.0.0/24",
        "2001:db8::/32",
        "samenet",
        "db.example.org",
    ]
    of_data1 = {**OF_DATA1, "postgres_replication_clients": ["2001:db8::11"]}
    rules = rendered(of_data1, ON_DATA2)["access"].splitlines()
    assert rules[-1] == "host replication,postgres replicator 2001:db8::11/128 scram-sha-256"
    hba = "etc/pgbouncer/fleet/hba.conf.j2"
    pooled = render(
        "postgres",
        [hba],
        {
            "ansible_facts": {**FACTS, "interfaces": []},
            "postgres_clients": [clients[0] | {"addresses": addresses[:2]}],
        },
    )
    assert [line.split()[3] for line in pooled[hba].splitlines()[-2:]] == [
        "198.51.100.11/32",
        "2001:db8::11/128",
    ]


def refused(
    hosts: dict[str, dict[str, Any]], name: str, groups: dict[str, list[str]] | None = None
) -> list[str]:
    """What the role refuses on a host of an inventory."""
    seen = replace(inventory(hosts, groups or {}, as_written), play=list(hosts))
    found = of_role("postgres", seen.hosts[name], seen)
    return [f"{finding.variable}: {finding.text}" for finding in found]


@pytest.mark.parametrize(("inputs", "message"), WRONG)
def test_wrong_input_is_named(inputs: dict[str, Any], message: str) -> None:
    assert message in "; ".join(refused({"alone": inputs}, "alone"))


def test_right_input_passes() -> None:
    assert refused({"alone": {**RIGHT, "postgres_version": 17}}, "alone") == []


def test_a_version_that_the_role_does_not_manage_is_refused() -> None:
    cases: list[dict[str, Any]] = [
        {"ansible_facts": {**FACTS, "distribution_major_version": "14"}},
        {"postgres_version": "9.6"},
        {"postgres_version": "14"},
        {},
    ]
    unknown, old, older, right = evaluate("postgres", "__postgres_errors", cases)
    assert "carries no version of PostgreSQL that" in unknown[0]
    assert "'9.6' is no major version that this role manages (allowed: 15 and newer" in old[0]
    assert "'14' is no major version that this role manages (allowed: 15 and newer" in older[0]
    assert right == []


def test_the_role_itself_refuses_wrong_input_and_an_unknown_version() -> None:
    """In a playbook of somebody's own, with nothing but the path of the roles."""
    inputs = {"postgres_users": [{"name": "postgres", "password": "x" * 16}], "postgres_version": "9.6"}
    found = refusal("postgres", inputs)
    assert "'9.6' is no major version" in found
    assert "postgres_users: 'postgres' cannot be a name" in found


def test_a_cluster_has_one_primary_and_a_password() -> None:
    def on_data2(given: dict[str, Any], **others: dict[str, Any]) -> list[str]:
        return refused({**HOSTS, **others, "data2": given}, "data2")

    assert on_data2(OF_DATA1) == []
    of_a_standby = on_data2({**OF_DATA1, "postgres_replication_of": "data3"})
    assert "data3 is itself a standby, of data1; allowed: the primary" in of_a_standby[0]
    assert on_data2({"postgres_replication_of": "data1"}) == [
        "postgres_replication_password: is not set; allowed: 16 or more ASCII characters without blanks"
    ]
    (error,) = on_data2(OF_DATA1, alone={})
    assert error.startswith("postgres_replication_of: two primaries in one play with standbys: alone, data1;")


def test_memory_is_not_promised_twice() -> None:
    both = {"redis": ["alone"], "postgres": ["alone"]}
    enough = {"postgres_memory_percent": 40, "redis_maxmemory_percent": 60}

    assert refused({"alone": RIGHT}, "alone", both) == [
        "redis_maxmemory_percent: is 50 and postgres_memory_percent is 100, more memory than there is; "
        "allowed: 100 together"
    ]
    assert refused({"alone": RIGHT | enough}, "alone", both) == []


def test_too_few_connections_for_the_worker_groups_are_refused() -> None:
    # Two worker hosts under supervisors, which share their groups, and one without.
    supervised = {
        "celery_app_supervised": True,
        "celery_app_worker_groups": [
            {"name": "short", "pool": "prefork", "concurrency": [2, 4], "workers": 1, "max_workers": 5},
            {"name": "io", "pool": "threads", "concurrency": 50, "workers": 1, "max_workers": 2},
        ],
    }
    fixed = {"name": "fixed", "pool": "prefork", "concurrency": 4, "workers": 2}
    hosts: dict[str, Any] = {
        "localhost": {},
        "worker1": {"celery_app_worker_groups": [fixed]},
        "worker2": supervised,
        "worker3": supervised,
    }
    pooled: dict[str, Any] = {
        "postgres_pgbouncer": True,
        "postgres_app_pool_size": 10,
        "postgres_max_connections": 10,
    }
    pooled |= {
        "postgres_databases": [{"name": "celery", "owner": "o"}],
        "postgres_users": [{"name": "o", "password": "p" * 16}],
    }
    cases = [
        {"postgres_app_pool_size": 10, "postgres_max_connections": 50},
        {"postgres_app_pool_size": 10, "postgres_max_connections": 51},
        {"postgres_max_connections": 10},
        pooled | {"postgres_pgbouncer_max_clients": 48, "postgres_pgbouncer_pool_size": 7},
        pooled | {"postgres_pgbouncer_max_clients": 47, "postgres_pgbouncer_pool_size": 8},
    ]
    too_few, *right, too_small_pool = [refused({**hosts, "localhost": case}, "localhost") for case in cases]
    sum_of_groups = "(fixed on worker1: 8, short: 20, io: 20)"
    assert too_few == [
        "postgres_max_connections: 50 leaves 47 for the app, whose workers may open 48 "
        f"{sum_of_groups}; allowed: 51 or more"
    ]
    assert right == [[], [], []]
    assert too_small_pool == [
        "postgres_max_connections: 10 leaves 7 for PgBouncer, which may open 8"
        " (postgres_pgbouncer_pool_size: 8 for each database); allowed: 11 or more",
        "postgres_pgbouncer_max_clients: is 47, and the workers of the app may open 48 "
        f"{sum_of_groups}; allowed: 48 or more",
    ]


def test_pgbouncer_refuses_clients_by_name() -> None:
    entry = {"databases": ["celery"], "users": ["all"]}
    addresses = ["10.0.0.0/24", "fd00::/8", "samenet", "worker1.example.org"]
    case = {"postgres_clients": [entry | {"addresses": addresses}]}
    assert refused({"alone": case | {"postgres_pgbouncer": True}}, "alone") == [
        "postgres_clients: 'worker1.example.org' is no network, and PgBouncer knows no other; "
        "allowed: such as 10.0.0.0/24, samenet"
    ]
    assert refused({"alone": case}, "alone") == []


def test_pgbouncer_knows_the_networks_of_the_host() -> None:
    facts = {
        "interfaces": ["lo", "eth0", "br-one", "dummy0"],
        "lo": {"ipv4": {"address": "127.0.0.1", "network": "127.0.0.0", "prefix": "8"}},
        "eth0": {
            "ipv4": {"address": "10.0.0.7", "network": "10.0.0.0", "prefix": "24"},
            "ipv4_secondaries": [{"address": "10.2.0.1", "network": "10.2.0.0", "prefix": "24"}],
        },
        "br_one": {"ipv4": {"address": "10.1.0.1", "network": "10.1.0.0", "prefix": "16"}},
        "dummy0": {},
    }
    (networks,) = evaluate("postgres", "__postgres_own_networks", [{"ansible_facts": facts}], HERE)
    assert networks.split() == ["10.1.0.0/16", "10.0.0.0/24", "10.2.0.0/24", "127.0.0.0/8"]


def test_the_rules_about_servers_get_what_was_found() -> None:
    primary = {
        "versions": ["17"], "data": True, "configured": True, "running": True, "standby": False,
        "position": 9, "errors": [],
    }  # fmt: skip
    standby = primary | {"standby": True, "streaming": False, "replayed": 9}
    cases = [
        {
            **OF_DATA1,
            "postgres_version": "17",
            "__postgres_states": {"data1": primary, "data2": standby, "data3": {"unreachable": True}},
            "__postgres_pgbouncer_check": {"rc": 0},
        }
    ]
    expression = "[__postgres_state_errors, __postgres_promote_errors, __postgres_verify_errors]"

    [[state, promotion, health]] = evaluate("postgres", expression, cases, ON_DATA2)

    assert state == []
    assert promotion == ["it does not follow data1, which is the primary and answers"]
    assert health[0].startswith("it does not follow data1; playbooks/failover_postgres.yml")
