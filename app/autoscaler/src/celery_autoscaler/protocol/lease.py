"""Leases and claims: who is alive, or starts, until when. A sorted set holds each as a name and an end.

That has no room for a version: its form never changes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery_autoscaler.protocol.keys import Keys, as_name
from celery_autoscaler.protocol.reading import Refusal, UnreadableError, read_text, shown

# Seconds from now beyond which no lease and no claim can end.
LONGEST_SECONDS = 86_400.0


@dataclass(frozen=True)
class Lease:
    """That somebody is alive, or starts, until a time."""

    name: str
    """The id of a worker, the host of a supervisor, the name of a worker that starts."""
    end: float
    """In seconds of the epoch, by the server's clock."""

    def lives(self, now: float) -> bool:
        """Whether it has not ended."""
        return self.end > now

    def dump(self) -> dict[str, int]:
        """Return it as a member of a sorted set, with its score in milliseconds."""
        return {self.name: int(self.end * 1000)}

    @classmethod
    def load(
        cls, kind: str, member: bytes, score: float, now: float, read: Callable[[Any], str] = read_text
    ) -> "Lease | Refusal":
        """Read a member of a sorted set.

        Args:
            kind: Whose lease it is.
            member: The member.
            score: Its score.
            now: The server's time, in seconds of the epoch.
            read: Reads the name, or raises UnreadableError.
        """
        try:
            name = read(member)
        except UnreadableError as error:
            return Refusal(kind, shown(member), str(error))
        # Whatever is not less than a day ahead; what is no number is not.
        if not score / 1000 <= now + LONGEST_SECONDS:
            return Refusal(kind, shown(member), f"no lease ends at {score:g}")
        return cls(name, score / 1000)


def leased_workers(client: Any, keys: Keys) -> list[str]:
    """Return the ids of the workers that have a lease, or had one and were not given up.

    Whatever bytes an id has, it names the worker's keys.

    Raises:
        redis.RedisError: The server does not answer.
    """
    return [as_name(member) for member in client.zrange(keys.workers, 0, -1)]
