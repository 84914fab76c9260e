"""Everything that crosses a process is read as it was written; any bytes are a value or a named refusal.

A type that is added to the protocol has a test of its round trip, and a line in `LOADERS`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from celery_autoscaler.protocol.dead_letter import DeadLetter
from celery_autoscaler.protocol.decision import DecisionRecord
from celery_autoscaler.protocol.ended import Ended
from celery_autoscaler.protocol.failures import Failure, KindSeen
from celery_autoscaler.protocol.former import FORMER_NAMES
from celery_autoscaler.protocol.heartbeat import HORIZONS, Heartbeat
from celery_autoscaler.protocol.identity import WorkerId
from celery_autoscaler.protocol.lease import LONGEST_SECONDS, Lease
from celery_autoscaler.protocol.overrides import Origin, Override
from celery_autoscaler.protocol.peers import PeerSeen
from celery_autoscaler.protocol.reading import MOST_WORKERS, Refusal
from celery_autoscaler.protocol.status import VERSION, SupervisorStatus
from hypothesis import given
from hypothesis import strategies as st

NUMBERS = st.integers(0, 10**9)
HALVES = NUMBERS.map(lambda number: number + 0.5)
# What release 0.1 called otherwise is renamed.
TEXTS = st.text(max_size=8).filter(lambda text: text not in FORMER_NAMES)
NAMES = st.text(st.characters(categories=("L", "N")), min_size=1, max_size=8).filter(
    lambda name: name not in FORMER_NAMES
)


def values(hint: Any) -> st.SearchStrategy[Any]:
    """Return values of a type that a field may have."""
    parts, origin = get_args(hint), get_origin(hint)
    if type(None) in parts:
        return st.none() | values(next(part for part in parts if part is not type(None)))
    if origin is not None and issubclass(origin, Mapping):
        return st.dictionaries(NAMES, values(parts[1]), max_size=2)
    if origin is not None and issubclass(origin, Collection):
        return st.lists(values(parts[0]), max_size=2).map(tuple)
    if is_dataclass(hint):
        return instances(hint)
    return {int: NUMBERS, Any: NUMBERS, float: HALVES, str: TEXTS, bool: st.booleans()}[hint]


LIMITS = st.dictionaries(NAMES, st.none() | st.integers(0, MOST_WORKERS))


def field_names(kind: Any) -> list[str]:
    """Return the names of the fields of a dataclass."""
    return [each.name for each in fields(kind)]


def instances(kind: Any, **given_fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Return instances of a dataclass; of some fields with certain values."""
    hints = get_type_hints(kind)
    strategies = {name: values(hints[name]) for name in field_names(kind) if name not in given_fields}
    return st.builds(kind, **strategies | given_fields)


# --- Read as written -----------------------------------------------------------------------------------


def status_again(status: SupervisorStatus) -> Any:
    """Return a status after its way through Redis."""
    return SupervisorStatus.load(status.host, status.dump())


def decision_again(record: DecisionRecord) -> Any:
    """Return a decision after its way through a stream."""
    entry = {name.encode(): str(value).encode() for name, value in record.dump().items()}
    return DecisionRecord.load(b"1-0", entry)


@given(instances(SupervisorStatus, capacity=HALVES))
def test_a_status_is_read_as_it_was_written(status: SupervisorStatus) -> None:
    assert status_again(status) == (status, [])


@given(instances(DecisionRecord, at=HALVES, group=NAMES, seen=st.dictionaries(NAMES, NUMBERS), limit=NAMES))
def test_a_decision_is_read_as_it_was_written(record: DecisionRecord) -> None:
    assert decision_again(record) == record


def hash_of(flat: Sequence[str | int | float]) -> dict[bytes, bytes]:
    """Return the hash that names and values in turn make."""
    parts = [str(part).encode() for part in flat]
    return dict(zip(parts[::2], parts[1::2], strict=True))


