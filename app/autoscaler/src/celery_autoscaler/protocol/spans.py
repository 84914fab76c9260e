"""Spans of time as people write them: ``30m`` is read, ``12 more minutes`` is shown."""

import math
import re

SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
UNITS = {"day": 86400, "hour": 3600, "minute": 60, "second": 1}
MOST_SECONDS = 366 * 86400
ALLOWED = "30m, 2h, 1h30m or 3d; at most 366d"


def read_span(text: str) -> int:
    """Return the seconds of a span.

    Raises:
        ValueError: It is none; the message says what is allowed.
    """
    found = re.fullmatch(r"(?:[0-9]{1,9}[smhd])+", text, re.ASCII)
    parts = re.findall(r"([0-9]+)([smhd])", text) if found else []
    seconds = sum(int(number) * SECONDS[unit] for number, unit in parts)
    if not 0 < seconds <= MOST_SECONDS:
        raise ValueError(f"'{text[:40]}' is no span of time: allowed is {ALLOWED}")
    return seconds


def span_words(seconds: float, more: str = "") -> str:
    """Return a span in words, never a shorter one.

    Args:
        seconds: The span.
        more: Stands before the unit: ``12 more minutes``.
    """
    exact = [unit for unit, size in UNITS.items() if seconds >= size > 1 and seconds % size == 0]
    unit = [*exact, *(unit for unit, size in UNITS.items() if seconds >= 2 * size), "second"][0]
    number = max(1, math.ceil(seconds / UNITS[unit]))
    return " ".join(filter(None, (str(number), more, unit + ("" if number == 1 else "s"))))
