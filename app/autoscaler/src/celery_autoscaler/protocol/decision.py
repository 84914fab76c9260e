"""A decision as it is written down: an entry of a stream of Redis, for people and for the page."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from celery_autoscaler.protocol.former import FORMER_NAMES
from celery_autoscaler.protocol.reading import (
    Refusal,
    UnreadableError,
    decoded,
    first_number,
    read_mapping,
)

KIND = "decision"
# 1: release 0.1, which wrote no version.
VERSION = 2
# Seconds of the epoch of the first year that has more than four digits: no date can show it.
END_OF_DATES = 2.5e11


@dataclass(frozen=True)
class DecisionRecord:
    """What a supervisor decided for a group, or what an operator wanted of it."""

    at: float
    """Seconds of the epoch."""
    group: str
    """``*`` for all groups."""
    host: str = ""
    have: int = 0
    want: int = 0
    here: int = 0
    """Workers that the host started, or stopped (negative)."""
    have_slots: int = 0
    """Slots of the workers that consume, where workers stretch."""
    want_slots: int = 0
    children: int = 0
    """Slots that the host's workers add, or give up (negative)."""
    reason: str = ""
    limit: str = ""
    """What kept the number from being another one, in a word."""
    held_back: str = ""
    """What kept the host from doing all, in words."""
    emergency: bool = False
    seen: Mapping[str, Any] = field(default_factory=dict)
    """What was seen of the group."""
    by: str = ""
    """The operator who requested it; empty for a supervisor's own decision."""
    version: int = VERSION

    @property
    def is_change(self) -> bool:
        """Whether another number is wanted than there is."""
        return self.have != self.want or self.have_slots != self.want_slots

    @property
    def numbers(self) -> str:
        """The workers there were and that are wanted, or the slots where workers stretch."""
        if self.have_slots or self.want_slots:
            return f"{self.have_slots} → {self.want_slots} slots"
        return f"{self.have} → {self.want}"

    @property
    def change(self) -> str:
        """What it changes, in figures."""
        slots = bool(self.have_slots or self.want_slots)
        keeps = f"keeps {self.have_slots} slots" if slots else f"keeps {self.have}"
        is_same = self.have_slots == self.want_slots if slots else self.have == self.want
        moves = [keeps if is_same else self.numbers]
        if self.children:
            children = "child" if abs(self.children) == 1 else "children"
            moves.append(
                f"{self.host} {'adds' if self.children > 0 else 'ends'} {abs(self.children)} {children}"
            )
        if self.here:
            workers = (" worker" if abs(self.here) == 1 else " workers") if slots else ""
            moves.append(f"{self.host} {'starts' if self.here > 0 else 'stops'} {abs(self.here)}{workers}")
        return ", ".join(moves)

    def dump(self) -> dict[str, str | int]:
        """Return the fields of its entry."""
        return vars(self) | {
            "at": f"{self.at:.3f}",
            "emergency": int(self.emergency),
            "seen": json.dumps(self.seen),
        }

    @classmethod
    def load(cls, entry_id: bytes | str, entry: Mapping[bytes, bytes] | None) -> "DecisionRecord | Refusal":
        """Read an entry; it is refused if it does not say when it was made, and of what.

        Another field that is missing, or that cannot be read, has its default.
        """
        found = {decoded(name): decoded(value) for name, value in (entry or {}).items()}

        def whole(name: str, default: int = 0) -> int:
            return int(first_number(found.get(name), default))

        at, group = first_number(found.get("at"), -1.0), found.get("group", "")
        if not 0 <= at < END_OF_DATES or not group:
            return Refusal(KIND, decoded(entry_id), "it does not say when it was made, and of which group")
        try:
            seen = read_mapping(found.get("seen") or "{}")
        except UnreadableError:
            seen = {}
        limit = found.get("limit", "")
        return cls(
            at=at,
            group=group,
            host=found.get("host", ""),
            have=whole("have"),
            want=whole("want"),
            here=whole("here"),
            have_slots=whole("have_slots"),
            want_slots=whole("want_slots"),
            children=whole("children"),
            reason=found.get("reason", ""),
            limit=FORMER_NAMES.get(limit, limit),
            held_back=found.get("held_back", ""),
            emergency=found.get("emergency") == "1",
            seen=seen,
            by=found.get("by", ""),
            version=whole("version", 1),
        )
