"""Whatever a record, a message, a dead letter or a worker's id holds, no message is lost by its rescue."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from celery_autoscaler.operations import dead_letters
from celery_autoscaler.protocol import recovery
from celery_autoscaler.protocol.broker import Broker
from celery_autoscaler.protocol.dead_letter import DeadLetter, UnreadableDeadLetter
from celery_autoscaler.protocol.identity import worker_name
from celery_autoscaler.protocol.keys import Keys, as_bytes, as_name
from celery_autoscaler.protocol.marks import COUNT, MOST, marked, parse_record, redeliveries, unmarked
from celery_autoscaler.protocol.recovery import (
    MAX_REDELIVERIES,
    give_back,
    recover,
    recover_each,
    without_step,
)
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis
from support.processes.counted_tasks import SEPARATOR, Fleet
from support.processes.services import wait_for

KEYS = Keys()
WORKER = "dead@here:1"
ODD: list[Any] = [
    "x", "3", True, None, -1000, float("nan"), float("inf"), 10**400, 1e308, [], {}, 0.5, MOST + 1,
]  # fmt: skip

texts = st.text(st.characters())
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
infos = st.dictionaries(st.sampled_from([COUNT, "redelivered", "exchange"]) | texts, values, max_size=4)
messages = st.fixed_dictionaries(
    {},
    optional={
        "body": values,
        "headers": values,
        "properties": values | st.fixed_dictionaries({}, optional={"delivery_info": values | infos}),
    },
)
raws = st.binary() | values.map(json.dumps).map(str.encode) | messages.map(json.dumps).map(str.encode)


@pytest.fixture
def client(redis_url: str) -> Iterator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def broker(client: Redis) -> Broker:
    return Broker(client, KEYS, SEPARATOR, [0, 3, 6, 9])


def message(**info: Any) -> bytes:
    return json.dumps(
        {"body": "", "headers": {"id": "1", "task": "t"}, "properties": {"delivery_info": info}}
    ).encode()


# --- What parses ---------------------------------------------------------------------------------------


@given(raws)
def test_a_mark_is_total_and_counts_up_whatever_a_message_says(raw: bytes) -> None:
    again, count = marked(raw, counted=True)

    if count is None:
        assert again == raw
    else:
        assert 1 <= count <= MOST + 1
        assert marked(again, counted=True)[1] == (count + 1 if count <= MOST else 1)
        assert json.loads(again)["properties"]["delivery_info"]["redelivered"] is True
        assert COUNT not in json.loads(unmarked(again))["properties"]["delivery_info"]


@given(raws)
def test_a_message_that_was_not_begun_is_not_counted(raw: bytes) -> None:
    again, _ = marked(raw, counted=False)

    def count(text: bytes) -> Any:
        try:
            return json.loads(text)["properties"]["delivery_info"][COUNT]
        except (ValueError, LookupError, TypeError):
            return None

    assert repr(count(again)) == repr(count(raw))


@pytest.mark.parametrize("count", ODD)
def test_a_count_that_is_none_of_ours_is_none(count: Any) -> None:
    assert redeliveries({COUNT: count}) == 0


@given(st.binary(), st.binary())
def test_a_record_names_its_list_and_holds_its_message(source: bytes, raw: bytes) -> None:
    plain = source.replace(b"\n", b"") or b"one"
    assert parse_record(plain + b"\n" + raw) == (as_name(plain), raw)
    with_feed = source + b"\n" + source
    record = b"\n" + str(len(with_feed)).encode() + b"\n" + with_feed + b"\n" + raw
    assert parse_record(record) == (as_name(with_feed), raw)


@given(st.binary())
def test_every_record_has_a_message(record: bytes) -> None:
    source, raw = parse_record(record)

    assert record.endswith(raw)
    assert as_bytes(source) in record


@given(st.binary())
def test_a_name_stands_for_its_bytes(name: bytes) -> None:
    assert as_bytes(as_name(name)) == name
    as_bytes(KEYS.unacked(as_name(name)))
    worker_name(as_name(name))


@given(st.text(st.characters(exclude_categories=["Cs"])), st.binary(), st.integers(0, MOST))
def test_a_dead_letter_is_read_as_it_was_written(queue: str, raw: bytes, count: int) -> None:
    letter = DeadLetter(queue, "2026-11-25T10:00:00+00:00", "died", "w@here", count, as_name(raw))

    assert DeadLetter.load(letter.dump()) == letter


@given(raws | st.dictionaries(st.sampled_from(["queue", "message", "when", "more"]), values).map(
    lambda found: json.dumps(found).encode()
))  # fmt: skip
def test_whatever_is_among_the_dead_letters_is_read(text: bytes) -> None:
    letter = DeadLetter.load(text)

    assert isinstance(letter.task, str)
    assert isinstance(dead_letters.arguments(letter), str)
    if isinstance(letter, UnreadableDeadLetter):
        assert as_bytes(letter.message) == text


@given(texts, texts, st.integers(0, 9))
def test_a_list_belongs_to_its_queue_whatever_its_separator(queue: str, separator: str, step: int) -> None:
    if separator and not separator[0].isdecimal():
        assert without_step(f"{queue}{separator}{step}", separator) == queue
    assert queue.startswith(without_step(queue, separator))


# --- Rescue --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", ODD)
def test_no_count_of_a_producer_keeps_a_message_from_the_dead_letters(client: Redis, count: Any) -> None:
    raw: Any = message(**{COUNT: count})
    for death in range(MAX_REDELIVERIES + 1):
        client.hset(KEYS.unacked(WORKER), "000000000001.000", b"one\n" + raw)
        assert recover(Broker(client, KEYS, SEPARATOR), WORKER) == 1
        raw = client.rpop("one")
        assert (raw is None) == (death == MAX_REDELIVERIES)

    assert client.llen("dead_letter:one") == 1


RECORDS: dict[bytes, bytes] = {
    b"000000000001.000": b"one\n" + message(),
    b"no token": b"one\n" + message(**{COUNT: "x"}),
    b"\xff\xfe": b"one\n" + message(**{COUNT: float("nan")}),
    b"000000000001.003": b"one\n\xff\xfe",
    b"000000000001.004": b"one\nnot JSON",
    b"000000000001.005": message(),
    b"000000000001.006": b"",
    b"000000000001.007": b"\n" + message(),
    b"000000000001.008": b"\xff\xfe\n" + message(),
    b"000000000001.009": b"taken\n" + message(),
    b"000000000001.010": b"one\n" + b"[" * 100_000,
    b"000000000001.011": b"one\n" + json.dumps({"properties": {}}).encode(),
}


@pytest.mark.parametrize("worker", [WORKER.encode(), b"\xff\xfe@here:1", b"without a colon", b""])
def test_every_record_of_a_dead_worker_goes_somewhere(client: Redis, worker: bytes) -> None:
    client.set("taken", "no list")
    unacked = as_bytes(KEYS.unacked("")) + worker
    client.hset(unacked, mapping=RECORDS)  # type: ignore[arg-type]
    client.zadd(KEYS.workers, {worker: 0})

    recover_each(Broker(client, KEYS, SEPARATOR), [as_name(worker)])

    assert client.exists(unacked) == 0
    assert client.zcard(KEYS.workers) == 0
    lists = {name: client.llen(name) for name in client.keys("*") if client.type(name) == b"list"}
    assert sum(lists.values()) == len(RECORDS)
    assert lists[b"one"] == 4
    assert lists[b"dead_letter:unknown"] == 3
    assert lists[b"\xff\xfe"] == 1
    assert lists[b"dead_letter:taken"] == 1


def test_a_dead_worker_that_cannot_be_rescued_keeps_no_other_from_it(
    client: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    client.set(KEYS.unacked("stuck@here:1"), "no record")
    client.hset(KEYS.unacked(WORKER), "000000000001.000", b"one\n" + message())
    recovery._said.clear()

    for _ in range(3):
        recover_each(Broker(client, KEYS, SEPARATOR), ["stuck@here:1", WORKER])

    assert client.llen("one") == 1
    assert caplog.text.count("stuck@here:1 cannot be given back") == 1


def test_messages_without_a_list_and_without_room_stay_recorded(client: Redis) -> None:
    client.hset(KEYS.unacked(WORKER), "000000000001.000", b"one\n" + message())
    client.zadd(KEYS.workers, {WORKER: 0})
    for name in ("one", "dead_letter:one", "dead_letter:unknown"):
        client.set(name, "no list")

    assert recover(Broker(client, KEYS, SEPARATOR), WORKER) == 0

    # Who holds something is forgotten by nobody.
    assert client.hlen(KEYS.unacked(WORKER)) == 1
    assert client.zcard(KEYS.workers) == 1


def test_a_prefix_and_any_separator_lead_to_the_same_dead_letters(client: Redis) -> None:
    keys = Keys("app:")
    for separator in ("", ":", "\x06\x16", "::step::"):
        client.hset(keys.unacked(WORKER), "000000000001.000", f"app:one{separator}3\n".encode() + message())
        broker = Broker(client, keys, separator)
        give_back(broker, WORKER, ["000000000001.000"], died="x", max_redeliveries=-1)

    assert client.llen("app:dead_letter:one") == 3
    assert client.llen("app:dead_letter:one3") == 1


# --- Dead letters --------------------------------------------------------------------------------------


def test_unreadable_dead_letters_can_be_listed_and_purged(client: Redis, broker: Broker) -> None:
    good = DeadLetter("one", "when", "died", "w@here", 3, message(**{COUNT: 3}).decode())
    other_release = {**json.loads(good.dump()), "added": 1}
    other_type = DeadLetter("taken", "when", "died", "w@here", 3, "text")
    client.set("taken", "no list")
    unreadable = [
        b"not JSON",
        b"\xff",
        b"[]",
        b'{"queue": 1, "message": "x"}',
        b'{"queue": "\\ud800", "message": ""}',
    ]
    client.rpush("dead_letter:one", *unreadable, good.dump(), json.dumps(other_release), other_type.dump())

    found = [letter for _, letter in dead_letters.dead_letters(broker, "one")]
    assert sum(isinstance(letter, UnreadableDeadLetter) for letter in found) == len(unreadable)
    assert dead_letters.replay(broker, "one") == 2

    raw: Any = client.lindex("one", 0)
    assert COUNT not in json.loads(raw)["properties"]["delivery_info"]
    assert client.llen("dead_letter:one") == len(unreadable) + 1
    assert dead_letters.purge(broker, "one") == len(unreadable) + 1


# --- A living worker -----------------------------------------------------------------------------------


def test_what_is_recorded_and_unknown_to_a_living_worker_goes_back(fleet: Fleet) -> None:
    worker = fleet.start(concurrency=1)
    assert fleet.tasks.settle(fleet.tasks.send(1)).exactly_once
    (task_id,) = fleet.tasks.send(1, countdown=0)
    fleet.tasks.wait_until_ended([task_id])
    keys: Any = fleet.tasks.redis.keys("fleet:worker:*")
    name = keys[0].removeprefix("fleet:worker:")
    running = fleet.tasks.send(1, 4.0)
    fleet.tasks.wait_until_started(running)
    (lost,) = fleet.tasks.send(1)
    raw: Any = fleet.tasks.redis.rpop("celery")
    fleet.tasks.redis.hset(f"fleet:unacked:{name}", "000000099999.000", f"celery\n{raw}")

    outcome = fleet.tasks.settle([*running, lost])

    assert outcome.exactly_once, outcome
    wait_for(lambda: fleet.tasks.left() == {}, "something is left")
    assert worker.process.poll() is None
