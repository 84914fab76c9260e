"""A dead letter: a message that was put aside, with the circumstances, as one JSON text in a list."""

import json
from dataclasses import dataclass, field
from typing import Any, Self

from celery_autoscaler.protocol.keys import as_bytes, as_name

# 1: release 0.1, which wrote no version.
VERSION = 2


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
    version: int = field(default=VERSION, compare=False)

    def dump(self) -> bytes:
        """Return it as it stands in Redis."""
        return json.dumps(vars(self)).encode()

    @classmethod
    def load(cls, text: bytes) -> "DeadLetter":
        """Read the value in Redis, whatever it is: what is no dead letter is an `UnreadableDeadLetter`.

        Fields that another release added are ignored; of those that it lacks the message and its list must
        be there.
        """
        try:
            found: Any = json.loads(text.decode())
            # What cannot be sent to Redis cannot be sent again.
            for name in ("message", "queue"):
                as_bytes(found[name])
            count, version = found.get("redeliveries", 0), found.get("version", 1)
            texts = {
                name: str(found.get(name, "")) for name in ("queue", "when", "reason", "worker", "message")
            }
            return cls(
                **texts,
                redeliveries=count if type(count) is int else 0,
                version=version if type(version) is int else 1,
            )
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return UnreadableDeadLetter.of(text)

    @property
    def headers(self) -> dict[str, Any]:
        """The message's headers; none where it has none, or is no message."""
        try:
            headers = json.loads(self.message)["headers"]
        except (ValueError, LookupError, TypeError, RecursionError):
            return {}
        return headers if isinstance(headers, dict) else {}

    @property
    def task(self) -> str:
        """Name and id of the task, as far as the message names them."""
        headers = self.headers
        return f"{headers.get('task', '?')}[{headers.get('id', '?')}]" if headers else "?"


class UnreadableDeadLetter(DeadLetter):
    """An entry of the dead letters that is not this release's: it can be looked at and deleted."""

    @classmethod
    def of(cls, text: bytes) -> Self:
        """Return it for a text."""
        reason = "unreadable: no dead letter of this release"
        return cls(queue="?", when="?", reason=reason, worker="?", redeliveries=0, message=as_name(text))
