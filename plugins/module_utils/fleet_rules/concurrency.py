"""How many tasks a worker of a group runs at a time: a number, or a least and a most."""

from __future__ import annotations

from .bounds import GROUP
from .model import NotKnownError, Record, as_whole
from .text import number, shown

POOLS = ("prefork", "gevent")


def least_and_most(group: Record) -> tuple[int, int]:
    """Return the least and the most; the same number twice where a worker does not stretch.

    Raises:
        NotKnownError: Only the host knows, or it is something else.
    """
    given = group.raw("concurrency")
    both = given if isinstance(given, list | tuple) else [given, given]
    found = [as_whole(each) for each in both]
    if len(found) != 2 or found[0] is None or found[1] is None:
        raise NotKnownError("concurrency")
    return found[0], found[1]


def problem(group: Record, *, supervised: bool) -> str:
    """Say what is wrong with the concurrency of a group; nothing where nothing is.

    Raises:
        NotKnownError: Only the host knows.
    """
    given, (low, high) = group.raw("concurrency"), GROUP["concurrency"]
    try:
        least, most = least_and_most(group)
    except NotKnownError:
        least, most = 0, 0
    text = f"concurrency is {shown(given)}"
    if not low <= least <= most <= high:
        one = f"a whole number from {number(low)} to {number(high)}"
        return f"{text}; allowed: {one}, or a least and a most, such as [2, 16]"
    if least == most:
        return ""
    pool = group.text("pool")
    if pool not in POOLS:
        return f"{text} with pool {pool}; allowed: one number, or pool {' and '.join(POOLS)}"
    if "autoscale" in group.table("options", {}):
        return f"{text} beside options.autoscale; allowed: one of them"
    if not supervised:
        why = "nothing tells the workers to stretch"
        return f"{text}, but {why}; allowed: one number, or celery_app_supervised"
    return ""
