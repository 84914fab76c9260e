"""Tasks that failed for good, as workers record them: each kind with its counts, and single failures.

A kind is a task, the type of its exception, and the function that raised it; the line is not a part of it,
for it moves with every release. Counts are exact: workers count each failure. Of failures in quick succession
only some are recorded one by one, so that a task that always fails neither slows its worker down nor fills
Redis.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Self, TypeVar

from celery_autoscaler.protocol.broker import Client
from celery_autoscaler.protocol.document import Document, Trouble
from celery_autoscaler.protocol.keys import Keys
from celery_autoscaler.protocol.reading import Refusal, UnreadableError, read_mapping, shown
from celery_autoscaler.protocol.script import script

VERSION = 1
# Seconds for which failures are kept: a long weekend.
KEPT_SECONDS = 3 * 86_400
# Seconds that are counted together: how exactly it is known how many failures are how old.
SLOT_SECONDS = 600
# Kinds that are kept, those that occurred last.
MOST_KINDS = 100
# Bytes of the single failures of a project; the oldest are dropped.
MOST_BYTES = 16 * 2**20
# Bytes of a message beyond which it is not kept, and characters of what is kept of a failure.
MESSAGE_BYTES = 32 * 2**10
TRACEBACK_CHARACTERS, ARGUMENTS_CHARACTERS, TEXT_CHARACTERS = 4000, 1000, 500
# Stands in for the place of kinds of which a worker has too many.
OTHERS = "(others)"

RECORD = script("protocol", "record_failures")


@dataclass(frozen=True)
class Kind:
    """What failures have in common."""

    task: str
    exception: str
    """Its type, with its module unless Python has it built in."""
    file: str = ""
    """Where it was raised, from the first package on; nothing if no code of the app's did it."""
    function: str = ""

    @property
    def id(self) -> str:
        """A short name, the same in all releases."""
        return blake2b("\n".join(vars(self).values()).encode("utf-8", "replace"), digest_size=4).hexdigest()


@dataclass(frozen=True)
class Failure(Document):
    """A task that failed for good."""

    task: str = ""
    exception: str = ""
    file: str = ""
    line: int = 0
    function: str = ""
    text: str = ""
    """What the exception says, without secrets."""
    id: str = ""
    queue: str = ""
    worker: str = ""
    release: str = ""
    at: float = 0.0
    """Seconds of the epoch, by the worker's clock."""
    retries: int = 0
    arguments: str = ""
    """As Celery shows them, without secrets."""
    traceback: str = ""
    """Without secrets; of a long one the beginning and the end. Not each one of many at once has it."""
    version: int = VERSION

    @property
    def place(self) -> str:
        """File and line; nothing if no code of the app's raised it."""
        return f"{self.file}:{self.line}" if self.file else ""

    @classmethod
    def load(cls, text: bytes | str | None) -> "Self | Refusal":
        """Read a failure."""
        return _loaded(cls, "failure", text)


@dataclass(frozen=True)
class KindSeen(Document):
    """How often a kind of failure occurred."""

    first: float = 0.0
    last: float = 0.0
    """Seconds of the epoch, by the server's clock."""
    release: str = ""
    """The release of the worker that met it first."""
    total: int = 0
    """Since it occurred first."""
    counts: Mapping[str, int] = field(default_factory=dict)
    """By the number of the ten minutes since the epoch."""

    @classmethod
    def load(cls, text: bytes | str | None) -> "Self | Refusal":
        """Read what is known of a kind."""
        return _loaded(cls, "kind of failure", text)

    def since(self, when: float) -> int:
        """Return how often it occurred since a time, in seconds of the epoch, to ten minutes."""
        if self.first >= when:
            return self.total
        first = int(when // SLOT_SECONDS)
        return sum(count for slot, count in self.counts.items() if slot.isdecimal() and int(slot) >= first)


D = TypeVar("D", bound=Document)


def _loaded(kind: type[D], name: str, text: bytes | str | None) -> D | Refusal:
    try:
        return kind.read(read_mapping(text), Trouble())
    except UnreadableError as error:
        return Refusal(name, shown(text), str(error))


@dataclass(frozen=True)
class Report:
    """What a worker has to tell of failures."""

    number: int
    """Tells it from the other reports of the worker: one that is sent twice counts once."""
    release: str
    counts: Mapping[str, int]
    """By the id of the kind."""
    examples: Mapping[str, Failure]
    """The last failure of each kind, by its id."""
    failures: Sequence[tuple[str, Failure, bytes]]
    """Single failures, each with the id of its kind and the message; nothing for one that is not kept."""

    def send(self, client: Client, keys: Keys, worker_id: str) -> None:
        """Record it.

        Raises:
            redis.RedisError: The server does not answer, or is full.
        """
        limits = {
            "slot": SLOT_SECONDS,
            "kept": KEPT_SECONDS,
            "kinds": MOST_KINDS,
            "bytes": MOST_BYTES,
            "trimmed": 1000 + len(self.failures),
        }
        arguments: list[Any] = [self.number, json.dumps(limits), len(self.counts)]
        for kind, count in self.counts.items():
            arguments += [kind, count, self.release, self.examples[kind].dump()]
        for kind, failure, message in self.failures:
            arguments += [kind, failure.dump(), message]
        client.register_script(RECORD)(
            keys=[keys.failures, keys.failure_kinds, keys.failure_examples, keys.worker(worker_id)],
            args=arguments,
        )
