"""Set something for a group while the supervisors run: a pause, other bounds."""

import json
from collections.abc import Mapping
from typing import Any

from celery_autoscaler.protocol.broker import Broker
from celery_autoscaler.protocol.former import renamed
from celery_autoscaler.protocol.overrides import Override, read_override
from celery_autoscaler.protocol.readers import Refusal, read_mapping


def change(broker: Broker, group: str, by: str, **wishes: Any) -> dict[str, Any]:
    """Set something for a group, or for all; a wish of None takes an earlier one back.

    What was set before and cannot be read is dropped.

    Args:
        broker: The broker.
        group: The group, or ``*``.
        by: Who wants it.
        wishes: ``paused``, ``min_workers``, ``max_workers``.

    Returns:
        All that is set for the group now.
    """
    key = broker.keys.overrides
    before: Mapping[str, Any] = {}
    if text := broker.client.hget(key, group):
        before = {} if isinstance(read_override(group, text), Refusal) else renamed(read_mapping(text))
    now = {name: value for name, value in {**before, **wishes}.items() if value is not None and name != "by"}
    if now:
        broker.client.hset(key, group, json.dumps(now | {"by": by}))
    else:
        broker.client.hdel(key, group)
    return now


def paused(broker: Broker) -> set[str]:
    """Return the groups for which a pause is set, ``*`` among them if one is set for all."""
    found = broker.client.hgetall(broker.keys.overrides)
    read = {group.decode(errors="replace"): value for group, value in found.items()}
    return {
        group
        for group, value in read.items()
        if isinstance(override := read_override(group, value), Override) and override.paused
    }
