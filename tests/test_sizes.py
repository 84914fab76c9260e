"""No module, class or function is too long to keep in mind; docs/decisions/0024 names the exceptions."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest
from support.role_files import CHECKOUT, tracked

MODULE_LINES, CLASS_LINES, FUNCTION_LINES = 450, 300, 60
RECORD = CHECKOUT / "docs/decisions/0024-sizes.md"


def too_long(text: str) -> Iterator[tuple[str, int]]:
    """Yield the classes and functions of a module that are over their limit, with their lines."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > (CLASS_LINES if isinstance(node, ast.ClassDef) else FUNCTION_LINES):
                yield node.name, lines


def found() -> set[str]:
    """Return what is over a limit: a module by its path, what is in it by the path and its name."""
    over = set()
    for name in tracked("*.py", "*.js"):
        text = (CHECKOUT / name).read_text(encoding="utf-8")
        if text.count("\n") > MODULE_LINES and not name.endswith(".min.js"):
            over.add(name)
        if name.endswith(".py"):
            over |= {f"{name}: {part}" for part, _ in too_long(text)}
    return over


def test_only_what_the_decision_record_names_is_over_a_limit() -> None:
    lines = RECORD.read_text(encoding="utf-8").splitlines()
    named = {line.split("`")[1] for line in lines if line.startswith("| `")}

    assert found() == named


@pytest.mark.parametrize(("lines", "names"), [(60, []), (61, ["long"])])
def test_a_function_is_measured_from_its_name_to_its_end(lines: int, names: list[str]) -> None:
    text = "def long():\n" + "    x = 1\n" * (lines - 1)

    assert [name for name, _ in too_long(text)] == names
