"""How many messages of a list wait for their ETA, from a bounded sample that fetches no large body.

kombu writes a message as one object of JSON: body, content type, headers, properties. The ETA is a header, so
of a large message its beginning and its end suffice. Redis cuts them out; it parses nothing.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from celery_autoscaler.protocol.reading import UnreadableError, read_mapping, shown
from celery_autoscaler.protocol.script import script

# Messages of a list that are looked at: all of a short one, of others those taken next.
PEEK = 100
# Bytes of a large message that are fetched: of its beginning and of its end.
HEAD_BYTES, TAIL_BYTES = 4 * 1024, 16 * 1024
# Bytes of messages after which a look ends, over all lists. Redis copies each message to cut it.
BUDGET_BYTES = 8 * 1024 * 1024
NO_ETA = (b'"eta": null', b'"eta":null')
# A task's name in the headers: what it takes is only compared with other names.
TASK_NAME = re.compile(rb'"task": ?"([^"\\]{1,512})"')
# Names of which a message of a task has one near one of its ends.
PARTS = (b'"headers":', b'"properties":', b'"content-type":')

SAMPLE = script("protocol", "sample_lists")


@dataclass(frozen=True)
class EtaSample:
    """What a sample of a list shows."""

    messages: int = 0
    """Messages looked at."""
    future: int = 0
    """Those of them whose ETA has not come."""
    next_eta: float | None = None
    """The first of these ETAs, in seconds of the epoch."""
    unreadable: int = 0
    """Messages that are no task's."""
    why: str = ""
    """What is wrong with one of these."""
    etas: tuple[float, ...] = field(default=(), compare=False)
    """The ETAs that have not come, in seconds of the epoch."""
    names: Mapping[str, int] = field(default_factory=dict, compare=False)
    """Names of the tasks whose time has come, and how many of each."""


def read_sample(messages: Sequence[Any], now: float) -> EtaSample:
    """Return what messages, or the ends of large ones, show at a time in seconds of the epoch."""
    etas, unreadable, why = [], 0, ""
    names: Counter[str] = Counter()
    for message in messages:
        try:
            eta = read_eta(message) if isinstance(message, bytes) else read_eta_of_ends(message)
        except UnreadableError as error:
            unreadable, why = unreadable + 1, str(error)
            continue
        if eta is not None and eta > now:
            etas.append(eta)
        elif name := read_name(message if isinstance(message, bytes) else message[0]):
            names[name] += 1
    return EtaSample(
        len(messages), len(etas), min(etas, default=None), unreadable, why, tuple(etas), dict(names)
    )


def read_name(message: bytes) -> str:
    """Return the name of the task of a message, or what looks like it; nothing if none is found."""
    found = TASK_NAME.search(message)
    return found[1].decode(errors="replace") if found else ""


def read_eta(message: bytes) -> float | None:
    """Return the ETA of a message in seconds of the epoch, if it has one.

    Raises:
        UnreadableError: It is no message of a task.
    """
    if b'"headers":' in message and message.count(b'"eta":') == 1 and any(mark in message for mark in NO_ETA):
        return None
    return eta_of(read_mapping(message).get("headers"))


def read_eta_of_ends(ends: Sequence[bytes]) -> float | None:
    """Return the ETA of a large message from its two ends, if it has one and the headers are in them.

    Raises:
        UnreadableError: The headers are no task's.
    """
    for end in ends:
        # Within a string of JSON the quotes would be escaped.
        before, found, rest = end.partition(b'"headers":')
        if not found or before.endswith(b"\\"):
            continue
        text = rest.decode(errors="replace").lstrip()
        try:
            headers, _ = json.JSONDecoder().raw_decode(text)
        except RecursionError as error:
            raise UnreadableError("it is nested too deep") from error
        except ValueError:
            # They are cut off: whether they hold an ETA is not known.
            continue
        return eta_of(headers)
    if not any(part in end for end in ends for part in PARTS):
        raise UnreadableError("it has no headers")
    return None


def eta_of(headers: Any) -> float | None:
    """Return the ETA in the headers of a message, in seconds of the epoch, if there is one.

    Raises:
        UnreadableError: They are no headers, or it is no time.
    """
    if not isinstance(headers, dict):
        raise UnreadableError("it has no headers")
    eta = headers.get("eta")
    if eta is None:
        return None
    try:
        return datetime.fromisoformat(eta).timestamp()
    except (ValueError, TypeError, OverflowError, OSError) as error:
        raise UnreadableError(f"its ETA is {shown(eta)}") from error
