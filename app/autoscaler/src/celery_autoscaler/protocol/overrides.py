"""What operators set for a group while the supervisors run: a pause, other bounds."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from celery_autoscaler.protocol.former import renamed
from celery_autoscaler.protocol.reading import (
    MOST_WORKERS,
    Refusal,
    UnreadableError,
    read_mapping,
    read_text,
    read_whole,
    shown,
)

# The group that stands for all.
ALL = "*"
KIND = "override"
# 1: release 0.1, which wrote no version.
VERSION = 2
MOST_VERSION = 1_000_000


@dataclass(frozen=True)
class Override:
    """What an operator has set for a group."""

    paused: bool = False
    min_workers: int | None = None
    max_workers: int | None = None
    by: str = ""
    version: int = field(default=VERSION, compare=False)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is set."""
        return not self.paused and self.min_workers is None and self.max_workers is None

    def dump(self) -> str:
        """Return the JSON that stands for it in Redis: what is not set is left out."""
        # A bound of 0 is one.
        return json.dumps(
            {name: value for name, value in vars(self).items() if value is not None and value is not False}
        )

    @classmethod
    def load(cls, group: str, value: Any) -> "Override | Refusal":
        """Read what is set for a group; a value that is not allowed makes all of it be ignored."""
        try:
            return _override(renamed(read_mapping(value)))
        except UnreadableError as error:
            return Refusal(KIND, group, str(error))


def _override(found: Mapping[str, Any]) -> Override:
    low, high = _bound(found, "min_workers"), _bound(found, "max_workers")
    if low is not None and high is not None and low > high:
        raise UnreadableError(f"min_workers {low} is more than max_workers {high}")
    paused = found.get("paused", False)
    if not isinstance(paused, bool):
        raise UnreadableError(f"paused {shown(paused)} is neither true nor false")
    version = read_whole(found.get("version", 1), 0, MOST_VERSION)
    return Override(paused, low, high, read_text(found.get("by", "")), version)


def _bound(found: Mapping[str, Any], name: str) -> int | None:
    """Return a bound that is set, or nothing."""
    value = found.get(name)
    if value is None:
        return None
    if isinstance(value, str):
        raise UnreadableError(f"{name}: {shown(value)} is no whole number")
    try:
        return read_whole(value, 0, MOST_WORKERS)
    except UnreadableError as error:
        raise UnreadableError(f"{name}: {error}") from error