@given(
    instances(
        Heartbeat,
        host=NAMES,
        group=NAMES,
        state=NAMES,
        concurrency=st.integers(1, 9),
        max_concurrency=st.integers(0, 9),
        pid=st.integers(0, 2**22),
        active=st.integers(0, 9),
        reserved=st.integers(0, 9),
        scheduled=st.integers(0, 9),
        held=st.none() | st.integers(0, 9),
        overdue=st.integers(0, 9),
        queues=st.none() | st.frozensets(NAMES),
        due=st.lists(st.integers(0, 9), max_size=len(HORIZONS)).map(tuple),
        tasks=st.just({}),
        run_times=st.dictionaries(NAMES, st.builds(Ended, NUMBERS, HALVES, HALVES)),
        running=st.lists(st.tuples(NAMES, st.none() | HALVES)).map(tuple),
    )
)
def test_a_heartbeat_is_read_as_it_was_written(heartbeat: Heartbeat) -> None:
    assert Heartbeat.load(hash_of(heartbeat.dump())) == (heartbeat, [])


@given(st.builds(WorkerId, st.builds(lambda group, host: f"{group}-1@{host}", NAMES, NAMES), NAMES))
def test_an_id_of_a_worker_is_read_as_it_was_written(worker_id: WorkerId) -> None:
    assert WorkerId.load(worker_id.dump().encode()) == worker_id


@given(st.builds(Lease, NAMES, HALVES))
def test_a_lease_is_read_as_it_was_written(lease: Lease) -> None:
    [(name, score)] = lease.dump().items()

    assert Lease.load("worker", name.encode(), score, lease.end) == lease


# Redis' time when an override is read: one that ends ends later.
NOW = 1e9
origins = st.builds(
    Origin, NAMES | st.just(""), NAMES | st.just(""), HALVES, st.just(0.0) | st.floats(NOW + 1, 2 * NOW)
)


@given(
    instances(
        Override,
        min_workers=st.none() | st.integers(0, 5),
        max_workers=st.none() | st.integers(5, MOST_WORKERS),
        version=st.integers(1, 9),
        pause=origins,
        scale=origins,
    )
)
def test_an_override_is_read_as_it_was_written(override: Override) -> None:
    assert Override.load("web", override.dump().encode(), NOW) == override


@given(instances(DeadLetter, queue=NAMES))
def test_a_dead_letter_is_read_as_it_was_written(letter: DeadLetter) -> None:
    assert DeadLetter.load(letter.dump()) == letter


@given(instances(Failure))
def test_a_failure_is_read_as_it_was_written(failure: Failure) -> None:
    assert Failure.load(failure.dump()) == failure


@given(instances(KindSeen))
def test_a_kind_of_failure_is_read_as_it_was_written(kind: KindSeen) -> None:
    assert KindSeen.load(kind.dump()) == kind


@given(instances(PeerSeen, host=NAMES, weight=st.floats(1e-3, 1e6), limits=LIMITS))
def test_what_a_supervisor_offers_is_read_as_it_was_written(peer: PeerSeen) -> None:
    offer = [str(value).encode() for value in peer.dump().values()]

    assert PeerSeen.load(peer.host, offer) == peer


# --- Whatever bytes come -------------------------------------------------------------------------------

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.just(10**400) | TEXTS | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=10,
)
BYTES = (
    st.binary(max_size=64)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.integers(1, 100_000).map(lambda depth: b"[" * depth)
    | st.integers(1, 100_000).map(lambda depth: b'{"a":' * depth)
    | st.sampled_from([b"", b"1e999", b"9" * 5000, b"NaN", b"\n", b"a@b:c", b"@:", b"\n99999\nx"])
)


def objects(*names: str) -> st.SearchStrategy[bytes]:
    """Return objects of JSON that have fields of certain names, with any values."""
    return st.dictionaries(st.sampled_from(names), JSON).map(lambda value: json.dumps(value).encode())


