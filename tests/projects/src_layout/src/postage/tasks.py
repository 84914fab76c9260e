"""A task that reads the data of its package."""

from pathlib import Path

import letters


def answer() -> str:
    """Return what is in the package, as a task would."""
    data = Path(__file__).with_name("static") / "dist" / "prices.txt"
    return f"{letters.WORDS} {data.read_text().strip()}"
