"""When to start workers again that fail: later each time, and hardly at all once it is a loop.

Pure: no I/O, no clock of its own; times are seconds of any steady clock.
"""

import random
from collections import deque

# Seconds until the next try after one failure, doubled by each further one, up to the most.
FIRST_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 60.0
# This number of failures within this number of seconds is a crash loop: then one worker at a time is tried.
LOOP_FAILURES = 5
WITHIN_SECONDS = 120.0


class Backoff:
    """Failures of a group's workers on this host."""

    def __init__(self) -> None:
        self._failures: deque[float] = deque()
        self._in_a_row = 0
        self._next = 0.0

    def failed(self, now: float) -> None:
        """Note that a worker ended soon after its start."""
        self._failures.append(now)
        self._in_a_row += 1
        pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** (self._in_a_row - 1))
        if self.is_loop(now):
            pause = LONGEST_PAUSE_SECONDS
        # So that the hosts of a fleet do not try at the same moment.
        self._next = now + pause * random.uniform(0.8, 1.0)  # noqa: S311

    def lasted(self) -> None:
        """Note that a worker consumes and goes on to."""
        self._failures.clear()
        self._in_a_row = 0
        self._next = 0.0

    def is_loop(self, now: float) -> bool:
        """Whether this is a crash loop."""
        while self._failures and self._failures[0] < now - WITHIN_SECONDS:
            self._failures.popleft()
        return len(self._failures) >= LOOP_FAILURES

    def allowed(self, now: float, starting: int) -> int:
        """Return how many workers may be started: after a failure one at a time."""
        if now < self._next:
            return 0
        return max(0, 1 - starting) if self._in_a_row else 1_000_000

    def explain(self, now: float) -> str:
        """Say why none may start; nothing if one may."""
        if now >= self._next:
            return ""
        wait = f"the next try comes in {self._next - now:.0f} s"
        if self.is_loop(now):
            return f"crash loop: {len(self._failures)} workers failed within {WITHIN_SECONDS:g} s; {wait}"
        return f"{self._in_a_row} in a row failed; {wait}"
