"""What became of the tasks of a host, for each ten minutes of the last day: counts and histograms.

Each supervisor writes those of its host into one hash of Redis, and drops what is too old, of any host.
"""

from copy import deepcopy
from typing import Any

from celery_autoscaler.protocol.broker import Broker
from celery_autoscaler.protocol.reading import Refusal, UnreadableError, decoded
from celery_autoscaler.protocol.tallies import Tallies, Tally
from celery_autoscaler.protocol.wrong_types import replies_of, set_aside

KIND = "task history"
SLOT_SECONDS = 600
SLOTS = 24 * 3600 // SLOT_SECONDS
# Fields that are read at once.
CHUNK = 100


class TaskHistory:
    """The current ten minutes of a host."""

    def __init__(self) -> None:
        self._slot = -1
        self._written = ""
        self._before = Tallies()
        """What a former supervisor counted in these ten minutes."""
        self._begin = Tallies()
        """What was counted when they began."""

    def update(self, broker: Broker, host: str, now: float, tallies: Tallies) -> list[Refusal]:
        """Write down what was counted, if it has changed; return what had to be set aside.

        Args:
            broker: The broker.
            host: The host.
            now: Seconds of the epoch.
            tallies: All that has been counted since the start; they only grow.

        Raises:
            redis.RedisError: The server does not answer.
        """
        slot, key = int(now // SLOT_SECONDS), broker.keys.task_history
        with broker.client.pipeline(transaction=False) as pipe:
            if self._slot >= 0:
                self._write(pipe, key, host, tallies)
            if slot != self._slot:
                pipe.hget(key, field(host, slot))
                pipe.hkeys(key)
            replies = replies_of(pipe) if pipe.command_stack else []
        if any(isinstance(reply, Exception) for reply in replies):
            return [set_aside(broker.client, broker.keys, key)]
        if slot != self._slot:
            *_, found, fields = replies
            # In the slot that begins while a supervisor runs nobody else has counted.
            self._before = read_tallies(found) if self._slot < 0 else Tallies()
            self._begin, self._slot, self._written = deepcopy(tallies), slot, ""
            if old := [name for name in fields if slot_of(name) <= slot - SLOTS]:
                broker.client.hdel(key, *old)
        return []

    def _write(self, pipe: Any, key: str, host: str, tallies: Tallies) -> None:
        found = deepcopy(self._before)
        for kind, tally in tallies.items():
            begin = self._begin.get(kind) or Tally()
            if tally != begin:
                found.of(kind).add(tally, begin)
        text = found.dump()
        if found and text != self._written:
            pipe.hset(key, field(host, self._slot), text)
            pipe.expire(key, (SLOTS + 1) * SLOT_SECONDS)
            self._written = text


def field(host: str, slot: int) -> str:
    """Return where the tasks of a host in a slot are."""
    return f"{host}:{slot}"


def slot_of(name: bytes) -> int:
    """Return the slot of a field; of what is none, before all."""
    number = decoded(name).rpartition(":")[2]
    return int(number) if number.isascii() and number.isdigit() and len(number) < 12 else -1


def read_tallies(text: bytes | None) -> Tallies:
    """Return what was written; nothing of what cannot be read."""
    try:
        return Tallies.load(text) if text is not None else Tallies()
    except UnreadableError:
        return Tallies()


def read(broker: Broker, seconds: float) -> tuple[Tallies, float]:
    """Return the tasks of all hosts in the last seconds, and how many seconds that really are.

    Whole slots are counted, from the first that is there.

    Raises:
        redis.RedisError: The server does not answer, or the key holds something else.
    """
    key, now = broker.keys.task_history, float(broker.client.time()[0])
    first = int((now - seconds) // SLOT_SECONDS)
    chosen = [name for name in broker.client.hkeys(key) if slot_of(name) >= first]
    found = Tallies()
    for at in range(0, len(chosen), CHUNK):
        for text in broker.client.hmget(key, chosen[at : at + CHUNK]):
            for kind, tally in read_tallies(text).items():
                # Not `of`: the tasks of all hosts may be more than those of one.
                found.setdefault(kind, Tally()).add(tally, Tally())
    begin = min(map(slot_of, chosen), default=first) * SLOT_SECONDS
    return found, max(1.0, now - begin)
