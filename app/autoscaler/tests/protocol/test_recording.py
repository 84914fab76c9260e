"""Blocks of records: what is written is read, whatever else comes is refused, and none is too large."""

from __future__ import annotations

import random
import zlib
from dataclasses import replace

import pytest
from celery_autoscaler.protocol.ended import Ended
from celery_autoscaler.protocol.reading import UnreadableError
from celery_autoscaler.protocol.recording import (
    BLOCKS,
    KINDS,
    MEASURED,
    MOST_BYTES,
    OTHERS,
    RECORDS,
    SECONDS,
    VERSION,
    Figures,
    Record,
    dump,
    load,
    rounded,
)
from hypothesis import given
from hypothesis import strategies as st
from support.simulated_load import repeatable

SMALL = st.integers(0, 300)
ENDED = st.builds(
    lambda tasks, mean, deviation: Ended(tasks, tasks * mean, tasks * (mean**2 + deviation**2)),
    st.integers(1, 50),
    st.floats(0, 600),
    st.floats(0, 60),
)
RECORD = st.builds(
    Record,
    slot=st.just(0),
    figures=st.tuples(*[SMALL for _ in Figures._fields]).map(Figures._make),
    arrivals=st.tuples(*[SMALL] * SECONDS),
    waiting=st.tuples(*[SMALL] * SECONDS),
    ended=st.dictionaries(st.sampled_from(["a", "naïve.task", "tasks.report"]), ENDED),
)


@given(st.lists(RECORD, min_size=1, max_size=4), st.integers(0, 2**40))
def test_what_is_written_is_read(records: list[Record], first: int) -> None:
    records = [replace(record, slot=first + place) for place, record in enumerate(records)]

    found = load(dump(records))

    assert [(r.slot, r.figures, r.arrivals, r.waiting) for r in found] == [
        (r.slot, r.figures, r.arrivals, r.waiting) for r in records
    ]
    for before, after in zip(records, found, strict=True):
        assert {name: ended.tasks for name, ended in after.ended.items()} == {
            name: ended.tasks for name, ended in before.ended.items()
        }
        for name, ended in after.ended.items():
            assert ended.seconds == pytest.approx(before.ended[name].seconds, abs=1e-3)
            deviation = before.ended[name].variance ** 0.5
            assert ended.variance**0.5 == pytest.approx(deviation, abs=0.02, rel=1e-3)


@given(
    st.binary(max_size=200) | st.binary(max_size=200).map(lambda data: bytes([VERSION]) + zlib.compress(data))
)
def test_whatever_bytes_come_are_records_or_refused(data: bytes) -> None:
    try:
        found = load(data)
    except UnreadableError:
        return
    assert 1 <= len(found) <= RECORDS


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_damaged_block_is_records_or_refused(place: int, byte: int) -> None:
    block = bytearray(dump([Record(slot) for slot in range(RECORDS)]))
    block[place % len(block)] = byte
    test_whatever_bytes_come_are_records_or_refused.hypothesis.inner_test(bytes(block))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("block", "why"),
    [
        (b"", "no block"),
        ("text", "no block"),
        (None, "no block"),
        (b"\x02" + zlib.compress(b"x"), "version 2"),
        (b"\x01xyz", "not compressed"),
        (b"\x01" + zlib.compress(bytes(300_000)), "another length"),
        (dump([Record(1)])[:-3], "another length"),
        (dump([Record(1)]) + b"x", "another length"),
        (b"\x01" + zlib.compress(b"\x01\x00"), "0 records"),
        (b"\x01" + zlib.compress(b"\x01\x01\x80"), "ends within"),
        (b"\x01" + zlib.compress(b"\xff" * 12), "too long"),
    ],
)
def test_what_is_no_block_is_refused_in_one_line(block: object, why: str) -> None:
    with pytest.raises(UnreadableError, match=why) as refused:
        load(block)

    assert "\n" not in str(refused.value)


def busy_block(chance: random.Random, kinds: int, most: int) -> list[Record]:
    """Return ten minutes in which all that can change does."""
    return [
        Record(
            slot,
            Figures()._replace(**{name: chance.randrange(1, 100_000) for name in MEASURED}),
            tuple(chance.randrange(most) for _ in range(SECONDS)),
            tuple(chance.randrange(most) for _ in range(SECONDS)),
            {
                f"tasks.number_{kind}": Ended(count := chance.randrange(1, 50), count * 1.5, count * 3.1)
                for kind in range(kinds)
            },
        )
        for slot in range(RECORDS)
    ]


@pytest.mark.parametrize("kinds", [0, 1, 30])
@pytest.mark.parametrize("most", [3, 300, 100_000])
def test_no_block_is_larger_than_its_part_of_two_megabytes(kinds: int, most: int) -> None:
    records = busy_block(repeatable(1), kinds, most)

    block = dump(records)

    assert len(block) <= MOST_BYTES
    assert BLOCKS * MOST_BYTES < 2_000_000
    found = load(block)
    before, after = (sum(sum(record.arrivals) for record in some) for some in (records, found))
    assert after == pytest.approx(before, rel=0.01)
    assert len(found) == RECORDS


def test_a_block_that_fits_nowhere_becomes_one_record() -> None:
    chance = repeatable(2)
    records = [
        Record(slot, Figures(*(chance.randrange(2**39) for _ in Figures._fields))) for slot in range(RECORDS)
    ]

    assert load(dump(records)) == [records[0]]


def test_rare_kinds_become_others() -> None:
    ended = {f"kind-{number}": Ended(number + 1, 1.0, 1.0) for number in range(KINDS[0] + 2)}

    [found] = load(dump([Record(1, ended=ended)]))

    assert len(found.ended) == KINDS[0] + 1
    assert found.ended[OTHERS].tasks == 1 + 2


@given(st.lists(st.integers(0, 1000), max_size=50), st.sampled_from([1, 2, 8, 64]))
def test_rounded_counts_keep_their_sum(counts: list[int], step: int) -> None:
    found = rounded(counts, step)

    assert abs(sum(found) - sum(counts)) <= step / 2
    assert all(count >= 0 and count % step == 0 for count in found)
