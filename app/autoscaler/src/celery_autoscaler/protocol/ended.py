"""Tasks that have ended: how many, and how long they took."""

from collections.abc import Mapping
from typing import NamedTuple


class Ended(NamedTuple):
    """Tasks that have ended."""

    tasks: float = 0
    seconds: float = 0.0
    """That they took together."""
    squares: float = 0.0
    """Sum of the squares of their seconds: how much they differ."""

    def plus(self, other: "Ended") -> "Ended":
        """Return both together."""
        return Ended(*(mine + its for mine, its in zip(self, other, strict=True)))

    def minus(self, other: "Ended") -> "Ended":
        """Return what is left without others."""
        return Ended(*(mine - its for mine, its in zip(self, other, strict=True)))

    def times(self, part: float) -> "Ended":
        """Return a part of them."""
        return Ended(*(mine * part for mine in self))

    @property
    def variance(self) -> float:
        """Of the seconds of one."""
        if self.tasks <= 0:
            return 0.0
        return max(0.0, self.squares / self.tasks - (self.seconds / self.tasks) ** 2)


Counted = Mapping[str, Ended]
"""Name of a task → those of the name that have ended so far; these only grow."""
