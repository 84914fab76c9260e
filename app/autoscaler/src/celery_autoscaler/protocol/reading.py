"""The door through which everything comes in that another process wrote. Pure: no I/O.

Whatever bytes Redis holds, a reader returns a value or raises :class:`UnreadableError`, one line that says
what is wrong. The records of this package catch it: their ``load`` answers a value or a :class:`Refusal`.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# Bytes of JSON, and of a name, beyond which none is read.
MOST_JSON = 2**20
MOST_NAME = 512
# The most workers of a group, whatever is asked for.
MOST_WORKERS = 10_000
# Characters of a whole number's digits.
LONGEST_DIGITS = 32
# Characters of a value that an error shows.
SHOWN = 60
# The largest number that means anything: a float holds it, a date can be made of it, a chart can show it.
LARGEST = 1e15


class UnreadableError(ValueError):
    """A value cannot be read: one line that says why."""


@dataclass(frozen=True)
class Refusal:
    """Something that could not be read, and was skipped."""

    kind: str
    """What it was to be: worker, peer, override, claim, message …"""
    name: str
    """Which one: the key, the field, the element."""
    why: str


def read_text(value: Any, most: int = MOST_NAME) -> str:
    """Return text from UTF-8.

    Raises:
        UnreadableError: It is no UTF-8, or longer than ``most`` bytes.
    """
    if isinstance(value, str):
        value = value.encode(errors="surrogatepass")
    if not isinstance(value, bytes):
        raise UnreadableError(f"{shown(value)} is no text")
    if len(value) > most:
        raise UnreadableError(f"{len(value)} bytes are too long; at most {most} are read")
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise UnreadableError(f"{shown(value)} is no UTF-8") from error


def read_whole(value: Any, low: int, high: int) -> int:
    """Return a whole number within bounds, from itself or from its digits.

    Raises:
        UnreadableError: It is none.
    """
    if isinstance(value, bytes | str):
        # Most are a few digits.
        text = value if len(value) < LONGEST_DIGITS and value.isdigit() else read_text(value, LONGEST_DIGITS)
        try:
            value = int(text)
        except ValueError as error:
            raise UnreadableError(f"{shown(text)} is no whole number") from error
    if not isinstance(value, int) or isinstance(value, bool):
        raise UnreadableError(f"{shown(value)} is no whole number")
    if not low <= value <= high:
        raise UnreadableError(f"{shown(value)} is not within {low} and {high}")
    return value


def read_number(value: Any, low: float, high: float) -> float:
    """Return a finite number within bounds, from itself or from its digits.

    Raises:
        UnreadableError: It is none.
    """
    if isinstance(value, bytes | str):
        text = read_text(value, 64)
        try:
            value = float(text)
        except ValueError as error:
            raise UnreadableError(f"{shown(text)} is no number") from error
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise UnreadableError(f"{shown(value)} is no number")
    # NaN is within no bounds. An int may be beyond what a float can hold, so it is compared first.
    if not low <= value <= high:
        raise UnreadableError(f"{shown(value)} is not within {low:g} and {high:g}")
    return float(value)


def read_json(value: Any, most: int = MOST_JSON) -> Any:
    """Return what JSON says; NaN and infinite numbers are refused.

    Raises:
        UnreadableError: It is no JSON, is nested too deep, or is longer than ``most`` bytes.
    """
    if not isinstance(value, bytes | str):
        raise UnreadableError(f"{shown(value)} is no JSON")
    if len(value) > most:
        raise UnreadableError(f"{len(value)} bytes are too long; at most {most} are read")
    try:
        return DECODER.decode(value.decode() if isinstance(value, bytes) else value)
    except RecursionError as error:
        raise UnreadableError("it is nested too deep") from error
    except UnreadableError:
        raise
    except ValueError as error:
        raise UnreadableError(f"{shown(value)} is no JSON") from error


def read_mapping(value: Any, most: int = MOST_JSON) -> Mapping[str, Any]:
    """Return an object of JSON.

    Raises:
        UnreadableError: It is none.
    """
    found = read_json(value, most)
    if not isinstance(found, dict):
        raise UnreadableError(f"{shown(value)} is no object of JSON")
    return found


def read_list(value: Any, most: int = MOST_JSON) -> list[Any]:
    """Return an array of JSON.

    Raises:
        UnreadableError: It is none.
    """
    found = read_json(value, most)
    if not isinstance(found, list):
        raise UnreadableError(f"{shown(value)} is no array of JSON")
    return found


def shown(value: Any) -> str:
    """Return a value for an error's one line: short, and without control characters."""
    if isinstance(value, bytes):
        text = ascii(value[: 2 * SHOWN])[2:-1]
    elif isinstance(value, str):
        text = ascii(value[: 2 * SHOWN])[1:-1]
    elif isinstance(value, int) and abs(value) >= 10**SHOWN:
        # Python turns no number of more than 4,300 digits into text.
        return f"a number of {value.bit_length()} bits"
    elif isinstance(value, int | float) or value is None:
        text = repr(value)
    else:
        return f"a value of type {type(value).__name__}"
    return repr(text[:SHOWN] + "…" if len(text) > SHOWN else text) if isinstance(value, bytes | str) else text


def is_number(value: object) -> bool:
    """Return whether a value is a finite number that means anything."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return -LARGEST <= value <= LARGEST and math.isfinite(value)


def decoded(value: bytes | str | None) -> str:
    """Return what Redis holds as text; bytes that are not UTF-8 become escapes."""
    if value is None:
        return ""
    return value if isinstance(value, str) else value.decode(errors="backslashreplace")


def first_number(value: bytes | str | None, default: float = 0.0) -> float:
    """Return a number from its digits; the default for anything else."""
    try:
        found = float(decoded(value))
    except ValueError:
        return default
    return found if is_number(found) else default


def _refuse_constant(name: str) -> Any:
    raise UnreadableError(f"{name} is no number of JSON")


DECODER = json.JSONDecoder(parse_constant=_refuse_constant)
