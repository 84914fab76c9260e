"""Mitogen's linear strategy, whose processes any CPU may run.

Its own ties all that plays to one CPU of two, and all that connects to the other: with three plays at a time
one of them has nothing to do while the others wait.
"""

from __future__ import annotations

from ansible_mitogen import affinity
from ansible_mitogen.plugins.strategy.mitogen_linear import StrategyModule

__all__ = ["StrategyModule"]

affinity.policy = affinity.Policy()
