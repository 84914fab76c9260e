"""Tasks that failed for good: their kinds, and another run of those whose messages are kept."""

import json
import time
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from celery_autoscaler.protocol.bounded_hash import bounded_hash, read_bounded
from celery_autoscaler.protocol.broker import Broker
from celery_autoscaler.protocol.failures import KEPT_SECONDS, Failure, KindSeen
from celery_autoscaler.protocol.identity import group_of
from celery_autoscaler.protocol.keys import as_bytes, as_name
from celery_autoscaler.protocol.marks import COUNT
from celery_autoscaler.protocol.reading import Refusal
from celery_autoscaler.protocol.script import script
from celery_autoscaler.protocol.tallies import PUBLISHED

RETRY = script("protocol", "retry_failure")
# Failures that are read at once.
CHUNK = 500


@dataclass(frozen=True)
class Which:
    """Which failures are meant; by default all that are kept."""

    kinds: Sequence[str] = ()
    """Ids of kinds."""
    ids: Sequence[str] = ()
    """Ids of tasks."""
    task: str = ""
    exception: str = ""
    """The type, with or without its module."""
    group: str = ""
    seconds: float = KEPT_SECONDS
    """How old they are at most."""

    def takes(self, kind: str, failure: Failure) -> bool:
        """Return whether a failure is meant, its age aside."""
        types = (failure.exception, failure.exception.rpartition(".")[2])
        return (
            (not self.kinds or kind in self.kinds)
            and (not self.ids or failure.id in self.ids)
            and self.task in ("", failure.task)
            and (not self.exception or self.exception in types)
            and self.group in ("", group_of(failure.worker))
        )

    @property
    def is_all(self) -> bool:
        """Whether nothing was chosen."""
        return not (self.kinds or self.ids or self.task or self.exception or self.group)


@dataclass(frozen=True)
class KnownKind:
    """A kind of failure as it is shown."""

    id: str
    seen: KindSeen
    count: int
    """Failures in the time that was asked for."""
    example: Failure
    """The last failure."""

    def as_dict(self) -> dict[str, Any]:
        """Return it for other programs."""
        example = self.example
        return {
            "kind": self.id,
            "task": example.task,
            "exception": example.exception,
            "place": example.place,
            "function": example.function,
            "count": self.count,
            "total": self.seen.total,
            "first": self.seen.first,
            "last": self.seen.last,
            "since_release": self.seen.release,
            "example": example.as_dict(),
        }


@dataclass(frozen=True)
class Kept:
    """A failure of the stream, with what it takes to run its task again."""

    entry: bytes
    """Its id in the stream, by which its age is known."""
    kind: str
    failure: Failure
    message: bytes
    """Nothing if it is not kept."""
    retried: str = ""
    """Who did that; nothing if nobody did."""


@dataclass
class Plan:
    """What is to be run again, and what cannot be."""

    tasks: list[Kept] = field(default_factory=list)
    retried: int = 0
    """Tasks that were sent again before."""
    not_kept: int = 0
    """Tasks whose messages are not kept: they are too large, or were for all workers."""

    def counts(self) -> dict[str, int]:
        """Return how many tasks of each name are to be sent."""
        return dict(Counter(kept.failure.task for kept in self.tasks).most_common())


def kinds(broker: Broker, which: Which) -> list[KnownKind]:
    """Return the kinds of failures, the most frequent first.

    Raises:
        redis.RedisError: The server does not answer.
    """
    keys = broker.keys
    with broker.client.pipeline(transaction=False) as pipe:
        pipe.time()
        read_bounded(pipe, keys.failure_kinds)
        read_bounded(pipe, keys.failure_examples)
        (now, _), *replies = pipe.execute()
    seen, _ = bounded_hash("kind of failure", keys.failure_kinds, replies[0])
    examples, _ = bounded_hash("failure", keys.failure_examples, replies[1])
    found = []
    for name, text in seen.items():
        kind, example = KindSeen.load(text), Failure.load(examples.get(name))
        if isinstance(kind, Refusal) or isinstance(example, Refusal):
            continue
        count = kind.since(now - which.seconds) if kind.last >= now - which.seconds else 0
        known = KnownKind(as_name(name), kind, count, example)
        if count and which.takes(known.id, example):
            found.append(known)
    return sorted(found, key=lambda known: (-known.count, -known.seen.last, known.id))


