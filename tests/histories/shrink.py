"""Make a failing script shorter: leave out steps as long as what is left still fails."""

from __future__ import annotations

from collections.abc import Callable

from histories.script import Script


def shrink(script: Script, fails: Callable[[Script], bool], runs: int) -> Script:
    """Return a shorter script that fails too, after a limited number of runs (delta debugging).

    `fails` may fail to see a failure that depends on chance: then steps are kept that could go.
    """
    parts, left = 2, runs
    while left > 0 and len(script.steps) > 1:
        size = max(1, len(script.steps) // parts)
        for first in range(0, len(script.steps), size):
            if left <= 0:
                break
            smaller = script.with_steps(script.steps[:first] + script.steps[first + size :])
            left -= 1
            if fails(smaller):
                script, parts = smaller, max(2, parts - 1)
                break
        else:
            if size == 1:
                break
            parts = min(2 * parts, len(script.steps))
    return script
