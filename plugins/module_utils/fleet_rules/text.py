"""How findings are worded: values, names that resemble others, one line each."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

# A name that resembles a known one less than this is somebody's own.
RESEMBLES = 0.8
# A word that resembles another one less than this is another word.
SAME_WORD = 0.6
LONGEST = 60
MOST_NAMES = 16
SECRET = re.compile(
    r"(pass(word|phrase|wd)?|secret|token|api_?key|credentials?|environment|url|backend)s?$", re.IGNORECASE
)


def line(text: str) -> str:
    """Return the text as one line without control characters."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "replace").decode("ascii")
        for char in text.encode("utf-8", "replace").decode("utf-8")
    )


def secret(name: str) -> bool:
    """Whether the value of a variable of this name may be a secret."""
    return SECRET.search(name) is not None


def shown(value: Any) -> str:
    """Return a value as it is named in a finding; of lists and dictionaries the kind only."""
    if value is None:
        return "empty (null)"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, dict):
        return "a dictionary"
    if isinstance(value, list | tuple):
        return "a list" if value else "an empty list"
    if isinstance(value, int | float):
        return number(value)
    text = str(value)
    return f"'{text if len(text) <= LONGEST else text[:LONGEST] + '…'}'"


def number(value: float) -> str:
    """Return a number as people write it, whatever its size."""
    try:
        text = str(value)
    except ValueError:
        return "a number of thousands of digits"
    return text.removesuffix(".0") if len(text) <= LONGEST else text[:LONGEST] + "…"


def resembling(name: str, known: Iterable[str]) -> str:
    """Return the known name that this one resembles most; nothing where none does."""
    words = {fold(word): word for word in sorted(known)}
    close = difflib.get_close_matches(fold(name), words, n=len(words) or 1, cutoff=RESEMBLES)
    return next((words[one] for one in close if same_words(fold(name), one)), "")


def same_words(name: str, other: str) -> bool:
    """Whether no word of a name stands for another one, as `owner` in the place of `monitor` does."""
    pairs = list(zip(name.split("_"), other.split("_"), strict=False))
    if name.count("_") != other.count("_"):
        return True
    return all(difflib.SequenceMatcher(None, *pair).ratio() >= SAME_WORD for pair in pairs)


def fold(name: str) -> str:
    """Return a name without what people write differently."""
    return name.casefold().replace("-", "_")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return what to say after an unknown name: the one that it resembles, or all that there are."""
    names = sorted(known)
    if close := resembling(name, names):
        return f"did you mean {close}?"
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"allowed: {', '.join(names[:MOST_NAMES])}{more}" if names else "allowed: none"


def called(item: Any, position: int) -> str:
    """What an element of a list is called: by its name, if it has one."""
    name = item.get("name") if isinstance(item, Mapping) else None
    return shown(str(name)) if isinstance(name, str) and name and "{{" not in name else f"element {position}"
