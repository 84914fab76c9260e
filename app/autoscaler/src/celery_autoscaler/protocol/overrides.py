"""What operators set for a group while the supervisors run: a pause, other bounds.

What lasts until it is taken back is a field of one hash. What ends by itself is a key that Redis deletes, one
for a pause and one for bounds.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from celery_autoscaler.protocol.former import renamed
from celery_autoscaler.protocol.reading import (
    LARGEST,
    MOST_WORKERS,
    Refusal,
    UnreadableError,
    read_mapping,
    read_number,
    read_text,
    read_whole,
    shown,
)
from celery_autoscaler.protocol.spans import span_words

# The group that stands for all.
ALL = "*"
KIND = "override"
# 1: release 0.1, which wrote no version.
VERSION = 2
MOST_VERSION = 1_000_000


@dataclass(frozen=True)
class Origin:
    """Who set something, why, and from when to when, in seconds of the epoch by Redis' clock."""

    by: str = ""
    because: str = ""
    since: float = 0.0
    until: float = 0.0
    """0: until it is taken back."""
    left: float = field(default=0.0, compare=False)
    """Seconds until then, when it was read."""

    @property
    def words(self) -> str:
        """Who set it, for how long it still holds, and why."""
        by = f" by {self.by}" if self.by else ""
        time = f" for {span_words(self.left, 'more')}" if self.until else ""
        return by + time + (f": {self.because}" if self.because else "")

    def as_dict(self) -> dict[str, str | float]:
        """Return what is known of it, for JSON."""
        return {name: value for name, value in vars(self).items() if value and name != "left"}


@dataclass(frozen=True)
class Override:
    """What an operator has set for a group."""

    paused: bool = False
    min_workers: int | None = None
    max_workers: int | None = None
    by: str = ""
    """Who set anything last; all that the release before knows of it."""
    pause: Origin = field(default_factory=Origin)
    scale: Origin = field(default_factory=Origin)
    version: int = field(default=VERSION, compare=False)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is set."""
        return not self.paused and not self.has_bounds

    @property
    def has_bounds(self) -> bool:
        """Whether a bound is set."""
        return self.min_workers is not None or self.max_workers is not None

    @property
    def pause_words(self) -> str:
        """That it is paused, who did so, for how long and why."""
        return f"paused{(self.pause if self.pause.by else Origin(self.by)).words}"

    @property
    def bounds_words(self) -> str:
        """Which bounds are set, who did so, for how long and why; nothing if none are."""
        bounds = {"min_workers": self.min_workers, "max_workers": self.max_workers}
        found = ", ".join(f"{name} {value}" for name, value in bounds.items() if value is not None)
        return f"{found} set{(self.scale if self.scale.by else Origin(self.by)).words}" if found else ""

    def without_pause(self) -> "Override":
        """Return the bounds alone."""
        return replace(self, paused=False, pause=Origin())

    def without_bounds(self) -> "Override":
        """Return the pause alone."""
        return replace(self, min_workers=None, max_workers=None, scale=Origin())

    def with_parts(self, pause: "Override | None", bounds: "Override | None") -> "Override":
        """Return what holds, given what holds for a while: it comes before what lasts."""
        found = self
        if pause is not None and pause.paused:
            found = replace(found, paused=True, pause=pause.pause, by=pause.by)
        if bounds is not None and bounds.has_bounds:
            low, high = bounds.min_workers, bounds.max_workers
            found = replace(found, min_workers=low, max_workers=high, scale=bounds.scale, by=bounds.by)
        return found

    def dump(self) -> str:
        """Return the JSON that stands for it in Redis: what is not set is left out."""
        # A bound of 0 is one.
        origins = {"pause": self.pause.as_dict(), "scale": self.scale.as_dict()}
        plain = {name: value for name, value in vars(self).items() if name not in origins}
        found = {name: value for name, value in plain.items() if value is not None and value is not False}
        return json.dumps(found | {name: origin for name, origin in origins.items() if origin})

    @classmethod
    def load(cls, group: str, value: Any, now: float = 0.0) -> "Override | Refusal":
        """Read what is set for a group; a value that is not allowed makes all of it be ignored.

        Args:
            group: The group.
            value: The JSON.
            now: Redis' time; what has ended by then is not set.
        """
        try:
            return _override(renamed(read_mapping(value)), now)
        except UnreadableError as error:
            return Refusal(KIND, group, str(error))


def _override(found: Mapping[str, Any], now: float) -> Override:
    low, high = _bound(found, "min_workers"), _bound(found, "max_workers")
    if low is not None and high is not None and low > high:
        raise UnreadableError(f"min_workers {low} is more than max_workers {high}")
    paused = found.get("paused", False)
    if not isinstance(paused, bool):
        raise UnreadableError(f"paused {shown(paused)} is neither true nor false")
    version = read_whole(found.get("version", 1), 0, MOST_VERSION)
    by = read_text(found.get("by", ""))
    pause, scale = _origin(found, "pause", now), _origin(found, "scale", now)
    read = Override(paused, low, high, by, pause, scale, version)
    if pause.until and pause.left <= 0:
        read = read.without_pause()
    return read.without_bounds() if scale.until and scale.left <= 0 else read


def _origin(found: Mapping[str, Any], name: str, now: float) -> Origin:
    """Read who set a part, why and for how long."""
    part = found.get(name, {})
    if not isinstance(part, dict):
        raise UnreadableError(f"{name} {shown(part)} is no object of JSON")
    try:
        since, until = (read_number(part.get(end, 0), 0, LARGEST) for end in ("since", "until"))
        by, because = (read_text(part.get(text, "")) for text in ("by", "because"))
    except UnreadableError as error:
        raise UnreadableError(f"{name}: {error}") from error
    return Origin(by, because, since, until, until - now if until else 0.0)


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
