"""What operators set for a group while the supervisors run: a pause, other bounds."""

import json
from typing import Any

from celery_autoscaler.broker import Broker

# The group that stands for all.
ALL = "*"


def change(broker: Broker, group: str, by: str, **wishes: Any) -> dict[str, Any]:
    """Set something for a group, or for all; a wish of None takes an earlier one back.

    Args:
        broker: The broker.
        group: The group, or ``*``.
        by: Who wants it.
        wishes: ``paused``, ``minimum``, ``maximum``.

    Returns:
        All that is set for the group now.
    """
    key = broker.keys.overrides
    before = json.loads(broker.client.hget(key, group) or "{}")
    now = {name: value for name, value in (before | wishes).items() if value is not None and name != "by"}
    if now:
        broker.client.hset(key, group, json.dumps(now | {"by": by}))
    else:
        broker.client.hdel(key, group)
    return now


def paused(broker: Broker) -> set[str]:
    """Return the groups for which a pause is set, ``*`` among them if one is set for all."""
    found = broker.client.hgetall(broker.keys.overrides)
    return {group.decode() for group, wishes in found.items() if json.loads(wishes).get("paused")}