def kept(broker: Broker, which: Which) -> Iterator[Kept]:
    """Yield the single failures that are kept, the newest first.

    Raises:
        redis.RedisError: The server does not answer.
    """
    client, keys = broker.client, broker.keys
    retried = client.hgetall(keys.failures_retried)
    oldest, newest = f"{max(0, round((client.time()[0] - which.seconds) * 1000))}-0", "+"
    while entries := client.xrevrange(keys.failures, max=newest, min=oldest, count=CHUNK):
        for entry, fields in entries:
            failure = Failure.load(fields.get(b"failure"))
            if isinstance(failure, Refusal):
                continue
            kind = as_name(fields.get(b"kind", b""))
            if which.takes(kind, failure):
                by = as_name(retried.get(entry, b""))
                yield Kept(entry, kind, failure, fields.get(b"message", b""), by)
        newest = before(entries[-1][0])


def before(entry: bytes) -> str:
    """Return the last id that an entry before this one can have."""
    milliseconds, number = position(entry)
    return f"{milliseconds}-{number - 1}" if number else f"{milliseconds - 1}-{2**64 - 1}"


def plan(broker: Broker, which: Which) -> Plan:
    """Return what is to be run again: of each task the last failure, unless it was sent again since.

    Raises:
        redis.RedisError: The server does not answer.
    """
    found, known = Plan(), set()
    oldest = (broker.client.time()[0] - which.seconds) * 1000
    # One that failed with something else since is another failure's.
    for each in kept(broker, Which()):
        if each.failure.id in known:
            continue
        known.add(each.failure.id)
        if position(each.entry)[0] < oldest or not which.takes(each.kind, each.failure):
            continue
        if each.retried:
            found.retried += 1
        elif not each.message:
            found.not_kept += 1
        else:
            found.tasks.append(each)
    # As they failed.
    found.tasks.reverse()
    return found


def retry(broker: Broker, tasks: Iterable[Kept], by: str, pause: Callable[[], Any]) -> int:
    """Send messages of tasks again, each once however many processes do the same; return how many were sent.

    Args:
        broker: The broker.
        tasks: Which.
        by: Who wants it.
        pause: Called after each.

    Raises:
        redis.RedisError: The server does not answer, or refuses.
    """
    step, sent, keys = broker.client.register_script(RETRY), 0, broker.keys
    for each in tasks:
        found = message_again(each.message, time.time())
        if found is None:
            continue
        message, priority = found
        steps = broker.priority_steps
        step_number = steps[max(0, bisect(steps, priority) - 1)]
        name = f"{each.failure.queue}{broker.separator}{step_number}" if step_number else each.failure.queue
        sent += int(
            step(
                keys=[keys.failures_retried, as_bytes(f"{keys.prefix}{name}")],
                args=[each.entry, by or "?", KEPT_SECONDS, message],
            )
        )
        pause()
    forget_dropped(broker)
    return sent


def forget_dropped(broker: Broker) -> None:
    """Forget who retried failures that are no longer kept."""
    client, keys = broker.client, broker.keys
    first = client.xrange(keys.failures, count=1)
    begin = position(first[0][0]) if first else (0, 0)
    if gone := [entry for entry in client.hkeys(keys.failures_retried) if position(entry) < begin]:
        client.hdel(keys.failures_retried, *gone)


def position(entry: bytes) -> tuple[int, int]:
    """Return the place of an entry in its stream; of what is none, before all."""
    time_part, _, number = entry.partition(b"-")
    return (int(time_part), int(number)) if time_part.isdigit() and number.isdigit() else (-1, 0)


def message_again(raw: bytes, now: float) -> tuple[bytes, int] | None:
    """Return a message as it is sent again, and its priority; nothing if it is no message.

    It keeps its id, its retries and its callbacks. It no longer expires, for that time may be over, and it
    has not come back from a death.
    """
    try:
        message: dict[str, Any] = json.loads(raw)
        properties, headers = message["properties"], message["headers"]
        info = properties.get("delivery_info") or {}
        for name in ("queue", "redelivered", COUNT):
            info.pop(name, None)
        headers.pop("redelivered", None)
        properties |= {"delivery_info": info, "delivery_tag": str(uuid4())}
        headers |= {"expires": None, PUBLISHED: now}
        priority = properties.get("priority")
        return json.dumps(message).encode(), priority if type(priority) is int else 0
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None
