"""How a record holds a message, and what a message says of its redeliveries. No bytes are an error."""

import json
from collections.abc import Mapping
from typing import Any

from celery_autoscaler.protocol.keys import as_name

# The counter beside kombu's own mark `redelivered`.
COUNT = "redelivery_count"
# More than any limit; what a producer writes there is no count of ours.
MOST = 1_000_000


def redeliveries(delivery_info: Mapping[str, Any]) -> int:
    """Return how often a message came back from a death; what is no count of ours is none."""
    count = delivery_info.get(COUNT)
    return count if type(count) is int and 0 <= count <= MOST else 0


def marked(raw: bytes, *, counted: bool) -> tuple[bytes, int | None]:
    """Return a message marked as redelivered, and how often it has come back from a death.

    Whatever is no message of kombu's is returned as it is; it cannot be counted.
    """
    try:
        payload: dict[str, Any] = json.loads(raw.decode())
        info = payload["properties"].get("delivery_info") or {}
        payload["properties"]["delivery_info"] = info
        info["redelivered"] = True
        if counted:
            info[COUNT] = redeliveries(info) + 1
        if isinstance(payload.get("headers"), dict):
            payload["headers"]["redelivered"] = True
        return json.dumps(payload).encode(), redeliveries(info) if counted else 0
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return raw, None


def unmarked(raw: bytes) -> bytes:
    """Return a message without the count of its redeliveries."""
    try:
        payload: dict[str, Any] = json.loads(raw.decode())
        payload["properties"]["delivery_info"].pop(COUNT, None)
        return json.dumps(payload).encode()
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return raw


def parse_record(record: bytes) -> tuple[str, bytes]:
    """Return the list from which a recorded message came, and the message as it stood there.

    A record is the name of the list, a line feed, the message. A name with a line feed in it has another one
    and its length in bytes before it. Without a line feed there is no list, and all of it is the message.
    """
    if record.startswith(b"\n"):
        length, _, rest = record[1:].partition(b"\n")
        size = int(length) if length.isdigit() and len(length) < 10 else -1
        if size >= 0 and rest[size : size + 1] == b"\n":
            return as_name(rest[:size]), rest[size + 1 :]
        return "", record[1:]
    source, found, raw = record.partition(b"\n")
    return (as_name(source), raw) if found else ("", record)
