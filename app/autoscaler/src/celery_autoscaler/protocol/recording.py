"""The record of a worker group: what its law saw and decided, and what arrived and how long it took.

A record covers ten seconds, a block up to ten minutes of them. Blocks are what Redis and files hold: columns
of differences, compressed. Pure: no I/O.
"""

import math
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any, NamedTuple

from celery_autoscaler.protocol.ended import Ended
from celery_autoscaler.protocol.reading import UnreadableError

VERSION = 1
# Seconds of a record, records of a block, and blocks that are kept: a week.
SECONDS, RECORDS, BLOCKS = 10, 60, 1008
# Bytes of a block: one that needs more is written less exactly. Bytes that it may be unpacked to.
MOST_BYTES, MOST_UNPACKED = 1900, 200_000
# Kinds of tasks that a block tells apart, fewer where it would be too large; bytes of a name.
KINDS, MOST_NAME = (8, 4, 2, 1, 0), 100
OTHERS = "(others)"
# What counts and measured figures are multiples of, in turn, until a block is small enough.
STEPS = tuple(4**power for power in range(9))
MEASURED = frozenset({"startup", "service_time", "worker_time", "busy_time", "memory", "age", "future"})
# No number is larger; no figure, and no number of tasks of a record.
MOST, MOST_FIGURE, MOST_TASKS = 2**53, 2**40, 10**7
# Milliseconds of run time, in all, that a number can hold: a million years.
MOST_SECONDS = 1e13


class Figures(NamedTuple):
    """What a record says in one number each; 0 for what is not known. Times are in milliseconds."""

    target_wait: int = 0
    min_workers: int = 0
    max_workers: int = 0
    concurrency: int = 0
    stabilisation: int = 0
    queue_threshold: int = 0
    tick: int = 0
    startup: int = 0
    service_time: int = 0
    starts_at_once: int = 0
    useful_slots: int = 0
    tried_slots: int = 0
    room: int = 0
    """One more than the workers that the hosts can run, if one of them is short of something."""
    hosts: int = 0
    want: int = 0
    paused: int = 0
    ready: int = 0
    starting: int = 0
    draining: int = 0
    started: int = 0
    """Workers that began to start."""
    worker_time: int = 0
    """Of all workers together."""
    busy_time: int = 0
    """Of all slots together."""
    memory: int = 0
    """MiB of all workers together."""
    age: int = 0
    """The greatest."""
    future: int = 0
    """Tasks that wait for their ETA."""


@dataclass(frozen=True)
class Record:
    """Ten seconds of a group."""

    slot: int
    """Its time in seconds of the epoch, divided by ten."""
    figures: Figures = field(default_factory=Figures)
    arrivals: tuple[int, ...] = (0,) * SECONDS
    """Tasks that came, or came due, in each second."""
    waiting: tuple[int, ...] = (0,) * SECONDS
    """Tasks that waited for a slot at the end of each second."""
    ended: Mapping[str, Ended] = field(default_factory=dict)
    """Tasks that ended, by name."""


def dump(records: Sequence[Record]) -> bytes:
    """Return a block: at most :data:`RECORDS` records, one after the other without a gap.

    It has at most :data:`MOST_BYTES`: as far as that needs, rare names become others, and counts are rounded.
    """
    for step in STEPS:
        for kinds in KINDS:
            block = bytes([VERSION]) + zlib.compress(_packed(records, kinds, step), 9)
            if len(block) <= MOST_BYTES:
                return block
    # Nothing that a fleet does needs that.
    return dump([replace(records[0], arrivals=(0,) * SECONDS, waiting=(0,) * SECONDS, ended={})])


def load(block: Any) -> list[Record]:
    """Read what :func:`dump` returned.

    Raises:
        UnreadableError: It is something else, or of a release that writes others.
    """
    if not isinstance(block, bytes) or not block:
        raise UnreadableError("it is no block of records")
    if block[0] != VERSION:
        raise UnreadableError(f"it is of version {block[0]}; this release reads version {VERSION}")
    unpacking = zlib.decompressobj()
    try:
        data = unpacking.decompress(block[1:], MOST_UNPACKED)
    except zlib.error as error:
        raise UnreadableError("it is not compressed as a block of records is") from error
    if not unpacking.eof or unpacking.unused_data:
        raise UnreadableError("it has another length than a block of records")
    reader = _Reader(data)
    first, count = reader.whole(), reader.whole()
    if not 1 <= count <= RECORDS:
        raise UnreadableError(f"it has {count} records")
    figures = [reader.differences(count) for _ in Figures._fields]
    arrivals = reader.counts(count * SECONDS)
    waiting = reader.differences(count * SECONDS)
    kinds = [reader.kind(count) for _ in range(reader.whole())]
    if not reader.at_end:
        raise UnreadableError("it has another length than its records")
    return [
        Record(
            first + place,
            Figures(*(column[place] for column in figures)),
            tuple(arrivals[place * SECONDS : (place + 1) * SECONDS]),
            tuple(waiting[place * SECONDS : (place + 1) * SECONDS]),
            {name: ended[place] for name, ended in kinds if ended[place].tasks},
        )
        for place in range(count)
    ]


