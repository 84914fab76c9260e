"""Set something for a group while the supervisors run: a pause, other bounds."""

import re
from dataclasses import dataclass, replace
from typing import Any

from celery_autoscaler.protocol.broker import Broker
from celery_autoscaler.protocol.keys import as_name
from celery_autoscaler.protocol.overrides import VERSION, Origin, Override
from celery_autoscaler.protocol.reading import Refusal


@dataclass(frozen=True)
class Sender:
    """Who wants something, why, and for how long."""

    by: str
    because: str = ""
    seconds: int = 0
    """0: until it is taken back."""


@dataclass(frozen=True)
class Found:
    """What is set for a group."""

    now: float
    """Redis' time."""
    lasting: Override
    all: Override
    """With what is set for a while."""


def read(broker: Broker, group: str) -> Found:
    """Read what is set for a group, or for all; what cannot be read is not set."""
    keys = broker.keys
    with broker.client.pipeline(transaction=False) as pipe:
        pipe.time().hget(keys.overrides, group).mget(keys.timed_pause(group), keys.timed_bounds(group))
        (seconds, microseconds), lasting, timed = pipe.execute()
    now = seconds + microseconds / 1e6
    loaded = [Override.load(group, value or "{}", now) for value in (lasting, *timed)]
    first, pause, bounds = [Override() if isinstance(found, Refusal) else found for found in loaded]
    return Found(now, first, first.with_parts(pause, bounds))


def change(broker: Broker, group: str, sender: Sender, **changes: Any) -> Override:
    """Set something for a group, or for all.

    What was set before and cannot be read is dropped. Bounds that stay hold as long as those that change.

    Args:
        broker: The broker.
        group: The group, or ``*``.
        sender: Who wants it, why, and for how long.
        changes: ``paused``, or ``min_workers`` and ``max_workers``; a bound of None is that of the settings.

    Returns:
        All that is set for the group now.
    """
    keys, found = broker.keys, read(broker, group)
    until = found.now + sender.seconds if sender.seconds else 0.0
    origin = Origin(sender.by, sender.because, round(found.now, 3), round(until, 3), float(sender.seconds))
    if "paused" in changes:
        part = replace(Override(), **changes, pause=origin)
        rest, timed = found.lasting.without_pause(), keys.timed_pause(group)
    else:
        now = replace(found.all.without_pause(), **changes)
        part = replace(now, scale=origin)
        rest, timed = found.lasting.without_bounds(), keys.timed_bounds(group)
    part = replace(part, by=sender.by, version=VERSION)
    lasting = rest
    with broker.client.pipeline() as pipe:
        if sender.seconds and not part.is_empty:
            pipe.set(timed, part.dump(), px=sender.seconds * 1000)
        else:
            pipe.delete(timed)
            if not part.is_empty:
                lasting = rest.with_parts(part, part)
        if lasting.is_empty:
            pipe.hdel(keys.overrides, group)
        else:
            pipe.hset(keys.overrides, group, replace(lasting, version=VERSION).dump())
        pipe.execute()
    return read(broker, group).all


def paused(broker: Broker) -> set[str]:
    """Return the groups for which a pause is set, ``*`` among them if one is set for all."""
    start = broker.keys.timed_pause("")
    pattern = re.sub(r"([*?\[\]\\])", r"\\\1", start) + "*"
    seconds, _ = broker.client.time()
    found = [
        (group.decode(errors="replace"), value)
        for group, value in broker.client.hgetall(broker.keys.overrides).items()
    ]
    if timed := list(broker.client.scan_iter(match=pattern, count=1000)):
        names = (as_name(key).removeprefix(start) for key in timed)
        found += zip(names, broker.client.mget(timed), strict=True)
    read_all = [(group, Override.load(group, value or "{}", seconds)) for group, value in found]
    return {group for group, override in read_all if isinstance(override, Override) and override.paused}
