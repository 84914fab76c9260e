"""How long fuzzing goes on: shortly and always alike in the suite, for long and from a printed seed by hand.

Environment:
    FUZZ_SECONDS   how long each fuzz test goes on; without it, as many examples as it says itself
    FUZZ_SEED      where it begins, a number; without it, the time
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st

# A failure in a process that lives on is not to be made smaller by thousands of others.
PHASES = (Phase.explicit, Phase.generate)


def fuzz(check: Callable[[Any], None], strategy: st.SearchStrategy[Any], examples: int) -> int:
    """Check examples of a strategy: a number that are always the same, or as FUZZ_SECONDS says.

    Args:
        check: Raises what is wrong with one example.
        strategy: Where they come from.
        examples: How many there are in the suite.

    Returns:
        How many were checked.
    """
    seconds = float(os.environ.get("FUZZ_SECONDS", "0"))
    first = int(os.environ.get("FUZZ_SEED", time.time_ns() % 10**9)) if seconds else 0
    checked = 0
    end = time.monotonic() + seconds
    number = first
    while True:
        checked += examples
        print(f"fuzz: {examples} examples of seed {number} (FUZZ_SEED={number} begins here)")  # noqa: T201
        run(check, strategy, examples, number)
        number += 1
        if time.monotonic() >= end:
            return checked


def keep(name: str, example: Any) -> Path:
    """Keep an example that failed, as JSON; return its file."""
    folder = Path(__file__).parents[2] / ".cache/fuzz"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}-{time.time_ns()}.json"
    file.write_text(json.dumps(example))
    return file


def run(check: Callable[[Any], None], strategy: st.SearchStrategy[Any], examples: int, number: int) -> None:
    """Check a number of examples of one seed."""
    random.seed(number)

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=PHASES,
        verbosity=Verbosity.normal,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def each(example: Any) -> None:
        check(example)

    each()
