"""Read hashes that others fill, without fetching what is too large to be one of the fleet's."""

from typing import Any

from celery_autoscaler.protocol.reading import MOST_JSON, Refusal, shown
from celery_autoscaler.protocol.script import script

# Fields beyond which a hash is not read at all.
MOST_FIELDS = 10_000

READ = script("protocol", "read_hash")


def read_bounded(pipe: Any, key: str) -> None:
    """Add the question for a hash to a pipeline."""
    pipe.eval(READ, 1, key, MOST_FIELDS, MOST_JSON)


def bounded_hash(kind: str, key: str, reply: Any) -> tuple[dict[bytes, bytes], list[Refusal]]:
    """Return the hash that a reply to :func:`read_bounded` holds, and what was too large."""
    if isinstance(reply, int):
        return {}, [Refusal(kind, key, f"it has more than {MOST_FIELDS} fields")]
    pairs = dict(zip(reply[::2], reply[1::2], strict=True))
    refused = [
        Refusal(kind, shown(name), f"it is longer than {MOST_JSON} bytes")
        for name, value in pairs.items()
        if value is None
    ]
    return {name: value for name, value in pairs.items() if value is not None}, refused
