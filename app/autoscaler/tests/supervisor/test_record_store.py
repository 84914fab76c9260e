"""Records in Redis: the first supervisor writes them, for a week, whatever else the key holds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from celery import Celery
from celery_autoscaler.protocol.description import describe
from celery_autoscaler.protocol.peers import PeerSeen
from celery_autoscaler.protocol.recording import BLOCKS, MOST_BYTES, RECORDS, SECONDS, Record, dump
from celery_autoscaler.settings import Group, Settings
from celery_autoscaler.supervisor.context import Context
from celery_autoscaler.supervisor.group_state import GroupState, see_group
from celery_autoscaler.supervisor.launchers.process import ProcessLauncher
from celery_autoscaler.supervisor.observation import Observer
from celery_autoscaler.supervisor.policy.law import GroupPolicy
from celery_autoscaler.supervisor.record_store import (
    KEPT_SECONDS,
    MOST_BLOCKS,
    RecordStore,
    outdated,
    read,
    records_of,
)

GROUP = Group(name="default", queues=("celery",), target_wait=5.0)
KEY = "fleet:record:default"
BLOCK_SECONDS = RECORDS * SECONDS


@pytest.fixture
def context(redis_url: str) -> Iterator[Context]:
    """Return the state of a supervisor that has just started."""
    with Celery("proj", broker=redis_url, set_as_current=False) as app:
        described = describe(app, "proj")
        settings = Settings(groups={"default": GROUP}, hostname="here")
        context = Context(described, settings, ProcessLauncher(described, "here"))
        context.groups = {"default": GroupState(GROUP, GroupPolicy())}
        yield context


def tick(context: Context, store: RecordStore, seconds: int, peers: tuple[str, ...] = ("here",)) -> None:
    """Let a supervisor look once a second."""
    seen = Observer(context.broker, [GROUP]).look()
    begin = seen.time // BLOCK_SECONDS * BLOCK_SECONDS
    for second in range(seconds):
        now = replace(seen, time=begin + second, peers=[PeerSeen(host, 1.0, {}) for host in peers])
        state = context.groups["default"]
        state.seen = see_group(now.time, state, now)
        state.decision = state.law.decide(GROUP, state.seen)
        store.update(now)


def test_the_first_supervisor_writes_what_it_sees(context: Context) -> None:
    tick(context, RecordStore(context), BLOCK_SECONDS + 130)

    records, refused = records_of(read(context.broker, "default")[0].values())

    assert refused == 0
    assert [record.slot - records[0].slot for record in records] == list(range(len(records)))
    assert len(records) >= RECORDS + 5
    assert records[-1].figures.target_wait == 5000
    assert records[-1].figures.hosts == 1
    assert 0 < context.broker.client.ttl(KEY) <= KEPT_SECONDS


def test_another_supervisor_writes_nothing(context: Context) -> None:
    tick(context, RecordStore(context), BLOCK_SECONDS + 130, peers=("elsewhere", "here"))

    assert not context.broker.client.exists(KEY)


def test_a_key_of_another_type_is_set_aside(context: Context) -> None:
    context.broker.client.set(KEY, "text")
    assert read(context.broker, "default") == ({}, 1)

    tick(context, RecordStore(context), BLOCK_SECONDS + 130)

    assert len(read(context.broker, "default")[0]) >= 1
    assert context.broker.client.get("fleet:set_aside:record:default") == b"text"


def test_what_is_no_block_is_counted_and_forgotten(context: Context) -> None:
    context.broker.client.hset(
        KEY, mapping={"1": b"odd", b"\xff": b"x", "2": dump([Record(2)]), "3": "z" * 2**21}
    )

    blocks, large = read(context.broker, "default")
    records, refused = records_of(blocks.values())
    assert (large, refused, [record.slot for record in records]) == (1, 2, [2])

    tick(context, RecordStore(context), BLOCK_SECONDS + 130)
    assert context.broker.client.hmget(KEY, "1", b"\xff", "2", "3") == [None] * 4


def test_blocks_that_are_too_old_or_too_many_are_not_kept() -> None:
    now = 10 * BLOCKS * RECORDS
    week = [str(now - RECORDS * number).encode() for number in range(BLOCKS + 10)]
    many = [str(now - number).encode() for number in range(BLOCKS + 10)]

    odd = [b"odd", b"\xff", b"9" * 50, str(now + 1).encode()]
    assert set(outdated(odd, now)) == set(odd)
    assert set(outdated(week, now)) == set(week[BLOCKS:])
    assert len(many) - len(outdated(many, now)) == BLOCKS


def test_a_week_of_a_group_takes_two_megabytes_of_redis(context: Context) -> None:
    client = context.broker.client
    # As large as a block can be, and incompressible as that is.
    client.hset(KEY, mapping={str(170_000_000 + RECORDS * n): bytes(MOST_BYTES) for n in range(BLOCKS)})

    assert client.memory_usage(KEY, samples=0) < 2.2e6
    client.hset(KEY, mapping={str(n): b"" for n in range(MOST_BLOCKS + 1)})
    tick(context, RecordStore(context), BLOCK_SECONDS + 20)
    assert client.hlen(KEY) <= 2
