"""Give messages back: those of a dead worker, and those that a living one cannot run.

A worker records each message in its own hash in the same step that takes it from its list (see
:mod:`celery_autoscaler.consuming.channel`), so giving back is: read the record, mark the message, move it.
Each move is one Lua step that acts only if the record is still there; any number of processes may try at
once, and each message goes back once.

Whatever bytes a record holds, its message goes back or to the dead letters, and what one record or one worker
does to its rescuer keeps no other from being rescued.
"""

import logging
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import ResponseError
from redis.exceptions import TimeoutError as NoAnswer

from celery_autoscaler.protocol.broker import Broker
from celery_autoscaler.protocol.dead_letter import DeadLetter
from celery_autoscaler.protocol.identity import worker_name
from celery_autoscaler.protocol.keys import as_bytes, as_name
from celery_autoscaler.protocol.marks import marked, parse_record
from celery_autoscaler.protocol.script import script
from celery_autoscaler.protocol.server_state import is_refusal
from celery_autoscaler.protocol.text import as_text

logger = logging.getLogger(__name__)

# A message that comes back more often than this is put aside.
MAX_REDELIVERIES = 3
CHUNK = 500
DAY = 86_400
# Seconds after which it is said again that a worker cannot be rescued.
SAY_AGAIN = 300.0
# The queue whose dead letters are those of which no queue is known.
UNKNOWN = "unknown"

BEGIN = script("protocol", "begin_rescue")

MOVE = script("protocol", "move")

FORGET = script("protocol", "forget_worker")

# What it takes to say of all workers at once that they cannot be rescued now.
AWAY = (OSError, NoConnection, NoAnswer)

_said: dict[str, float] = {}


@dataclass(frozen=True)
class Recorded:
    """A message in a worker's record."""

    broker: Broker
    worker_id: str
    token: bytes
    record: bytes

    def aside(self, letter: DeadLetter, queue: str) -> "Move":
        """Return its move to the dead letters of a queue."""
        return Move(self, self.broker.keys.dead_letter(queue or UNKNOWN), letter.dump())

    def letter(self, reason: str, redeliveries: int = 0) -> DeadLetter:
        """Return the dead letter that it becomes."""
        source, raw = parse_record(self.record)
        return DeadLetter(
            queue=self.broker.keys.without_prefix(source),
            when=datetime.now(UTC).isoformat(timespec="seconds"),
            reason=reason,
            worker=worker_name(self.worker_id),
            redeliveries=redeliveries,
            message=as_name(raw),
        )


@dataclass(frozen=True)
class Move:
    """A message on its way out of a record."""

    recorded: Recorded
    destination: str
    payload: bytes


def give_back(
    broker: Broker,
    worker_id: str,
    tokens: Iterable[str | bytes],
    *,
    end: Literal["next", "last"] = "next",
    died: str | None = None,
    max_redeliveries: int = MAX_REDELIVERIES,
) -> int:
    """Put recorded messages back into the lists from which they came.

    Args:
        broker: The broker.
        worker_id: Whose record holds them.
        tokens: Which messages; they come back in the order in which they were taken.
        end: Whether they are the next to be taken, or the last.
        died: Why they were not finished; such a message is counted, and put into the dead letters when that
            has happened more than ``max_redeliveries`` times. Nothing for messages that were never begun.
        max_redeliveries: How often a message may come back.

    Returns:
        How many messages this call moved; others may have moved the rest.

    Raises:
        redis.RedisError: The server cannot be reached or is full; what was not moved stays recorded.
    """
    push = "RPUSH" if end == "next" else "LPUSH"
    unacked = as_bytes(broker.keys.unacked(worker_id))
    moved = 0
    names = sorted((as_bytes(token) for token in tokens), reverse=end == "next")
    # Pushed one after the other, the last one pushed at the next end is taken first.
    for chunk in in_chunks(names):
        moves = []
        for token, record in zip(chunk, broker.client.hmget(unacked, chunk), strict=True):
            if record is not None:
                recorded = Recorded(broker, worker_id, token, record)
                moves.append(_move(recorded, died=died, max_redeliveries=max_redeliveries))
        done, refused = _push(broker, unacked, push, moves)
        moved += done
        moved += sum(_put_aside(unacked, move.recorded) for move in refused)
    return moved


def _push(broker: Broker, unacked: bytes, push: str, moves: list[Move]) -> tuple[int, list[Move]]:
    """Move messages; return how many were moved, and those whose destination is no list."""
    if not moves:
        return 0, []
    arguments: list[bytes | str] = [push]
    for move in moves:
        arguments += [move.recorded.token, move.payload]
    answer = broker.client.register_script(MOVE)(
        keys=[unacked, *(as_bytes(move.destination) for move in moves)], args=arguments
    )
    return int(answer[0]), [moves[number - 1] for number in answer[1:]]


