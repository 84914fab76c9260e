"""Set something for a group while the supervisors run: a pause, other bounds."""

from dataclasses import replace
from typing import Any

from celery_autoscaler.protocol.broker import Broker
from celery_autoscaler.protocol.overrides import VERSION, Override
from celery_autoscaler.protocol.reading import Refusal


def change(broker: Broker, group: str, by: str, **changes: Any) -> Override:
    """Set something for a group, or for all.

    What was set before and cannot be read is dropped.

    Args:
        broker: The broker.
        group: The group, or ``*``.
        by: Who wants it.
        changes: ``paused``, ``min_workers``, ``max_workers``; a bound of None is that of the settings.

    Returns:
        All that is set for the group now.
    """
    key = broker.keys.overrides
    before = Override.load(group, broker.client.hget(key, group) or "{}")
    now = replace(Override() if isinstance(before, Refusal) else before, **changes, by=by, version=VERSION)
    if now.is_empty:
        broker.client.hdel(key, group)
    else:
        broker.client.hset(key, group, now.dump())
    return now


def paused(broker: Broker) -> set[str]:
    """Return the groups for which a pause is set, ``*`` among them if one is set for all."""
    found = broker.client.hgetall(broker.keys.overrides)
    read = {group.decode(errors="replace"): value for group, value in found.items()}
    return {
        group
        for group, value in read.items()
        if isinstance(override := Override.load(group, value), Override) and override.paused
    }
