r"""Show text from outside as text: task names, reasons, names of hosts, what a worker printed.

Whatever reaches a terminal or a log passes through here. A terminal obeys control characters: they clear the
screen, set its title, turn text into links, and bidirectional marks rearrange what is read. A line feed
begins a line that looks like another record. Here they become visible escapes, such as ``\x1b``.
"""

import unicodedata
from collections.abc import Iterable
from importlib import import_module

# Characters of one text, beyond which it is cut.
LONGEST = 10_000
# Names that a refusal lists.
LISTED = 20


def as_text(value: object, longest: int = LONGEST) -> str:
    """Return a value as one line that can be printed: every control and invisible mark is an escape.

    Args:
        value: Whatever is to be shown.
        longest: Characters of it that are kept; an ellipsis says that it was cut.
    """
    text = str(value)
    if len(text) > longest:
        text = text[: longest - 1] + "…"
    if text.isprintable():
        return text
    return "".join(map(_visible, text))


def as_lines(value: object, longest: int = 100 * LONGEST) -> str:
    """Return a value whose line breaks are kept.

    Every line but the first is indented, so that none passes for the beginning of a record.
    """
    text = str(value)
    if len(text) > longest:
        text = text[: longest - 1] + "…"
    if text.isprintable():
        return text
    return "\n  ".join(as_text(line.rstrip("\r").expandtabs(), longest) for line in text.split("\n"))


def in_json(text: str) -> str:
    r"""Return a JSON text whose controls and invisible marks are JSON's own escapes: it means the same."""
    if text.isprintable():
        return text
    return "".join(char if _is_shown(char) else _json_escape(char) for char in text)


def listed(names: Iterable[str], most: int = 3) -> str:
    """Return some names, and how many more there are."""
    found = list(names)
    more = f" and {len(found) - most} more" if len(found) > most else ""
    return ", ".join(found[:most]) + more


def missing(kind: str, name: str, known: Iterable[str]) -> str:
    """Say in one line that there is no such thing, what is meant perhaps, and what there is.

    Args:
        kind: What it would be: ``worker``, ``group``, ``queue``, ``host``.
        name: The name that was given.
        known: The names that there are.
    """
    names = sorted(known)
    # Rarely needed: workers start without it.
    close: list[str] = import_module("difflib").get_close_matches(name, names, n=1)
    hint = f" (did you mean {as_text(close[0])}?)" if close else ""
    if not names:
        return f"no {kind} named '{as_text(name, 200)}'; there are none"
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    listed = ", ".join(as_text(each, 200) for each in names[:LISTED])
    return f"no {kind} named '{as_text(name, 200)}'{hint}; there are: {listed}{more}"


def _is_shown(char: str) -> bool:
    # Spaces of other widths are not printable to Python, and harm nobody.
    return char.isprintable() or unicodedata.category(char) == "Zs"


def _visible(char: str) -> str:
    return char if _is_shown(char) else char.encode("unicode_escape").decode()


def _json_escape(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
