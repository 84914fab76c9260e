"""The examples of docs/examples, which are as short as they claim."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.read_inventories import CHECKOUT, copied, findings

EXAMPLES = sorted(path.parent for path in (CHECKOUT / "docs/examples").glob("*/hosts.yml"))
MOST_LINES = 40


def names() -> list[str]:
    """Return the names of the examples."""
    return [path.name for path in EXAMPLES]


@pytest.mark.parametrize("example", EXAMPLES, ids=names())
def test_an_inventory_is_short(example: Path) -> None:
    assert len((example / "hosts.yml").read_text(encoding="utf-8").splitlines()) <= MOST_LINES


@pytest.mark.parametrize("example", EXAMPLES, ids=names())
def test_nothing_is_wrong_with_it(example: Path, tmp_path: Path) -> None:
    # It writes its secrets beside itself.
    assert findings(copied(example, tmp_path / example.name) / "hosts.yml") == []


def test_there_are_three() -> None:
    assert names() == ["pretix", "superset", "weblate"]
