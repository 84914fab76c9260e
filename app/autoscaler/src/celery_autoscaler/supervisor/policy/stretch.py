"""Workers that stretch: from the slots that the fleet wants to workers, and to the slots of each. Pure.

The law decides for such a group in slots, as if each slot were a worker. What follows from its number:

1. The workers that run grow, each up to its most. Only what they cannot take is a reason for another one.
2. When fewer slots are wanted, idle ones go first, down to the least of each worker; then whole workers.

All supervisors of a fleet see the same and conclude the same; each acts for its own host.
"""

import heapq
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from celery_autoscaler.protocol.overrides import Override
from celery_autoscaler.settings import Group
from celery_autoscaler.supervisor.policy.bounds import bounds
from celery_autoscaler.supervisor.policy.law import Decision, GroupPolicy, GroupSeen


def decide(law: GroupPolicy, group: Group, seen: GroupSeen, override: Override | None = None) -> Decision:
    """Return the decision of one tick, whether or not the workers of the group stretch."""
    if not group.max_concurrency:
        return law.decide(group, seen, override)
    override = override or Override()
    decision = law.decide(in_slots(group), seen_in_slots(group, seen), override_in_slots(group, override))
    if override.paused:
        return replace(decision, want=seen.ready + seen.starting, slots=decision.want)
    workers = workers_for(decision.want, group, seen)
    low, high = bounds(group, override)
    workers = max(low, min(high, workers))
    return replace(decision, want=workers, slots=max(decision.want, workers * group.concurrency))


def in_slots(group: Group) -> Group:
    """Return a group of which each slot is a worker."""
    return replace(
        group,
        concurrency=1,
        max_concurrency=0,
        min_workers=group.min_workers * group.concurrency,
        max_workers=group.max_workers * group.max_concurrency,
    )


def override_in_slots(group: Group, override: Override) -> Override:
    """Return what operators have set for a group of which each slot is a worker."""
    low, high = override.min_workers, override.max_workers
    return replace(
        override,
        min_workers=None if low is None else low * group.concurrency,
        max_workers=None if high is None else high * group.max_concurrency,
    )


def seen_in_slots(group: Group, seen: GroupSeen) -> GroupSeen:
    """Return what is seen of a group of which each slot is a worker: one that runs keeps its slot only."""
    at_once = seen.starts_at_once
    return replace(
        seen,
        unit="slot",
        ready=seen.slots,
        starting=seen.starting * group.concurrency,
        start_left=tuple(left for left in seen.start_left for _ in range(group.max_concurrency)),
        busy_workers=seen.busy,
        starts_at_once=None if at_once is None else at_once * group.max_concurrency,
    )


def workers_for(want: int, group: Group, seen: GroupSeen) -> int:
    """Return how many workers a number of slots takes: as many as there are, if that can be."""
    have = seen.ready + seen.starting
    most = seen.slots + seen.room + seen.starting * group.max_concurrency
    least = have * group.concurrency
    if want > most:
        return have + math.ceil((want - most) / group.max_concurrency)
    if want < least:
        return have - (least - want) // group.concurrency
    return have


@dataclass(frozen=True)
class Member:
    """A worker that consumes, and the slots that it may have."""

    name: str
    host: str
    slots: int
    """That it was told to have, or has."""
    least: int
    most: int
    has: int = 0
    """Slots that it has now."""
    busy: int = 0
    """Tasks that it runs or holds."""


def spread(
    want: int, members: Sequence[Member], weights: Mapping[str, float], room: Mapping[str, int]
) -> dict[str, int]:
    """Divide slots among workers: as even by the weight of their hosts as growth or shrinkage makes them.

    Nothing is moved from one worker to another. None gives up a slot that runs something.

    Args:
        want: Slots of the fleet.
        members: The workers that consume.
        weights: Of the hosts, in relation to each other.
        room: Slots that a host can add at most; one that is not named, any number.

    Returns:
        For each worker the slots that it shall have.
    """
    given = {one.name: min(max(one.slots, one.least), one.most) for one in members}
    missing = want - sum(given.values())
    if missing > 0:
        _grow(missing, members, given, weights, dict(room))
    elif missing < 0:
        _shrink(-missing, members, given, weights)
    return given


def _grow(
    count: int,
    members: Sequence[Member],
    given: dict[str, int],
    weights: Mapping[str, float],
    room: dict[str, int],
) -> None:
    """Add slots: each on the host with the fewest for its weight, to the worker there with the fewest."""
    most = {one.name: one.most for one in members}
    open_workers: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    on_host: Counter[str] = Counter()
    for one in members:
        on_host[one.host] += given[one.name]
        if given[one.name] < one.most:
            heapq.heappush(open_workers[one.host], (given[one.name], one.name))
    for _ in range(count):
        hosts = [host for host in sorted(open_workers) if open_workers[host] and room.get(host, 1) > 0]
        if not hosts:
            return
        host = min(hosts, key=lambda host: (on_host[host] + 1) / weights.get(host, 1.0))
        slots, name = heapq.heappop(open_workers[host])
        given[name] = slots + 1
        on_host[host] += 1
        if host in room:
            room[host] -= 1
        if given[name] < most[name]:
            heapq.heappush(open_workers[host], (given[name], name))


def _shrink(
    count: int, members: Sequence[Member], given: dict[str, int], weights: Mapping[str, float]
) -> None:
    """Take idle slots away: each from the host with the most for its weight, there from the most idle."""
    kept = {one.name: max(one.least, min(one.busy, one.most)) for one in members}
    open_workers: defaultdict[str, list[tuple[int, str]]] = defaultdict(list)
    on_host: Counter[str] = Counter()
    for one in members:
        on_host[one.host] += given[one.name]
        if given[one.name] > kept[one.name]:
            heapq.heappush(open_workers[one.host], (kept[one.name] - given[one.name], one.name))
    for _ in range(count):
        hosts = [host for host in sorted(open_workers) if open_workers[host]]
        if not hosts:
            return
        host = max(hosts, key=lambda host: on_host[host] / weights.get(host, 1.0))
        _, name = heapq.heappop(open_workers[host])
        given[name] -= 1
        on_host[host] -= 1
        if given[name] > kept[name]:
            heapq.heappush(open_workers[host], (kept[name] - given[name], name))