def _put_aside(unacked: bytes, recorded: Recorded) -> int:
    """Move a message whose list is none to the dead letters; return whether that succeeded."""
    letter, broker = recorded.letter("its list is a key of another type"), recorded.broker
    for queue in (without_step(letter.queue, broker.separator), UNKNOWN):
        done, refused = _push(broker, unacked, "LPUSH", [recorded.aside(letter, queue)])
        if not refused:
            return done
    return 0


def _move(recorded: Recorded, *, died: str | None, max_redeliveries: int) -> Move:
    """Return where a recorded message goes, and in what form."""
    source, raw = parse_record(recorded.record)
    payload, redeliveries = marked(raw, counted=died is not None)
    if source and (died is None or (redeliveries is not None and redeliveries <= max_redeliveries)):
        return Move(recorded, source, payload)
    # Nor does what cannot be counted go back after a death: it would come back forever.
    letter = recorded.letter(died or "its record names no list", max(0, (redeliveries or 0) - 1))
    queue = without_step(letter.queue, recorded.broker.separator)
    task, name = as_text(letter.task, 500), as_text(letter.queue)
    logger.error("Dead letter: %s of queue %s: %s", task, name, as_text(letter.reason))
    return recorded.aside(letter, queue)


def without_step(name: str, separator: str) -> str:
    """Return the queue of a list: its name without a priority step."""
    queue, found, step = name.rpartition(separator) if separator else (name, "", "")
    return queue if found and step.isdecimal() else name


def in_chunks(tokens: list[bytes]) -> Iterator[list[bytes]]:
    """Yield the tokens in lists that one step can move without holding the server up."""
    for first in range(0, len(tokens), CHUNK):
        yield tokens[first : first + CHUNK]


def recover(
    broker: Broker,
    worker_id: str,
    *,
    limit: int | None = None,
    certain: bool = False,
    max_redeliveries: int = MAX_REDELIVERIES,
) -> int | None:
    """Give back what a dead worker held, and forget the worker once that is all.

    Args:
        broker: The broker.
        worker_id: The worker.
        limit: How many messages to give back at most, for those who have other duties; the rest is left for
            the next call.
        certain: Whether the caller has seen the worker's processes end: then its lease ends as well.
        max_redeliveries: How often a message may come back before it goes to the dead letters.

    Returns:
        How many messages this call moved, or nothing if the worker's lease lives.

    Raises:
        redis.RedisError: The server cannot be reached, or refuses.
    """
    keys = broker.keys
    begin = broker.client.register_script(BEGIN)
    if not begin(
        keys=[as_bytes(keys.worker(worker_id)), as_bytes(keys.rescued(worker_id))], args=[DAY, int(certain)]
    ):
        return None
    tokens = sorted(broker.client.hkeys(as_bytes(keys.unacked(worker_id))), reverse=True)
    moved = give_back(
        broker, worker_id, tokens[:limit], died="its worker died", max_redeliveries=max_redeliveries
    )
    forget(broker, worker_id)
    if tokens:
        seen = "its processes are gone" if certain else "its lease has run out"
        logger.warning("Recovered %d messages of the dead worker %s: %s", moved, as_text(worker_id), seen)
    return moved


def recover_each(broker: Broker, worker_ids: Iterable[str], limit: int | None = None) -> int:
    """Give back what several workers held, one after the other; see :func:`recover`.

    One that cannot be rescued is named, and keeps no other from being rescued.

    Returns:
        How many messages this call moved.

    Raises:
        redis.RedisError: The server cannot be reached, or refuses commands for now.
    """
    moved = 0
    for worker_id in worker_ids:
        try:
            moved += recover(broker, worker_id, limit=limit) or 0
        except Exception as error:
            if isinstance(error, AWAY) or is_refusal(error):
                raise
            say_stuck(worker_id, error)
    return moved


def say_stuck(worker_id: str, error: Exception) -> None:
    """Log that a worker cannot be rescued, not at each try."""
    now = time.monotonic()
    if now - _said.get(worker_id, -SAY_AGAIN) >= SAY_AGAIN:
        if len(_said) > CHUNK:
            _said.clear()
        _said[worker_id] = now
        what = "%s" if isinstance(error, ResponseError) else "%r"
        logger.error("The messages of %s cannot be given back: " + what, as_text(worker_id), error)


def forget(broker: Broker, worker_id: str) -> bool:
    """Remove the keys of a worker that has ended, unless it holds something; return whether that is so."""
    keys = broker.keys
    step = broker.client.register_script(FORGET)
    return bool(
        step(
            keys=[
                as_bytes(keys.unacked(worker_id)),
                keys.workers,
                as_bytes(keys.worker(worker_id)),
                keys.drain,
            ],
            args=[as_bytes(worker_id), as_bytes(worker_name(worker_id))],
        )
    )
