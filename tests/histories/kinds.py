"""The kinds of tasks, and what each may come to."""

from __future__ import annotations

from dataclasses import dataclass

from histories.events import Outcome

PREFORK = frozenset({"prefork"})
POOLS = frozenset({"prefork", "threads", "solo", "gevent"})
DONE = frozenset({Outcome.DONE})


@dataclass(frozen=True)
class Kind:
    """A kind of task."""

    name: str
    task: str
    """Its name in the app."""
    ends: frozenset[Outcome] = DONE
    """How its last run ends."""
    early: bool = False
    """Whether its message is settled when it begins."""
    dies: bool = False
    """Whether it kills the process that runs it, until its message is a dead letter."""
    silent: bool = False
    """Whether it may end without a run to the end: at its hard limit, revoked, expired, unknown."""
    everywhere: bool = False
    """Whether each worker runs it: a broadcast."""
    stored: bool = False
    """Whether its result is stored."""
    pools: frozenset[str] = POOLS
    weight: float = 1.0
    """How often it is drawn."""
    most: int = 10
    """How many are sent at a time."""
    canvas: bool = False


KINDS = {
    kind.name: kind
    for kind in (
        Kind("plain", "plain", weight=12, most=150),
        Kind("early", "early", early=True, weight=3, most=60),
        Kind("own base", "own_base", weight=2, most=40),
        Kind("own request", "own_request", weight=2, most=40),
        Kind("priority", "plain", weight=3, most=40),
        Kind("large", "plain", weight=0.7, most=4),
        Kind("eta", "plain", weight=2, most=15),
        Kind("rate-limited", "limited", weight=1, most=20),
        Kind("long", "plain", weight=2, most=4),
        Kind("long early", "early", early=True, weight=0.7, most=3),
        Kind("retry", "retried", weight=1.5, most=10),
        Kind("autoretry", "autoretried", weight=1.5, most=10),
        Kind("requeued", "requeued", weight=1, most=5),
        Kind("rejected", "rejected", frozenset({Outcome.REJECTED}), weight=1, most=5),
        Kind("ignored", "ignored", frozenset({Outcome.IGNORED}), weight=1, most=5),
        Kind("failing", "failing", frozenset({Outcome.FAILED}), weight=1, most=5),
        Kind("expiring", "plain", silent=True, weight=1, most=20),
        Kind("revoked", "plain", silent=True, weight=1, most=5),
        Kind("unknown", "no_such_task", silent=True, weight=0.7, most=3),
        Kind("malformed", "plain", silent=True, weight=0.7, most=3),
        Kind("stored", "stored", stored=True, weight=2, most=15),
        Kind("own consumer", "", weight=1, most=15),
        Kind("broadcast", "plain", silent=True, everywhere=True, early=True, weight=0.7, most=2),
        Kind("killed child", "killed", dies=True, pools=PREFORK, weight=0.5, most=1),
        Kind("exits", "exits", dies=True, pools=PREFORK, weight=0.5, most=1),
        Kind("hard limit", "plain", silent=True, pools=PREFORK, weight=0.5, most=2),
        Kind(
            "soft limit", "soft", frozenset({Outcome.DONE, Outcome.SOFT}), pools=PREFORK, weight=0.5, most=2
        ),
        Kind("chain", "stored", canvas=True, stored=True, weight=1, most=4),
        Kind("group", "stored", canvas=True, stored=True, weight=1, most=4),
        Kind("chord", "stored", canvas=True, stored=True, weight=1, most=3),
    )
}
