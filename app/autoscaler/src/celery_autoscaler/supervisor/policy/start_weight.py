"""How much of a host a start takes, from what starts of the same group took before. Pure.

One that waits for something else than a CPU, such as a database or a slow import over the network, leaves
room for others. It is known by the time that its processes used or waited for a CPU: on a busy host starts
that need one do not seem to wait.
"""

from collections import deque

# Part of a CPU that a start is taken to need before two were measured: with it, two start for each CPU.
WHOLE = 0.5
# The lightest start, in relation to such a one: ten start for each CPU at most.
LIGHTEST = 0.2
# Starts that are remembered, and those without which nothing is concluded.
STARTS, ENOUGH = 6, 2


class StartWeight:
    """The weight of the next start of a group: 1 for one that needs a CPU, or of which nothing is known."""

    def __init__(self) -> None:
        self._parts: deque[float] = deque(maxlen=STARTS)

    def add(self, needed: float, seconds: float) -> None:
        """Take in a start.

        Args:
            needed: Seconds for which its processes used a CPU or waited for one.
            seconds: Those that it took at least.
        """
        part = needed / seconds if seconds > 0 else 1.0
        self._parts.append(part if 0.0 <= part <= 1.0 else 1.0)

    @property
    def value(self) -> float:
        """The weight of the heaviest start lately: none is to slow the others."""
        if len(self._parts) < ENOUGH:
            return 1.0
        return min(1.0, max(LIGHTEST, max(self._parts) / WHOLE))
