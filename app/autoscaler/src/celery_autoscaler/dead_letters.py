"""The dead letters: messages that came back too often, until somebody looks at them."""

import json
from collections.abc import Iterator
from typing import Any

from celery_autoscaler.broker import Broker
from celery_autoscaler.recovery import COUNT, DeadLetter

# KEYS: the dead letters, the list.  ARGV: the letter, its message.
# Invariant: a letter is replayed once, however many replay it.
REPLAY = """
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
redis.call('LPUSH', KEYS[2], ARGV[2])
return 1
"""


def queues(broker: Broker) -> list[str]:
    """Return the queues that have dead letters."""
    prefix = broker.keys.dead_letter("")
    found = broker.client.scan_iter(match=f"{prefix}*", count=1000)
    return sorted(key.decode().removeprefix(prefix) for key in found)


def letters(broker: Broker, queue: str) -> Iterator[tuple[bytes, DeadLetter]]:
    """Yield the dead letters of a queue, the newest first, each with its text in Redis."""
    for text in broker.client.lrange(broker.keys.dead_letter(queue), 0, -1):
        yield text, DeadLetter(**json.loads(text))


def newest(broker: Broker, queue: str, count: int) -> list[DeadLetter]:
    """Return the newest dead letters of a queue, so many at most."""
    texts = broker.client.lrange(broker.keys.dead_letter(queue), 0, count - 1)
    return [DeadLetter(**json.loads(text)) for text in texts]


def arguments(letter: DeadLetter) -> str:
    """Return the arguments of a dead letter's task as its producer wrote them down, as far as it did."""
    try:
        headers = json.loads(letter.message)["headers"]
        return f"{headers.get('argsrepr', '')} {headers.get('kwargsrepr', '')}".strip()
    except (ValueError, KeyError, TypeError, AttributeError):
        return ""


def replay(broker: Broker, queue: str) -> int:
    """Send the dead letters of a queue to their lists again, as if they had never come back.

    Returns:
        How many were sent.
    """
    step = broker.client.register_script(REPLAY)
    sent = 0
    for text, letter in list(letters(broker, queue)):
        source = f"{broker.keys.prefix}{letter.queue}"
        sent += int(
            step(keys=[broker.keys.dead_letter(queue), source], args=[text, uncounted(letter.message)])
        )
    return sent


def purge(broker: Broker, queue: str) -> int:
    """Delete the dead letters of a queue; return how many there were."""
    key = broker.keys.dead_letter(queue)
    with broker.client.pipeline() as pipe:
        count, _ = pipe.llen(key).delete(key).execute()
    return int(count)


def uncounted(message: str) -> str:
    """Return a message without the count of its redeliveries."""
    try:
        payload: dict[str, Any] = json.loads(message)
        payload["properties"]["delivery_info"].pop(COUNT, None)
    except (ValueError, KeyError, TypeError, AttributeError):
        return message
    return json.dumps(payload)
