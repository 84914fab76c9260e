"""Strategies for what nobody meant to send: odd values, and documents that are odd in a few places.

A document is a valid one first; then some places of it get a value of another type, vanish, change places,
are nested deep or repeated. So most of what comes out passes the first checks of its readers.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

# Deeper than Python's parsers go, and less deep.
DEPTHS = (3, 200, 1500, 100_000)
# A whole number as long as Python still reads, and one that is longer.
DIGITS = (400, 4300, 5000)

NUMBERS: tuple[Any, ...] = (
    0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**22, 10 ** DIGITS[0], 0.1, -0.0, 1e308, -1e308, 1e-320,
    float("nan"), float("inf"), float("-inf"), True, False,
)  # fmt: skip
TEXTS = (
    "", " ", "0", "-1", "1e400", "nan", "null", "true", "\x00", "\n", "\r\n", "\ud800", "\udcff\ud800",
    "\u202e", "\x1b[2J",
    "é" * 3, "😀", "a:b:c", "::", "../x", "%s %d {x} {0}", "[/x]", "\x06\x16" + "3", "x" * 100_000, "None",
    "0001-01-01T00:00:00", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59.999999-23:59",
    "2024-02-30T00:00:00",
    "1970-01-01T00:00:00+00:00", "utf-7", "base64", "application/x-python-serialize", "application/data",
    "zlib", "celery", "celery.chord", "celery.accumulate",
)  # fmt: skip

numbers = st.sampled_from(NUMBERS) | st.integers() | st.floats()
texts = st.sampled_from(TEXTS) | st.text(alphabet=st.characters(), max_size=20)
scalars: st.SearchStrategy[Any] = st.none() | numbers | texts
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=8,
)
"""Anything that JSON, as Python writes it, can say; lone surrogates, NaN and infinity among it."""


class Raw(str):
    """JSON text that stands in a document as it is: what ``json.dumps`` would not write."""

    __slots__ = ()


def nested(depth: int) -> list[Raw]:
    """Return values nested so deep."""
    return [
        Raw("[" * depth + "]" * depth),
        Raw('{"a":' * depth + "1" + "}" * depth),
        Raw('[{"a":' * depth + "1" + "}]" * depth),
    ]


raw_values = st.sampled_from(
    [value for depth in DEPTHS for value in nested(depth)]
    + [Raw("1" * digits) for digits in DIGITS]
    + [Raw("-" + "9" * DIGITS[-1]), Raw("1e999"), Raw('{"a": 1, "a": 2}'), Raw('"\\ud800"'), Raw("Infinity")]
)
"""What ``json.dumps`` does not write, or not without recursion."""

odd: st.SearchStrategy[Any] = values | raw_values
"""Any odd value."""


@dataclass(frozen=True)
class Mutation:
    """One change of a document: at the place that a number points to, one of several things happens."""

    place: int
    kind: str
    value: Any

    def apply(self, document: Any) -> Any:
        """Return the changed document."""
        found = [path for path in places(document) if path]
        if not found:
            return self.value
        path = found[self.place % len(found)]
        parent = at(document, path[:-1])
        key = path[-1]
        if self.kind == "replace":
            parent[key] = copied(self.value)
        elif self.kind == "remove":
            del parent[key]
        elif self.kind == "wrap":
            parent[key] = [parent[key]]
        elif self.kind == "as text":
            parent[key] = json.dumps(parent[key], default=str)
        elif self.kind == "swap":
            other = found[(self.place // len(found)) % len(found)]
            if other[: len(path)] != path and path[: len(other)] != other:
                parent_of_other = at(document, other[:-1])
                parent[key], parent_of_other[other[-1]] = parent_of_other[other[-1]], parent[key]
        elif isinstance(parent, dict):  # another key beside it
            parent[str(self.value)[:50]] = copied(parent[key])
        else:
            parent.extend(copied(parent[key]) for _ in range(3))
        return document


KINDS = ("replace", "replace", "replace", "remove", "wrap", "as text", "swap", "repeat")


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths to all places of a document."""
    found = [path]
    if isinstance(document, dict):
        for key in document:
            found += places(document[key], (*path, key))
    elif isinstance(document, list):
        for number, value in enumerate(document):
            found += places(value, (*path, number))
    return found


def copied(document: Any) -> Any:
    """Return a copy in which no part stands twice, so that no change makes it part of itself."""
    if isinstance(document, dict):
        return {key: copied(value) for key, value in document.items()}
    if isinstance(document, list):
        return [copied(value) for value in document]
    return document


def at(document: Any, path: Sequence[Any]) -> Any:
    """Return the value at a place."""
    for key in path:
        document = document[key]
    return document


