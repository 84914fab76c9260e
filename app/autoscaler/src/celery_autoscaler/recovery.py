"""Give messages back: those of a dead worker, and those that a living one cannot run.

A worker records each message in its own hash in the same step that takes it from its list (see
:mod:`celery_autoscaler.channel`), so giving back is: read the record, mark the message, move it. Each move is
one Lua step that acts only if the record is still there; any number of processes may try at once, and each
message goes back once.
"""

import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from celery_autoscaler.keys import Keys, worker_name

logger = logging.getLogger(__name__)

# A redis.Redis that adds no prefix of its own and decodes no reply. Its own types are unions of all replies.
Client = Any

# A message that comes back more often than this is put aside.
MAX_REDELIVERIES = 3
CHUNK = 500
DAY = 86_400

# The counter beside kombu's own mark `redelivered`.
COUNT = "redelivery_count"

# KEYS: the worker's hash, its fence.  ARGV: seconds for which the fence stands, whether its death is certain.
# Invariant: nobody is rescued while his lease lives, and whoever is being rescued can never renew it.
BEGIN = """
if ARGV[2] == '1' then redis.call('DEL', KEYS[1]) end
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
redis.call('SET', KEYS[2], '1', 'EX', ARGV[1])
return 1
"""

# KEYS: the record, the destinations.  ARGV: `LPUSH` or `RPUSH`, then for each message its token, its payload.
# Invariant: a message is in the record or in a list, never in neither and never in both. It is pushed first:
# a full server refuses that, and then the record stays as it is.
MOVE = """
local moved = 0
for i = 2, #KEYS do
    local token, payload = ARGV[2 * i - 2], ARGV[2 * i - 1]
    if redis.call('HEXISTS', KEYS[1], token) == 1 then
        redis.call(ARGV[1], KEYS[i], payload)
        redis.call('HDEL', KEYS[1], token)
        moved = moved + 1
    end
end
return moved
"""


@dataclass(frozen=True)
class DeadLetter:
    """A message that was put aside, with the circumstances."""

    queue: str
    """The list from which it came: the queue, with its priority step where that is not the first."""
    when: str
    """Time in UTC, ISO 8601."""
    reason: str
    worker: str
    """The worker, ``name@host``, that held it last."""
    redeliveries: int
    message: str
    """The message as it stood in the list."""

    @property
    def task(self) -> str:
        """Name and id of the task, as far as the message tells."""
        try:
            headers = json.loads(self.message)["headers"]
        except (ValueError, KeyError, TypeError):
            return "?"
        return f"{headers.get('task', '?')}[{headers.get('id', '?')}]"


def give_back(
    client: Client,
    keys: Keys,
    worker_id: str,
    tokens: Iterable[str],
    *,
    separator: str,
    end: Literal["next", "last"] = "next",
    died: str | None = None,
    max_redeliveries: int = MAX_REDELIVERIES,
) -> int:
    """Put recorded messages back into the lists from which they came.

    Args:
        client: A connection to the broker.
        keys: The fleet's keys.
        worker_id: Whose record holds them.
        tokens: Which messages; they come back in the order in which they were taken.
        separator: What stands between a queue and its priority step in the name of a list.
        end: Whether they are the next to be taken, or the last.
        died: Why they were not finished; such a message is counted, and put into the dead letters when that
            has happened more than ``max_redeliveries`` times. Nothing for messages that nobody began.
        max_redeliveries: How often a message may come back.

    Returns:
        How many messages this call moved; others may have moved the rest.

    Raises:
        redis.RedisError: The server cannot be reached or is full; what was not moved stays recorded.
    """
    push = "RPUSH" if end == "next" else "LPUSH"
    move = client.register_script(MOVE)
    unacked = keys.unacked(worker_id)
    moved = 0
    # Pushed one after the other, the last one pushed at the next end is taken first.
    for chunk in batched_tokens(sorted(tokens, reverse=end == "next")):
        destinations, arguments = [unacked], [push]
        for token, record in zip(chunk, client.hmget(unacked, chunk), strict=True):
            if record is not None:
                source, _, raw = record.decode().partition("\n")
                payload, redeliveries = marked(raw, counted=died is not None)
                if redeliveries > max_redeliveries:
                    queue = keys.without_prefix(source)
                    letter = DeadLetter(
                        queue=queue,
                        when=datetime.now(UTC).isoformat(timespec="seconds"),
                        reason=died or "",
                        worker=worker_name(worker_id),
                        redeliveries=redeliveries - 1,
                        message=raw,
                    )
                    source = keys.dead_letter(queue.partition(separator)[0])
                    payload = json.dumps(asdict(letter))
                    logger.error("Dead letter: %s of queue %s: %s", letter.task, queue, died)
                destinations.append(source)
                arguments += [token, payload]
        if len(destinations) > 1:
            moved += int(move(keys=destinations, args=arguments))
    return moved


def batched_tokens(tokens: Iterable[str]) -> Iterator[list[str]]:
    """Yield the tokens in lists that one step can move without holding the server up."""
    remaining = list(tokens)
    while remaining:
        yield remaining[:CHUNK]
        remaining = remaining[CHUNK:]


def marked(raw: str, *, counted: bool) -> tuple[str, int]:
    """Return a message marked as redelivered, and how often it has come back from a death.

    Whatever is no message of kombu's is returned as it is.
    """
    try:
        payload: dict[str, Any] = json.loads(raw)
        info = payload["properties"]["delivery_info"]
        payload["headers"]["redelivered"] = info["redelivered"] = True
    except (ValueError, KeyError, TypeError):
        return raw, 0
    if counted:
        info[COUNT] = info.get(COUNT, 0) + 1
        return json.dumps(payload), info[COUNT]
    return json.dumps(payload), 0


def recover(
    client: Client,
    keys: Keys,
    worker_id: str,
    *,
    separator: str,
    limit: int | None = None,
    certain: bool = False,
    max_redeliveries: int = MAX_REDELIVERIES,
) -> int | None:
    """Give back what a dead worker held, and forget the worker once that is all.

    Args:
        client: A connection to the broker.
        keys: The fleet's keys.
        worker_id: The worker.
        separator: What stands between a queue and its priority step in the name of a list.
        limit: How many messages to give back at most, for those who have other duties; the rest is left for
            the next call.
        certain: Whether the caller has seen the worker's processes end: then its lease ends as well.
        max_redeliveries: How often a message may come back before it goes to the dead letters.

    Returns:
        How many messages this call moved, or nothing if the worker's lease lives.
    """
    begin = client.register_script(BEGIN)
    if not begin(keys=[keys.worker(worker_id), keys.rescued(worker_id)], args=[DAY, int(certain)]):
        return None
    tokens = sorted((token.decode() for token in client.hkeys(keys.unacked(worker_id))), reverse=True)
    moved = give_back(
        client,
        keys,
        worker_id,
        tokens[:limit],
        separator=separator,
        died="its worker died",
        max_redeliveries=max_redeliveries,
    )
    if len(tokens[:limit]) == len(tokens):
        forget(client, keys, worker_id)
    if tokens:
        seen = "its processes are gone" if certain else "its lease has run out"
        logger.warning("Recovered %d messages of the dead worker %s: %s", moved, worker_id, seen)
    return moved


def forget(client: Client, keys: Keys, worker_id: str) -> None:
    """Remove the keys of a worker that has ended and holds nothing."""
    with client.pipeline() as pipe:
        pipe.zrem(keys.workers, worker_id)
        pipe.delete(keys.worker(worker_id))
        pipe.srem(keys.drain, worker_name(worker_id))
        pipe.execute()
