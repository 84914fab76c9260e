"""What operators set for a group while the supervisors run: a pause, other bounds."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from celery_autoscaler.broker import Broker
from celery_autoscaler.policy import Override
from celery_autoscaler.readers import Refusal, UnreadableError, read_mapping, read_text, read_whole, shown
from celery_autoscaler.settings import MOST_WORKERS, Group

# The group that stands for all.
ALL = "*"
KIND = "override"


def read_override(group: str, value: Any) -> Override | Refusal:
    """Return what an operator has set for a group; a value that is not allowed makes all of it be ignored."""
    try:
        return _override(read_mapping(value))
    except UnreadableError as error:
        return Refusal(KIND, group, str(error))


def in_force(
    overrides: Mapping[str, Override], groups: Iterable[Group]
) -> tuple[dict[str, Override], list[Refusal]]:
    """Return what holds for each group, and the bounds that cannot be together with those of its settings.

    What is set for all groups pauses each of them.
    """
    every, found, refused = overrides.get(ALL, Override()), {}, []
    for group in groups:
        own = overrides.get(group.name, Override())
        low = group.min_workers if own.minimum is None else own.minimum
        high = group.max_workers if own.maximum is None else own.maximum
        if low > high:
            why = f"minimum {low} is more than maximum {high}: both are ignored"
            refused.append(Refusal(KIND, group.name, why))
            own = replace(own, minimum=None, maximum=None)
        found[group.name] = replace(own, paused=True, by=every.by) if every.paused else own
    return found, refused


def _override(found: Mapping[str, Any]) -> Override:
    low, high = _bound(found, "minimum"), _bound(found, "maximum")
    if low is not None and high is not None and low > high:
        raise UnreadableError(f"minimum {low} is more than maximum {high}")
    paused = found.get("paused", False)
    if not isinstance(paused, bool):
        raise UnreadableError(f"paused {shown(paused)} is neither true nor false")
    return Override(paused, low, high, read_text(found.get("by", "")))


def _bound(found: Mapping[str, Any], name: str) -> int | None:
    """Return a bound that is set, or nothing."""
    value = found.get(name)
    if value is None:
        return None
    if isinstance(value, str):
        raise UnreadableError(f"{name}: {shown(value)} is no whole number")
    try:
        return read_whole(value, 0, MOST_WORKERS)
    except UnreadableError as error:
        raise UnreadableError(f"{name}: {error}") from error


def change(broker: Broker, group: str, by: str, **wishes: Any) -> dict[str, Any]:
    """Set something for a group, or for all; a wish of None takes an earlier one back.

    What was set before and cannot be read is dropped.

    Args:
        broker: The broker.
        group: The group, or ``*``.
        by: Who wants it.
        wishes: ``paused``, ``minimum``, ``maximum``.

    Returns:
        All that is set for the group now.
    """
    key = broker.keys.overrides
    before: Mapping[str, Any] = {}
    if text := broker.client.hget(key, group):
        before = {} if isinstance(read_override(group, text), Refusal) else read_mapping(text)
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