mutations = st.builds(Mutation, st.integers(0, 10**6), st.sampled_from(KINDS), odd)


def mutated(document: st.SearchStrategy[Any], most: int = 3) -> st.SearchStrategy[Any]:
    """Return a strategy for a document that is odd in a few places."""

    def change(valid: Any, changes: list[Mutation]) -> Any:
        changed = copied(valid)
        for mutation in changes:
            changed = mutation.apply(changed)
        return changed

    return st.builds(change, document, st.lists(mutations, min_size=1, max_size=most))


def dumps(document: Any) -> str:
    """Return a document as JSON, with each :class:`Raw` as it is."""
    raw: list[str] = []

    def marked(value: Any) -> Any:
        if isinstance(value, Raw):
            raw.append(value)
            return f"\x00raw {len(raw) - 1}\x00"
        if isinstance(value, dict):
            return {key: marked(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [marked(inner) for inner in value]
        return value

    text = json.dumps(marked(document))
    for number, value in enumerate(raw):
        text = text.replace(f'"\\u0000raw {number}\\u0000"', value)
    return text


# --- Messages --------------------------------------------------------------------------------------------

# Raw bytes in a list that are no message at all.
NO_MESSAGES = (
    b"", b"x", b"null", b"1", b"[]", b"{}", b'"text"', b"\xff\xfe\x00", b'{"body": "\xff"}', b"{",
    b"[" * 100_000,
    b'{"headers": {}, "properties": {}}', b'{"properties": {"delivery_tag": 1}}', b"\x80\x04K\x01.",
    b"\x00" * 50,
    b'{"body": "e30=", "headers": null, "properties": null}', b'{"a":' * 100_000, b"1" * 5000, b"NaN",
)  # fmt: skip


def envelope(task: str, task_id: str, protocol: int, arguments: list[Any]) -> dict[str, Any]:
    """Return a task's message as kombu puts it into a list, with its body not yet encoded.

    Every header that Celery knows is there, so that each can be wrong.
    """
    headers: dict[str, Any] = {}
    body: Any = [arguments, {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    if protocol == 2:
        headers = {
            "lang": "py", "task": task, "id": task_id, "shadow": None, "eta": None, "expires": None,
            "group": None,
            "group_index": None, "retries": 0, "timelimit": [None, None], "root_id": task_id,
            "parent_id": None,
            "argsrepr": "()", "kwargsrepr": "{}", "origin": "gen1@here", "ignore_result": True,
            "replaced_task_nesting": 0, "stamped_headers": None, "stamps": {}, "published_at": 1.0,
        }  # fmt: skip
    else:
        body = {
            "task": task, "id": task_id, "args": arguments, "kwargs": {}, "group": None, "group_index": None,
            "retries": 0, "eta": None, "expires": None, "utc": True, "callbacks": None, "errbacks": None,
            "timelimit": [None, None], "taskset": None, "chord": None,
        }  # fmt: skip
    return {
        "body": body,
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": headers,
        "properties": {
            "correlation_id": task_id,
            "reply_to": "11111111-2222-3333-4444-555555555555",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "celery"},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": "aaaaaaaa-2222-3333-4444-555555555555",
        },
    }


def encoded(document: Any) -> bytes:
    """Return a message as it stands in a list: its body as kombu encodes it, where it is still there."""
    if isinstance(document, dict) and "body" in document and not isinstance(document["body"], str):
        body = dumps(document["body"]).encode()
        document = {**document, "body": base64.b64encode(body).decode()}
    return dumps(document).encode()


def messages(task: str) -> st.SearchStrategy[bytes]:
    """Return a strategy for messages of a task that are odd in a few places, or no messages at all.

    The task is called with odd arguments as well; it should take any.
    """
    counter = st.integers(0, 10**9).map(lambda number: f"odd-{number}")
    arguments: st.SearchStrategy[list[Any]] = st.lists(scalars, max_size=2)
    valid = st.builds(envelope, st.just(task), counter, st.sampled_from([1, 2, 2]), arguments)
    odd_messages = mutated(valid).map(encoded)
    return odd_messages | odd_messages | odd_messages | cut(odd_messages) | st.sampled_from(NO_MESSAGES)


def cut(whole: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Return a strategy for bytes that lack their end, or have a wrong one in the middle."""

    def damage(data: bytes, place: int, byte: int, damage_only: bool) -> bytes:
        position = place % (len(data) + 1)
        if damage_only:
            return data[:position] + bytes([byte]) + data[position + 1 :]
        return data[:position]

    return st.builds(damage, whole, st.integers(0, 10**6), st.integers(0, 255), st.booleans())
