"""How far the clock of a host is from the server's: tasks with an ETA start too late or too early by that."""

from collections import deque

# Seconds of difference that are reported: those with an ETA are late by them.
TOLERATED_SECONDS = 2.0
# Looks of which the quickest counts: its answer is closest to the moment.
LOOKS = 10


class ClockOffset:
    """The difference between the server's clock and this host's, measured by questions and answers."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, float]] = deque(maxlen=LOOKS)

    def update(self, asked: float, server: float, answered: float) -> None:
        """Take in a look.

        Args:
            asked: When the question was sent, by this host's clock.
            server: What the server's clock said.
            answered: When the answer came, by this host's clock.
        """
        self._looks.append((max(0.0, answered - asked) / 2, server - (asked + answered) / 2))

    @property
    def seconds(self) -> float:
        """Seconds by which the server's clock is ahead; 0 where the question took longer than that."""
        if not self._looks:
            return 0.0
        error, offset = min(self._looks)
        return offset if abs(offset) > error else 0.0

    @property
    def is_off(self) -> bool:
        """Whether tasks with an ETA start at the wrong time on this host."""
        return abs(self.seconds) > TOLERATED_SECONDS
