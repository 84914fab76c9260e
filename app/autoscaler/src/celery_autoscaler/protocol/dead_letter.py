"""A dead letter: a message that was put aside, with the circumstances, as one JSON text in a list."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Self

from celery_autoscaler.protocol.keys import as_bytes, as_name


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

    def dump(self) -> bytes:
        """Return it as it stands in Redis."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def load(cls, text: bytes) -> "DeadLetter":
        """Read the value in Redis, whatever it is: a text that is no dead letter is an `UnreadableLetter`.

        Fields that another release added are ignored; of those that it lacks the message and its list must
        be there.
        """
        try:
            found: Any = json.loads(text.decode())
            known = {field.name: str(found.get(field.name, "")) for field in fields(cls)}
            # What cannot be sent to Redis cannot be sent again.
            for field in ("message", "queue"):
                as_bytes(found[field])
            count = found.get("redeliveries", 0)
            return cls(**known | {"redeliveries": count if type(count) is int else 0})  # type: ignore[arg-type]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            return UnreadableLetter.of(text)

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
        """Name and id of the task, as far as the message tells."""
        headers = self.headers
        return f"{headers.get('task', '?')}[{headers.get('id', '?')}]" if headers else "?"


class UnreadableLetter(DeadLetter):
    """An entry of the dead letters that is not this release's: it can be looked at and deleted."""

    @classmethod
    def of(cls, text: bytes) -> Self:
        """Return it for a text."""
        reason = "unreadable: no dead letter of this release"
        return cls(queue="?", when="?", reason=reason, worker="?", redeliveries=0, message=as_name(text))