# --- Writing -------------------------------------------------------------------------------------------


def _packed(records: Sequence[Record], kinds: int, step: int) -> bytes:
    data = bytearray()
    _put(data, records[0].slot)
    _put(data, len(records))
    for name, column in zip(Figures._fields, zip(*(r.figures for r in records), strict=True), strict=True):
        _put_differences(data, multiples(column, step) if name in MEASURED else column)
    arrivals = [count for record in records for count in record.arrivals]
    for count in rounded(arrivals, step):
        _put(data, min(count, MOST_TASKS))
    waiting = [count for record in records for count in record.waiting]
    _put_differences(data, multiples(waiting, step))
    named = _by_kind(records, kinds)
    _put(data, len(named))
    for name, ended in named.items():
        _put_kind(data, name, ended)
    return bytes(data)


def rounded(counts: Sequence[int], step: int) -> list[int]:
    """Return counts as multiples of a step whose sums stay as they are, but for half a step."""
    sums = [0, *(round(total / step) * step for total in accumulate(counts))]
    return [after - before for before, after in pairwise(sums)]


def multiples(values: Sequence[int], step: int) -> list[int]:
    """Return values as multiples of a step."""
    return [round(value / step) * step for value in values]


def _by_kind(records: Sequence[Record], most: int) -> dict[str, list[Ended]]:
    """Return what ended in each record, by name; the rarest under one name."""
    tasks: Counter[str] = Counter()
    for record in records:
        for name, ended in record.ended.items():
            tasks[name] += int(ended.tasks)
    kept = {name for name, _ in tasks.most_common(most) if name != OTHERS}
    found: dict[str, list[Ended]] = {}
    for place, record in enumerate(records):
        for name, ended in record.ended.items():
            column = found.setdefault(name if name in kept else OTHERS, [Ended()] * len(records))
            column[place] = column[place].plus(ended)
    return found


def _put_kind(data: bytearray, name: str, ended: Sequence[Ended]) -> None:
    text = name.encode(errors="replace")[:MOST_NAME]
    _put(data, len(text))
    data += text
    for one in ended:
        _put(data, min(int(one.tasks), MOST_TASKS))
    for one in ended:
        _put(data, round(min(one.seconds, MOST_SECONDS) * 1000))
    for one in ended:
        _put(data, round(min(math.sqrt(one.variance), MOST_SECONDS) * 1000))


def _put_differences(data: bytearray, column: Sequence[int]) -> None:
    before = 0
    for value in column:
        change, before = value - before, value
        _put(data, 2 * change if change >= 0 else -2 * change - 1)


def _put(data: bytearray, value: int) -> None:
    value = min(max(value, 0), MOST)
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)


# --- Reading -------------------------------------------------------------------------------------------


class _Reader:
    """Reads numbers from the bytes of a block."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._place = 0

    @property
    def at_end(self) -> bool:
        """Whether all is read."""
        return self._place == len(self._data)

    def whole(self) -> int:
        """Return the next number.

        Raises:
            UnreadableError: There is none, or it is too large.
        """
        value, shift = 0, 0
        while True:
            if self._place >= len(self._data):
                raise UnreadableError("it ends within a number")
            byte = self._data[self._place]
            self._place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte <= 0x7F:
                break
            if shift > 63:
                raise UnreadableError("a number is too long")
        if value > MOST:
            raise UnreadableError("a number is too large")
        return value

    def counts(self, count: int) -> list[int]:
        """Return numbers of tasks of which none is absurd."""
        found = [self.whole() for _ in range(count)]
        if max(found) > MOST_TASKS:
            raise UnreadableError("a count is too large")
        return found

    def differences(self, count: int) -> list[int]:
        """Return a column of which the differences stand there."""
        codes = (self.whole() for _ in range(count))
        found = list(accumulate(code >> 1 if code % 2 == 0 else -(code >> 1) - 1 for code in codes))
        if min(found) < 0 or max(found) > MOST_FIGURE:
            raise UnreadableError("a number is not within its bounds")
        return found

    def kind(self, count: int) -> tuple[str, list[Ended]]:
        """Return the name of a kind, and what ended of it in each record."""
        size = self.whole()
        text = self._data[self._place : self._place + size]
        self._place += size
        if size > MOST_NAME or len(text) < size:
            raise UnreadableError("a name is too long")
        columns = self.counts(count), self.times(count), self.times(count)
        return text.decode(errors="replace"), [
            Ended(tasks, seconds, tasks * ((seconds / tasks) ** 2 + deviation**2) if tasks else 0.0)
            for tasks, seconds, deviation in zip(*columns, strict=True)
        ]

    def times(self, count: int) -> list[float]:
        """Return times in seconds."""
        return [self.whole() / 1000 for _ in range(count)]
