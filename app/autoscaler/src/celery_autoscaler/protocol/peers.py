"""The supervisors of a fleet, as their heartbeats show them to each other."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from celery_autoscaler.protocol.reading import (
    MOST_WORKERS,
    Refusal,
    UnreadableError,
    read_mapping,
    read_number,
    read_text,
    read_whole,
)

KIND = "supervisor"
# Bounds of the share that a host offers.
LEAST_WEIGHT, MOST_WEIGHT = 1e-3, 1e6


@dataclass(frozen=True)
class PeerSeen:
    """A supervisor, as its heartbeat shows it."""

    host: str
    weight: float
    limits: Mapping[str, int | None]
    """For each group that it serves the most workers that it can run now, if it is short of something."""

    def dump(self) -> dict[str, Any]:
        """Return the fields of its hash; the status beside them has the version."""
        return {"weight": self.weight, "limits": json.dumps(self.limits)}

    @classmethod
    def load(cls, host: str, offer: Sequence[Any] | Exception) -> "PeerSeen | Refusal | None":
        """Read what a supervisor offers, its weight and its limits; nothing if it has just left."""
        if isinstance(offer, Exception):
            return Refusal(KIND, host, str(offer))
        weight, limits = offer
        if weight is None or limits is None:
            return None
        try:
            return cls(
                host,
                read_number(weight, LEAST_WEIGHT, MOST_WEIGHT),
                {
                    read_text(group): None if most is None else read_whole(most, 0, MOST_WORKERS)
                    for group, most in read_mapping(limits).items()
                },
            )
        except UnreadableError as error:
            return Refusal(KIND, host, str(error))
