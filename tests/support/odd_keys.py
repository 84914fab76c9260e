"""Strategies for what nobody meant to write into the fleet's keys: odd documents, names and types."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st
from redis.exceptions import ResponseError

from support.odd_values import cut, dumps, encoded, envelope, messages, mutated, odd

# A group that runs, one without queues of its own, all of them.
GROUPS = ("default", "nosuch", "*", "")
HOSTS = ("here", "peer", "peer:1", "", "\x1b[2J", "é")
FAR = 4e12  # milliseconds of the epoch, in a hundred years
PAST = 1.0


@dataclass(frozen=True)
class Put:
    """Something to write into one key."""

    key: bytes
    kind: str
    """The type of the key: hash, zset, set, list, stream, string."""
    values: tuple[tuple[bytes, Any], ...]
    """Fields and values, members and scores, or values alone."""

    def apply(self, client: Any) -> None:
        """Write it, unless another has given the key another type, or a score is none."""
        try:
            self._write(client)
        except ResponseError as error:
            if "WRONGTYPE" not in str(error) and "not a valid float" not in str(error):
                raise

    def _write(self, pipe: Any) -> None:
        if self.kind == "hash":
            pipe.hset(self.key, mapping=dict(self.values))
        elif self.kind == "zset":
            pipe.zadd(self.key, dict(self.values))
        elif self.kind == "set":
            pipe.sadd(self.key, *(value for value, _ in self.values))
        elif self.kind == "list":
            pipe.rpush(self.key, *(value for value, _ in self.values))
        elif self.kind == "stream":
            pipe.xadd(self.key, dict(self.values))
        else:
            pipe.set(self.key, self.values[0][0])


def as_bytes(value: Any) -> bytes:
    """Return a value as Redis holds it: text as it is, all else as JSON."""
    if isinstance(value, bytes):
        return value
    return (value if isinstance(value, str) else dumps(value)).encode("utf-8", "surrogatepass")


raw = st.sampled_from(
    [b"", b"\xff\xfe", b"{", b"null", b"[]", b"0", b"x" * 10_000, b"\x00", b"[" * 5000, b"nan", b"1e999"]
)
odd_bytes = odd.map(as_bytes) | raw
names = st.sampled_from(
    [b"default-9@here:1", b"default-9@here", b"default-x@here:1", b"@:", b"", b":::", b"\xff@\xfe:1",
    b"a@b:c:d", b"w\n@h:1",
     b"default-1@peer:18f", b"[/x]@here:1", b"x" * 5000 + b"@h:1"]
)  # fmt: skip
scores = st.sampled_from([FAR, PAST, 0.0, -1.0, float("inf"), float("-inf"), 1e308])

HEARTBEAT: dict[str, Any] = {
    "session": "1", "host": "here", "group": "default", "pid": "4000000", "state": "running",
    "concurrency": "2",
    "active": "1", "reserved": "0", "scheduled": "1", "next_eta": "4102444800.0", "processed": "5",
    "failed": "0",
    "busy_seconds": "1.5", "taken": {"celery": 5}, "tasks": {"single.count": [5, 1.5]},
    "run_times": {"single.count": [5, 1.5, 0.5]}, "due": [0, 1, 2],
    "running": [["single.count", 1.0]],
    "memory": "1000000", "release": "",
}  # fmt: skip
OVERRIDE: dict[str, Any] = {
    "paused": False,
    "min_workers": 1,
    "max_workers": 2,
    "by": "somebody",
    "pause": {"by": "ann", "because": "x", "since": 1.0, "until": 2e9},
    "scale": {"by": "bob"},
}
LIMITS: dict[str, Any] = {"default": 3}
COUNTS: dict[str, Any] = {"at": 1.0, "tasks": [["single.count", "celery", {"succeeded": 5, "failed": 1}]]}


LETTER: dict[str, Any] = {
    "queue": "celery", "when": "2026-01-01T00:00:00+00:00", "reason": "x", "worker": "default-1@here",
    "redeliveries": 3, "message": '{"headers": {"task": "t", "id": "i"}}',
}  # fmt: skip


def fields(document: dict[str, Any]) -> st.SearchStrategy[tuple[tuple[bytes, bytes], ...]]:
    """Return a strategy for the fields of a hash that is odd in a few places, or all of it."""

    def flat(found: Any) -> tuple[tuple[bytes, bytes], ...]:
        items = found.items() if isinstance(found, dict) and found else [("field", found)]
        return tuple((as_bytes(name), as_bytes(value)) for name, value in items)

    wild = st.lists(st.tuples(odd_bytes, odd_bytes), min_size=1, max_size=4).map(tuple)
    return mutated(st.just(document)).map(flat) | mutated(st.just(document)).map(flat) | wild


def records(*sources: bytes) -> st.SearchStrategy[tuple[tuple[bytes, bytes], ...]]:
    """Return a strategy for the record of a dead worker: tokens, lists and messages that are odd.

    `sources` are names of lists, with what follows them in a record, beside the odd ones.
    """
    counted = mutated(
        st.builds(lambda: envelope("single.absorb", "odd", 2, [])).map(
            lambda found: {**found, "properties": {**found["properties"], "delivery_info": {
                "exchange": "", "routing_key": "aside", "redelivery_count": 2}}}
        )
    ).map(encoded)  # fmt: skip
    message = counted | messages("single.absorb") | odd_bytes
    # Where it came from; nobody takes from these lists.
    source = st.sampled_from(
        [*sources, b"aside\n", b"aside\x06\x163\n", b"", b"\n", b"\xff\n", b"aside", b"aside\n\n"]
    )
    record = st.tuples(
        st.sampled_from([b"000000000001.000", b"", b"x", b"\xff"]) | odd_bytes,
        st.builds(bytes.__add__, source, message),
    )
    return st.lists(record, min_size=1, max_size=5).map(tuple)


def worker(worker_id: bytes, score: float, heartbeat: Any, record: Any) -> list[Put]:
    """Return the keys of a worker that nobody started."""
    puts = [Put(b"fleet:workers", "zset", ((worker_id, score),))]
    if score > PAST:
        puts.append(Put(b"fleet:worker:" + worker_id, "hash", heartbeat))
    return [*puts, Put(b"fleet:unacked:" + worker_id, "hash", record)]


def peer(host: str, score: float, found: Any) -> list[Put]:
    """Return the keys of a supervisor that nobody started."""
    name = as_bytes(host)
    return [
        Put(b"fleet:supervisors", "zset", ((name, score),)),
        Put(b"fleet:supervisor:" + name, "hash", found),
    ]


KEYS: Sequence[tuple[bytes, str]] = [
    (b"fleet:workers", "zset"), (b"fleet:supervisors", "zset"), (b"fleet:drain", "set"), (b"fleet:replace",
    "set"),
    (b"fleet:leaving", "hash"), (b"fleet:overrides", "hash"), (b"fleet:claims:default", "zset"),
    (b"fleet:decisions", "stream"), (b"fleet:history", "stream"), (b"fleet:task_counts:here", "hash"),
    (b"fleet:run_times:default", "hash"), (b"fleet:failures", "stream"), (b"fleet:failure_kinds", "hash"),
    (b"fleet:failure_examples", "hash"), (b"fleet:task_history", "hash"),
    (b"dead_letter:celery", "list"), (b"aside", "list"), (b"fleet:supervisor:here", "hash"),
]  # fmt: skip
TYPES = ("hash", "zset", "set", "list", "stream", "string")


def of_any_type(key: bytes, kind: str, value: bytes, score: float) -> Put:
    """Return a key of whatever type."""
    pair = (value, score if kind == "zset" else value)
    return Put(key, kind, (pair,))


def puts(status: dict[str, Any]) -> st.SearchStrategy[list[Put]]:
    """Return a strategy for what is written at a time; `status` is what a supervisor says of itself."""
    peer_hash = {"weight": "2", "limits": LIMITS, "status": status}
    one: st.SearchStrategy[list[Put]] = st.one_of(
        st.builds(worker, names, scores, fields(HEARTBEAT), records()),
        st.builds(peer, st.sampled_from(HOSTS[1:]), scores, fields(peer_hash)),
        st.builds(
            lambda group, value: [Put(b"fleet:overrides", "hash", ((as_bytes(group), value),))],
            st.sampled_from(GROUPS), mutated(st.just(OVERRIDE)).map(as_bytes) | odd_bytes,
        ),
        st.builds(
            lambda part, group, value: [Put(part + as_bytes(group), "string", ((value, b""),))],
            st.sampled_from((b"fleet:pause:", b"fleet:bounds:")), st.sampled_from(GROUPS),
            mutated(st.just(OVERRIDE)).map(as_bytes) | odd_bytes,
        ),
        st.builds(
            lambda name, score: [Put(b"fleet:claims:default", "zset", ((name, score),))], names, scores
        ),
        st.builds(
            lambda worker_id, value: [Put(b"fleet:task_counts:here", "hash", ((worker_id, value),))],
            names,
            cut(st.just(json.dumps(COUNTS).encode())) | mutated(st.just(COUNTS)).map(as_bytes) | odd_bytes,
        ),
        st.builds(
            lambda name, value: [Put(b"fleet:run_times:default", "hash", ((name, value),))],
            names, mutated(st.just([5, 1.5, 1e9])).map(as_bytes) | odd_bytes,
        ),
        st.builds(lambda key, value: [Put(key, "set", ((value, value),))],
                  st.sampled_from([b"fleet:drain", b"fleet:replace"]), names | odd_bytes),
        st.builds(lambda host, by: [Put(b"fleet:leaving", "hash", ((as_bytes(host), by),))],
                  st.sampled_from(HOSTS[1:]), odd_bytes),
        st.builds(lambda key, found: [Put(key, "stream", found)],
                  st.sampled_from([b"fleet:decisions", b"fleet:history"]),
                  fields({"at": "1.0", "host": "here", "group": "default", "have": "1", "want": "2",
                  "here": "1",
                          "reason": "x", "limit": "", "emergency": "0", "held_back": "",
                          "default": "1 0 0 3 5 1.5"})),
        st.builds(lambda value: [Put(b"dead_letter:celery", "list", ((value, b""),))],
                  mutated(st.just(LETTER)).map(as_bytes) | odd_bytes),
        st.builds(lambda value: [Put(b"aside", "list", ((value, b""),))], messages("single.absorb")),
        st.builds(lambda key, kind, value, score: [of_any_type(key[0], kind, value, score)],
                  st.sampled_from(KEYS), st.sampled_from(TYPES), odd_bytes, scores),
    )  # fmt: skip
    return st.lists(one, min_size=4, max_size=14).map(
        lambda found: [put for several in found for put in several]
    )