def entries(*names: str) -> st.SearchStrategy[dict[bytes, bytes]]:
    """Return hashes that have fields of certain names, with any bytes."""
    return st.dictionaries(st.sampled_from(names).map(str.encode) | st.binary(max_size=4), BYTES)


def lease_of(value: Any) -> Any:
    """Return the lease of a member of a sorted set, with its score."""
    member, score = value if isinstance(value, tuple) else (value, 1.7e12)
    return Lease.load("worker", member, score, 1.7e9)


Loader = tuple[Callable[[Any], Any], st.SearchStrategy[Any], Any]
# What loads each type, what it is given beside any bytes, and its types.
LOADERS: dict[str, Loader] = {
    "status": (
        lambda value: SupervisorStatus.load("here", value),
        objects(*field_names(SupervisorStatus)),
        tuple,
    ),
    "decision": (
        lambda value: DecisionRecord.load(b"1-0", value if isinstance(value, dict) else {b"at": value}),
        entries(*field_names(DecisionRecord)),
        DecisionRecord,
    ),
    "heartbeat": (
        lambda value: Heartbeat.load(value if isinstance(value, dict) else {b"state": value}),
        entries(*field_names(Heartbeat)),
        tuple,
    ),
    "override": (
        lambda value: Override.load("web", value),
        objects("paused", "min_workers", "max_workers", "by", "version", "minimum", "pause", "scale"),
        Override,
    ),
    "dead letter": (DeadLetter.load, objects(*field_names(DeadLetter)), DeadLetter),
    "failure": (Failure.load, objects(*field_names(Failure)), Failure),
    "kind of failure": (KindSeen.load, objects(*field_names(KindSeen)), KindSeen),
    "offer of a supervisor": (
        lambda value: PeerSeen.load("here", value if isinstance(value, list) else [value, value]),
        st.lists(BYTES, min_size=2, max_size=2),
        PeerSeen,
    ),
    "id of a worker": (WorkerId.load, BYTES, WorkerId),
    "lease": (lease_of, st.tuples(BYTES, st.floats()), Lease),
}


@pytest.mark.parametrize("name", LOADERS)
@given(st.data())
def test_whatever_bytes_come_there_is_a_value_or_a_named_refusal(name: str, data: st.DataObject) -> None:
    load, mostly, kind = LOADERS[name]

    found = load(data.draw(BYTES | mostly))

    assert isinstance(found, kind | Refusal)
    refusals = found[1] if isinstance(found, tuple) else [found] if isinstance(found, Refusal) else []
    assert all(refusal.kind and refusal.why and "\n" not in refusal.why for refusal in refusals)
    if isinstance(found, tuple) and found[0] is None:
        assert refusals


# --- Releases of a rolling deploy ----------------------------------------------------------------------


def test_what_a_later_release_adds_is_ignored() -> None:
    said = {"version": VERSION + 5, "later": 1, "groups": {"web": {"later": [], "want": 3}}, "tick": {"x": 1}}

    status, refused = SupervisorStatus.load("here", json.dumps(said))

    assert refused == []
    assert status is not None
    assert (status.version, status.groups["web"].want) == (VERSION + 5, 3)


def test_a_lease_beyond_a_day_is_refused() -> None:
    found = Lease.load("claim", b"web-1@here", (1.7e9 + LONGEST_SECONDS + 1) * 1000, 1.7e9)

    assert found == Refusal("claim", "'web-1@here'", "no lease ends at 1.70009e+12")


def test_what_says_no_version_is_of_the_first_release() -> None:
    status, _ = SupervisorStatus.load("here", "{}")
    assert Heartbeat.load({})[0].version == 1
    record = DecisionRecord.load(b"1-0", {b"at": b"1", b"group": b"web"})

    assert status is not None
    assert isinstance(record, DecisionRecord)
    assert (status.version, record.version) == (1, 1)
