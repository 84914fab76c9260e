"""What operators set for a group while the supervisors run: a pause, other bounds."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from celery_autoscaler.protocol.former import renamed
from celery_autoscaler.protocol.readers import (
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


@dataclass(frozen=True)
class Override:
    """What an operator has set for a group."""

    paused: bool = False
    min_workers: int | None = None
    max_workers: int | None = None
    by: str = ""


def read_override(group: str, value: Any) -> Override | Refusal:
    """Return what an operator has set for a group; a value that is not allowed makes all of it be ignored."""
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
    return Override(paused, low, high, read_text(found.get("by", "")))


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
