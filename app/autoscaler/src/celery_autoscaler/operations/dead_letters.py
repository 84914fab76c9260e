"""The dead letters: messages that came back too often, until somebody looks at them."""

import logging
from collections.abc import Iterator

from redis.exceptions import ResponseError

from celery_autoscaler.protocol.broker import Broker
from celery_autoscaler.protocol.dead_letter import DeadLetter, UnreadableDeadLetter
from celery_autoscaler.protocol.keys import as_bytes, as_name
from celery_autoscaler.protocol.marks import unmarked
from celery_autoscaler.protocol.script import script
from celery_autoscaler.protocol.server_state import is_refusal
from celery_autoscaler.protocol.text import as_text

logger = logging.getLogger(__name__)

REPLAY = script("protocol", "replay")


def queues(broker: Broker) -> list[str]:
    """Return the queues that have dead letters."""
    prefix = broker.keys.dead_letter("")
    found = broker.client.scan_iter(match=f"{prefix}*", count=1000)
    return sorted(as_name(key).removeprefix(prefix) for key in found)


def dead_letters(broker: Broker, queue: str) -> Iterator[tuple[bytes, DeadLetter]]:
    """Yield the dead letters of a queue, the newest first, each with its text in Redis."""
    for text in broker.client.lrange(as_bytes(broker.keys.dead_letter(queue)), 0, -1):
        yield text, DeadLetter.load(text)


def newest(broker: Broker, queue: str, count: int) -> list[DeadLetter]:
    """Return the newest dead letters of a queue, up to a number."""
    texts = broker.client.lrange(as_bytes(broker.keys.dead_letter(queue)), 0, count - 1)
    return [DeadLetter.load(text) for text in texts]


def arguments(letter: DeadLetter) -> str:
    """Return the arguments of a dead letter's task as its producer wrote them down, as far as it did."""
    headers = letter.headers
    return f"{headers.get('argsrepr', '')} {headers.get('kwargsrepr', '')}".strip()


def replay(broker: Broker, queue: str) -> int:
    """Send the dead letters of a queue to their lists again, as if they had never come back.

    What is unreadable, or has no list to go back to, stays.

    Returns:
        How many were sent.
    """
    step = broker.client.register_script(REPLAY)
    key, sent = as_bytes(broker.keys.dead_letter(queue)), 0
    for text, letter in list(dead_letters(broker, queue)):
        if not isinstance(letter, UnreadableDeadLetter) and letter.queue:
            source = as_bytes(f"{broker.keys.prefix}{letter.queue}")
            try:
                sent += int(step(keys=[key, source], args=[text, unmarked(as_bytes(letter.message))]))
            except ResponseError as error:
                if is_refusal(error):
                    raise
                logger.warning("A dead letter cannot be sent to %s again: %s", as_text(letter.queue), error)
    return sent


def purge(broker: Broker, queue: str) -> int:
    """Delete the dead letters of a queue; return how many there were."""
    key = as_bytes(broker.keys.dead_letter(queue))
    with broker.client.pipeline() as pipe:
        count, _ = pipe.llen(key).delete(key).execute()
    return int(count)
