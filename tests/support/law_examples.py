"""A group, what is seen of it, and a control law without any past: what tests of the law start from."""

from __future__ import annotations

from dataclasses import replace

from celery_autoscaler.settings import Group
from celery_autoscaler.supervisor.policy.law import Decision, GroupPolicy, GroupSeen

ONE_SLOT = Group(name="default", queues=("celery",), min_workers=1, max_workers=10)


TO_ZERO = replace(ONE_SLOT, min_workers=0)


IDLE = GroupSeen(now=0.0, ready=1, longest_queue="celery")


STABILISATION = 60.0


THRESHOLD = 1000


def law() -> GroupPolicy:
    """Return a control law without any past."""
    return GroupPolicy(stabilisation=STABILISATION, queue_threshold=THRESHOLD)


def backlog(messages: int, seen: GroupSeen = IDLE) -> GroupSeen:
    """Return what is seen when a number of messages wait in one queue."""
    return replace(seen, backlog=messages, longest=messages)


def hold(policy: GroupPolicy, seen: GroupSeen, begin: float, end: float, group: Group = ONE_SLOT) -> Decision:
    """Let the same be seen once a second for a while; workers follow what was decided, at once."""
    now, decision = begin, Decision(seen.ready, "")
    while now <= end:
        decision = policy.decide(group, replace(seen, now=now))
        seen = replace(seen, ready=decision.want, starting=0)
        now += 1.0
    return decision
