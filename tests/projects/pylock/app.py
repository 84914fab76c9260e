"""An app whose lock names the very files."""

import letters


def answer() -> str:
    """Return what the requirements are, as a task would."""
    return letters.WORDS
