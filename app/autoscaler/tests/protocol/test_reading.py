"""Readers answer a value or one error, whatever bytes come."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from celery_autoscaler.protocol.heartbeat import UNKNOWN
from celery_autoscaler.protocol.identity import WorkerId
from celery_autoscaler.protocol.overrides import Override
from celery_autoscaler.protocol.peers import PeerSeen
from celery_autoscaler.protocol.reading import (
    MOST_WORKERS,
    Refusal,
    UnreadableError,
    read_json,
    read_number,
    read_whole,
    shown,
)
from celery_autoscaler.protocol.tallies import BUCKETS, Tallies
from celery_autoscaler.protocol.worker_seen import WorkerSeen
from celery_autoscaler.supervisor.eta_sample import HEAD_BYTES, TAIL_BYTES, EtaSample, read_sample
from hypothesis import given
from hypothesis import strategies as st

WORKER = "default-1@here:1"
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(10**300, 10**400)
    | st.floats()
    | st.sampled_from(["", "x", "\ud800", "\x00", "é", "1"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["min_workers", "paused", "web", "\ud800"]), inner, max_size=4)
    ),
    max_leaves=12,
)
DEEP = st.integers(1, 100_000).map(lambda depth: b"[" * depth)
VALUES = st.binary(max_size=64) | JSON.map(lambda value: json.dumps(value).encode()) | DEEP
FIELDS = st.sampled_from(
    ["pid", "state", "active", "reserved", "held", "taken", "tasks", "running", "queues", "next_eta", "host"]
).map(str.encode)


@given(st.dictionaries(FIELDS, VALUES))
def test_a_heartbeat_is_read_whatever_it_holds(heartbeat: dict[bytes, bytes]) -> None:
    seen, refused = WorkerSeen.see(WORKER, True, heartbeat)

    assert (seen.id, seen.alive) == (WORKER, True)
    assert min(seen.pid, seen.active, seen.reserved, seen.scheduled) >= 0
    assert math.isfinite(seen.next_eta or 0.0)
    assert all(name in heartbeat for name in (refusal.name.split()[-1].encode() for refusal in refused))


def test_a_field_that_cannot_be_read_spoils_itself_alone() -> None:
    heartbeat = {b"state": b"running", b"active": b"2", b"pid": b"x", b"taken": b"no json", b"held": b"-1"}

    seen, refused = WorkerSeen.see(WORKER, True, heartbeat)

    assert seen == WorkerSeen(id=WORKER, version=1, state="running", active=2)
    assert refused == [
        Refusal("worker", f"{WORKER} pid", "'x' is no whole number"),
        Refusal("worker", f"{WORKER} held", f"-1 is not within 0 and {10_000_000}"),
        Refusal("worker", f"{WORKER} taken", "'no json' is no JSON"),
    ]


def test_a_worker_whose_state_cannot_be_read_is_neither_ready_nor_starting() -> None:
    seen, _ = WorkerSeen.see(WORKER, True, {b"state": b"\xff", b"group": b"\xff"})

    assert (seen.state, seen.group) == (UNKNOWN, "default")


@pytest.mark.parametrize(
    "member", [b"", b":", b"a:1", b"@h:1", b"a@:1", b"a@h:", b"\xff@h:1", b"a@h:" + b"1" * 600]
)
def test_what_is_no_id_of_a_worker_is_refused(member: bytes) -> None:
    assert isinstance(WorkerId.load(member), Refusal)


@given(VALUES, VALUES)
def test_an_offer_is_read_or_refused(weight: bytes, limits: bytes) -> None:
    found = PeerSeen.load("there", [weight, limits])

    assert isinstance(found, Refusal) or (isinstance(found, PeerSeen) and found.weight > 0)


@given(VALUES)
def test_an_override_is_read_or_refused(value: bytes) -> None:
    found = Override.load("web", value)

    if isinstance(found, Override):
        assert 0 <= (found.min_workers or 0) <= MOST_WORKERS
        assert 0 <= (found.max_workers or 0) <= MOST_WORKERS


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ('{"min_workers": 10000000000}', f"min_workers: 10000000000 is not within 0 and {MOST_WORKERS}"),
        ('{"max_workers": -1}', f"max_workers: -1 is not within 0 and {MOST_WORKERS}"),
        ('{"min_workers": "3"}', "min_workers: '3' is no whole number"),
        ('{"min_workers": true}', "min_workers: True is no whole number"),
        ('{"min_workers": 3.5}', "min_workers: 3.5 is no whole number"),
        ('{"min_workers": 5, "max_workers": 4}', "min_workers 5 is more than max_workers 4"),
        ('{"pause": []}', "pause a value of type list is no object of JSON"),
        ('{"scale": {"until": -1}}', "scale: -1 is not within 0 and 1e+15"),
        ('{"paused": "no"}', "paused 'no' is neither true nor false"),
        ('{"paused": true, "max_workers": NaN}', "NaN is no number of JSON"),
        ("[1]", "'[1]' is no object of JSON"),
        ("[" * 100_000, "it is nested too deep"),
    ],
)
def test_why_an_override_is_ignored(value: str, why: str) -> None:
    assert Override.load("web", value) == Refusal("override", "web", why)


@given(VALUES)
def test_tallies_are_read_or_refused(value: bytes) -> None:
    try:
        assert isinstance(Tallies.load(value), Tallies)
    except UnreadableError:
        return


def test_tallies_of_other_buckets_are_refused() -> None:
    few, zeros = [0, 1], [0] * (len(BUCKETS) + 1)

    with pytest.raises(UnreadableError, match=r"^a histogram has not \d+ buckets$"):
        Tallies.load(json.dumps([["t", "q", {}, zeros, 0.0, few, 0.0]]))


@pytest.mark.parametrize(
    "value", [10**400, "1" * 400, float("nan"), float("inf"), True, None, [], b"\xff", "x"]
)
def test_numbers_that_are_none(value: Any) -> None:
    with pytest.raises(UnreadableError) as error:
        read_whole(value, 0, 100)
    assert len(str(error.value)) < 200
    with pytest.raises(UnreadableError):
        read_number(value, 0.0, 100.0)


@given(JSON)
def test_values_are_shown_in_one_short_line(value: Any) -> None:
    for each in (value, json.dumps(value), json.dumps(value).encode()):
        assert "\n" not in shown(each)
        assert shown(each).isascii() or "…" in shown(each)
        assert len(shown(each)) < 200


def test_a_document_that_is_too_long_is_not_read() -> None:
    with pytest.raises(UnreadableError, match="101 bytes are too long"):
        read_json("1" * 101, 100)


# --- Messages ------------------------------------------------------------------------------------------

NOW = 1_700_000_000.0
LATER = '"2100-01-01T00:00:00+00:00"'


def large(headers: str, *, first: bool = False) -> list[bytes]:
    """Return the two ends of a large message, whose headers stand before or after its body."""
    body, parts = '"body": "' + "eA==" * 500_000 + '"', f'"headers": {headers}, "properties": {{}}'
    message = ("{" + (f"{parts}, {body}" if first else f"{body}, {parts}") + "}").encode()
    return [message[:HEAD_BYTES], message[-TAIL_BYTES:]]


@pytest.mark.parametrize("first", [False, True])
def test_the_eta_of_a_large_message_is_in_its_ends(first: bool) -> None:
    ends = large(f'{{"id": "1", "eta": {LATER}, "x": {{"eta": null}}}}', first=first)

    assert read_sample([ends], NOW) == EtaSample(1, 1, 4102444800.0)


def test_what_is_quoted_in_a_large_message_is_no_header() -> None:
    quoted = json.dumps(f'"headers": {{"eta": {LATER}}}')

    assert read_sample([large(f'{{"eta": null, "argsrepr": {quoted}}}')], NOW).future == 0


def test_headers_that_are_cut_off_are_for_now() -> None:
    assert read_sample([large(f'{{"x": "{"y" * 2 * TAIL_BYTES}", "eta": {LATER}}}')], NOW) == EtaSample(1)


@pytest.mark.parametrize(
    "message",
    [b"", b"{}", b"[]", b"1", b'{"headers": []}', b'{"headers": {"eta": "soon"}}', b"\xff",
     b'{"headers": {"eta": 5}}', b"[" * 10_000, [b"[" * HEAD_BYTES, b"]" * TAIL_BYTES],
     b'{"headers": {"eta": "0001-01-01T00:00:00+23:00"}}'],
)  # fmt: skip
def test_messages_that_are_no_tasks_are_for_now(message: Any) -> None:
    found = read_sample([message, b'{"headers": {"eta": null}}'], NOW)

    assert (found.messages, found.future, found.next_eta) == (2, 0, None)
    assert found.unreadable == 1 or b"0001" in message


@given(VALUES)
def test_any_message_is_read(message: bytes) -> None:
    assert read_sample([message, [message, message]], NOW).messages == 2
