"""Read what other processes wrote, with defaults: whatever it is, a value comes out.

For what is shown only; what is acted upon is read by :mod:`celery_autoscaler.protocol.readers`, which refuse.
A supervisor of another release lacks fields or has more of them; somebody may have written anything by hand.
What is missing has its default. What is of another type has it too, and is named.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

# Characters of a text that are kept.
LONGEST_TEXT = 10_000
# The largest number that means anything: a float holds it, a date can be made of it, a chart can show it.
LARGEST = 1e15
# What is wrong in one text is named so often; beyond that it is garbage as a whole.
NAMED = 5


@dataclass
class Trouble:
    """Collects the names of what could not be read."""

    named: list[str] = field(default_factory=list)

    def add(self, name: str) -> None:
        """Take one in, unless there are many already."""
        if len(self.named) < NAMED and name not in self.named:
            self.named.append(name)


Reader = Callable[[Any, str, Trouble], Any]
"""Returns a value of a kind from whatever stands under a name."""


def is_number(value: object) -> bool:
    """Return whether a value is a finite number that means anything."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -LARGEST <= value <= LARGEST and math.isfinite(value)


def number(default: float | None = 0.0, low: float = 0.0) -> Reader:
    """Read a number; `None` stands for none where that is the default."""

    def read(value: Any, name: str, trouble: Trouble) -> float | None:
        if value is None:
            return default
        if not is_number(value):
            trouble.add(name)
            return default
        return max(low, float(value))

    return read


def whole(default: int = 0, low: int = 0) -> Reader:
    """Read a whole number."""

    def read(value: Any, name: str, trouble: Trouble) -> int:
        if value is None:
            return default
        if not is_number(value):
            trouble.add(name)
            return default
        return max(low, int(value))

    return read


def words(default: str = "") -> Reader:
    """Read a text."""

    def read(value: Any, name: str, trouble: Trouble) -> str:
        if value is None:
            return default
        if not isinstance(value, str):
            trouble.add(name)
            return default
        return value[:LONGEST_TEXT]

    return read


def flag(value: Any, name: str, trouble: Trouble) -> bool:
    """Read whether something is so."""
    if value not in (None, True, False):
        trouble.add(name)
    return value is True


def many(each: Reader) -> Reader:
    """Read a list; what is wrong in it is left out."""

    def read(value: Any, name: str, trouble: Trouble) -> list[Any]:
        if not isinstance(value, list):
            if value is not None:
                trouble.add(name)
            return []
        found = (each(item, name, trouble) for item in value)
        return [item for item in found if item is not None]

    return read


def named(each: Reader) -> Reader:
    """Read a table from names to values of one kind; what is wrong in it is left out."""

    def read(value: Any, name: str, trouble: Trouble) -> dict[str, Any]:
        if not isinstance(value, dict):
            if value is not None:
                trouble.add(name)
            return {}
        found = {key: each(item, f"{name}.{key}", trouble) for key, item in value.items()}
        return {key: item for key, item in found.items() if item is not None}

    return read


def table(fields: Mapping[str, Reader]) -> Reader:
    """Read a table of certain fields; those of a later release are kept as they are."""

    def read(value: Any, name: str, trouble: Trouble) -> dict[str, Any] | None:
        if not isinstance(value, dict):
            trouble.add(name)
            return None
        prefix = f"{name}." if name else ""
        known = {key: each(value.get(key), prefix + key, trouble) for key, each in fields.items()}
        return {key: item for key, item in value.items() if key not in known} | known

    return read


def text(value: bytes | str | None) -> str:
    """Return what Redis holds as text; bytes that are no UTF-8 are shown as escapes."""
    if value is None:
        return ""
    return value if isinstance(value, str) else value.decode(errors="backslashreplace")


def first_number(value: bytes | str | None, default: float = 0.0) -> float:
    """Return a number from its text; the default where it is none."""
    try:
        found = float(text(value))
    except ValueError:
        return default
    return found if is_number(found) else default


def listed(names: Iterable[str], most: int = 3) -> str:
    """Return some names, and how many more there are."""
    found = list(names)
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more
