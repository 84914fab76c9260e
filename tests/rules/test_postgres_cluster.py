"""Faults of the servers of a PostgreSQL cluster as they are found: each is one line, what is right passes."""

from __future__ import annotations

import time
from typing import Any

import pytest
from ansible_collections.celery_fleet.platform.plugins.filter.postgres_errors import postgres_errors

EMPTY: dict[str, Any] = {
    "versions": [], "data": False, "configured": False, "running": False, "standby": False, "errors": [],
}  # fmt: skip
PRIMARY = EMPTY | {"versions": ["17"], "data": True, "configured": True, "running": True, "position": 100}
STANDBY = PRIMARY | {"standby": True, "streaming": True, "replayed": 100}


def found(host: str = "data1", **changes: Any) -> dict[str, Any]:
    """What is found of a primary and its standby, seen from one of them."""
    states = {"data1": PRIMARY, "data2": STANDBY} | changes.pop("states", {})
    return {
        "host": host, "version": "17", "self": states[host], "states": states, "others": ["data2"],
        "silent": [], "primary": "data1", "primaries": ["data1"], "standby": states[host]["standby"],
        "most_lag": "1000", "pgbouncer_status": 0,
    } | changes  # fmt: skip


@pytest.mark.parametrize("host", ["data1", "data2"])
@pytest.mark.parametrize("question", ["state", "promotion", "health"])
def test_servers_that_are_well_have_no_errors(question: str, host: str) -> None:
    assert postgres_errors(found(host), question) == []


def test_a_first_primary_is_made_where_all_servers_are_empty() -> None:
    states = {"data1": EMPTY, "data2": EMPTY}

    assert postgres_errors(found(states=states, primaries=[]), "state") == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"states": {"data1": PRIMARY | {"errors": ["its data are elsewhere"]}}}, "its data are elsewhere"),
        ({"version": "18"}, "there is a cluster of PostgreSQL 17, and version 18 is wanted"),
        ({"primaries": ["data1", "data2"]}, "two primaries take writes: data1, data2"),
        ({"states": {"data1": PRIMARY | {"configured": False}}}, "data of a cluster without its"),
        ({"primaries": ["data2"], "primary": "data2"}, "this was a primary, and data2 is the primary now"),
        ({"states": {"data1": EMPTY}, "primaries": []}, "no new primary is made while the other servers"),
        ({"states": {"data1": EMPTY, "data2": EMPTY}, "silent": ["data2"]}, "data2 must answer"),
    ],
)  # fmt: skip
def test_servers_that_do_not_fit_together_are_named(changes: dict[str, Any], words: str) -> None:
    [line] = postgres_errors(found(**changes), "state")

    assert words in line


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"others": []}, "the inventory knows no standby"),
        ({"states": {"data2": STANDBY | {"running": False}}}, "PostgreSQL does not run here"),
        ({"states": {"data2": STANDBY | {"streaming": False}}}, "it does not follow data1"),
        ({"states": {"data1": PRIMARY | {"position": 1101}}}, "it is 1001 bytes behind data1"),
        (
            {"primaries": [], "states": {"data3": STANDBY | {"position": 101}}},
            "other standbys have received more: data3",
        ),
    ],
)  # fmt: skip
def test_a_standby_that_would_lose_data_is_not_promoted(changes: dict[str, Any], words: str) -> None:
    [line] = postgres_errors(found("data2", **changes), "promotion")

    assert words in line


def test_the_standby_that_has_received_most_is_promoted_while_no_primary_answers() -> None:
    states = {"data3": STANDBY | {"position": 99}, "data4": {"unreachable": True}}

    assert postgres_errors(found("data2", primaries=[], states=states), "promotion") == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"silent": ["data2"]}, "servers that do not answer may still take writes: data2"),
        ({"states": {"data1": EMPTY}}, "there is no PostgreSQL yet"),
        ({"backups": []}, "there is no backup in the repository"),
        ({"moment": "0"}, "no backup ended before 2026-11-24 10:00:00+00; the first one ended at 1970-01-01"),
        ({"moment": str(int(time.time()) + 3600)}, "lies in the future"),
    ],
)
def test_what_cannot_be_restored_is_named(changes: dict[str, Any], words: str) -> None:
    asked: dict[str, Any] = {"backups": [10, 20], "moment": "30", "to": "2026-11-24 10:00:00+00"}

    [line] = postgres_errors(found(**asked | changes), "restore_state")

    assert words in line
    assert postgres_errors(found(**asked), "restore_state") == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"states": {"data2": STANDBY | {"running": False}}}, "PostgreSQL does not run"),
        ({"pgbouncer_status": 3}, "PgBouncer does not run"),
        ({"primaries": []}, "the cluster needs one primary and has none"),
        (
            {"states": {"data2": STANDBY | {"streaming": False}}},
            "it does not follow data1; playbooks/failover",
        ),
    ],
)
def test_a_server_that_is_not_at_work_is_named(changes: dict[str, Any], words: str) -> None:
    [line] = postgres_errors(found("data2", **changes), "health")

    assert words in line


@pytest.mark.parametrize(
    ("result", "errors"),
    [
        ({"rc": 0}, []),
        ({"rc": 1, "stderr": "no backup for two days"}, ["no backup for two days"]),
        ({"rc": 2, "stderr": "", "msg": "no such file"}, ["no such file"]),
    ],
)
def test_the_check_of_the_backups_speaks_for_itself(result: dict[str, Any], errors: list[str]) -> None:
    assert postgres_errors(result, "backup") == errors
