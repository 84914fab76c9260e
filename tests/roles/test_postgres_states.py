"""What a host learns of the servers of its cluster."""

from typing import Any

from support.made_up_postgres import HOSTS, OF_DATA1, ON_DATA2
from support.role_files import (
    Place,
    evaluate,
)

STATE: dict[str, Any] = {
    "versions": ["17"],
    "data": True,
    "configured": True,
    "running": True,
    "standby": False,
}
PRIMARY = {**STATE, "streaming": False, "position": 1000, "replayed": 1000, "last_commit": ""}
STANDBY = {**PRIMARY, "standby": True, "streaming": True}
BARE = {"versions": [], "data": False, "configured": False, "running": False, "standby": False}
STOPPED = {**STATE, "running": False}
SILENT = {"msg": "unreachable", "unreachable": True}


def states(data1: dict[str, Any], data2: dict[str, Any], data3: dict[str, Any]) -> dict[str, Any]:
    """The variables of data2 when the servers answered so."""
    return {**OF_DATA1, "__postgres_states": {"data1": data1, "data2": data2, "data3": data3}}


def test_what_the_servers_say_counts_and_not_the_inventory() -> None:
    cases = [
        (states(BARE, BARE, BARE), ["data1", True]),
        (states(PRIMARY, STANDBY, STANDBY), ["data1", True]),
        (states(STANDBY, PRIMARY, STANDBY), ["data2", False]),  # after a failover
        (states(SILENT, BARE, PRIMARY), ["data3", True]),  # a new host after a failover
    ]
    expression = "[__postgres_primary, __postgres_standby | bool]"
    assert evaluate("postgres", expression, [given for given, _wanted in cases], ON_DATA2) == [
        wanted for _given, wanted in cases
    ]


def test_servers_that_do_not_fit_together_are_named() -> None:
    cases = [
        (
            states(PRIMARY, {**STANDBY, "versions": ["15", "17"]}, STANDBY),
            "a cluster of PostgreSQL 15, and version 17 is wanted: keep it (postgres_version: 15), or",
        ),
        (states(PRIMARY, PRIMARY, STANDBY), "two primaries take writes: data1, data2; choose one with"),
        (states(PRIMARY, STOPPED, STANDBY), "this was a primary, and data1 is the primary now"),
        (states(PRIMARY, {**STOPPED, "configured": False}, STANDBY), "data of a cluster without its config"),
    ]
    right = [states(BARE, BARE, BARE), states(STANDBY, PRIMARY, STANDBY), states(SILENT, STANDBY, STANDBY)]
    given = [variables for variables, _message in cases]
    found = evaluate("postgres", "__postgres_state_errors", [*given, *right], ON_DATA2)
    for (_given, message), errors in zip(cases, found[: len(cases)], strict=True):
        assert len(errors) == 1
        assert message in errors[0]
    assert found[len(cases) :] == [[], [], []]


def test_how_far_a_standby_is_behind_is_known_while_its_primary_answers() -> None:
    behind = {**STANDBY, "replayed": 900}
    cases = [
        states(PRIMARY, behind, STANDBY),
        states(SILENT, behind, STANDBY),
        states(PRIMARY, SILENT, STANDBY),
    ]

    assert evaluate("postgres", "__postgres_known_lag | int", cases, ON_DATA2) == [100, 0, 0]


def test_an_empty_host_becomes_a_primary_only_beside_other_empty_hosts() -> None:
    cases = [states(BARE, BARE, BARE), states(BARE, SILENT, BARE), states(BARE, STOPPED, BARE)]
    cases = [{**variables, "postgres_replication_of": ""} for variables in cases]
    place = Place("data1", HOSTS)
    new, *refused = evaluate("postgres", "__postgres_state_errors", cases, place)
    assert new == []
    assert all("no new primary is made while the other servers" in errors[0] for errors in refused)
    # After a failover the host that the inventory calls the primary is made a standby.
    replaced = {**states(BARE, PRIMARY, STANDBY), "postgres_replication_of": ""}
    expression = "[__postgres_primary, __postgres_standby | bool, __postgres_state_errors]"
    assert evaluate("postgres", expression, [replaced], place) == [["data2", True, []]]


def test_a_standby_that_would_lose_more_than_it_must_is_not_promoted() -> None:
    behind = {**STANDBY, "replayed": 100, "position": 100}
    cut_off = {**STANDBY, "streaming": False}
    cases = [
        (
            {**states(PRIMARY, behind, STANDBY), "postgres_promote_max_lag": 899},
            "it is 900 bytes behind data1",
        ),
        (states(PRIMARY, cut_off, STANDBY), "it does not follow data1, which is the primary and answers"),
        (states(SILENT, behind, cut_off), "other standbys have received more: data3; promote that one"),
        (states(PRIMARY, STOPPED, STANDBY), "PostgreSQL does not run here"),
    ]
    right = [
        {**states(PRIMARY, behind, STANDBY), "postgres_promote_max_lag": 900},
        states(SILENT, cut_off, cut_off),
        states(PRIMARY, PRIMARY, STANDBY),
    ]
    given = [variables for variables, _message in cases]
    found = evaluate("postgres", "__postgres_promote_errors", [*given, *right], ON_DATA2)
    for (_given, message), errors in zip(cases, found[: len(cases)], strict=True):
        assert len(errors) == 1
        assert message in errors[0]
    assert found[len(cases) :] == [[], [], []]
