"""No two modules share six lines or more: what they share is a module, a fragment or a fixture."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator

import pytest
from support.role_files import CHECKOUT, tracked

SHARED_LINES = 6
# Lines that say nothing alone: punctuation, and what ends every module that is a program.
THIN = re.compile(r"""[\W_]*|if __name__ == "__main__":|main\(\)|else:|try:|\"{3}.*""")


def lines_that_count(text: str) -> list[tuple[int, str]]:
    """Return the lines of a module with their numbers, without imports, comments and thin lines."""
    imported: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            imported |= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return [
        (number, line.strip())
        for number, line in enumerate(text.splitlines(), 1)
        if number not in imported and not THIN.fullmatch(line.strip()) and not line.strip().startswith("#")
    ]


def shared(modules: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Yield the places of each run of lines that several modules share; once for the same modules."""
    places: defaultdict[tuple[str, ...], dict[str, int]] = defaultdict(dict)
    for name, text in modules:
        lines = lines_that_count(text)
        for begin in range(len(lines) - SHARED_LINES + 1):
            part = tuple(line for _, line in lines[begin : begin + SHARED_LINES])
            places[part].setdefault(name, lines[begin][0])
    said: set[tuple[str, ...]] = set()
    for where in places.values():
        if len(where) > 1 and tuple(where) not in said:
            said.add(tuple(where))
            yield " = ".join(f"{name}:{number}" for name, number in where.items())


def test_no_modules_share_six_lines() -> None:
    names = tracked("plugins/*.py", "roles/*.py", "app/*/src/*.py")

    assert list(shared((name, (CHECKOUT / name).read_text(encoding="utf-8")) for name in names)) == []


@pytest.mark.parametrize(("lines", "count"), [(5, 0), (6, 1)])
def test_six_lines_that_two_modules_share_are_found(lines: int, count: int) -> None:
    body = "".join(f"    x{number} = {number}\n" for number in range(lines))

    found = list(shared((name, f"import {name}\n\n\ndef {name}():\n{body}") for name in ("one", "two")))

    assert len(found) == count
