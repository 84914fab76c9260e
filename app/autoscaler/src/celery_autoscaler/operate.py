"""What operators want of the fleet, from the command line or from the page.

Each wish is done and written down among the decisions, with who it was.
"""

import logging

import click

from celery_autoscaler import dead_letters, fleet_status, overrides
from celery_autoscaler.broker import Broker
from celery_autoscaler.keys import worker_name
from celery_autoscaler.text import as_text

logger = logging.getLogger(__name__)


class Refused(click.ClickException):
    """A wish that cannot be granted; the message says why in one line."""

    def __init__(self, why: str) -> None:
        super().__init__(as_text(why))


def pause(broker: Broker, by: str, group: str | None = None) -> str:
    """Start and stop no workers of a group, or of any; return what is so now, in words.

    Raises:
        Refused: No living supervisor has such a group.
    """
    name = known_group(broker, group)
    overrides.change(broker, name, by, paused=True)
    _write_down(broker, name, by, f"paused by {by}")
    return f"{group or 'all groups'}: paused"


def resume(broker: Broker, by: str, group: str | None = None) -> str:
    """Take the pause of a group back, or every pause; return what is so now, in words.

    Raises:
        Refused: There is no such group, or the pause is one of all groups.
    """
    name, paused = known_group(broker, group), overrides.paused(broker)
    if group is not None and overrides.ALL in paused:
        raise Refused(f"all groups are paused, not {group} alone: resume all of them")
    for each in {name} if group else paused:
        overrides.change(broker, each, by, paused=None)
    _write_down(broker, name, by, f"resumed by {by}")
    return f"{group or 'all groups'}: no longer paused"


def scale(
    broker: Broker, by: str, group: str, minimum: int | None, maximum: int | None, *, reset: bool = False
) -> str:
    """Change the bounds of a group, or go back to its settings; return what is so now, in words.

    Raises:
        Refused: There is no such group, or these are no bounds.
    """
    if not reset and minimum is None and maximum is None:
        raise Refused("give --min, --max or --reset")
    if minimum is not None and maximum is not None and minimum > maximum:
        raise Refused(f"--min {minimum} is more than --max {maximum}")
    name = known_group(broker, group)
    given = {"minimum": minimum, "maximum": maximum}
    wishes = {bound: value for bound, value in given.items() if reset or value is not None}
    now = overrides.change(broker, name, by, **wishes)
    bounds = [f"{bound} {now[bound]}" for bound in given if bound in now]
    words = ", ".join(bounds) or "the bounds of its settings"
    _write_down(broker, name, by, f"{words}, set by {by}")
    return f"{group}: {words}"


def drain(broker: Broker, by: str, worker: str, *, undo: bool = False) -> str:
    """Let a worker take nothing new, or take messages again; return what is so now, in words.

    Raises:
        Refused: There is no such worker.
    """
    if worker not in {worker_name(name) for name in workers(broker)}:
        raise Refused(f"no worker '{worker}' has a lease")
    if undo:
        broker.client.srem(broker.keys.drain, worker)
    else:
        broker.client.sadd(broker.keys.drain, worker)
    words = f"{worker}: {'takes messages again' if undo else 'takes nothing new'}"
    _write_down(broker, worker.partition("@")[0].rpartition("-")[0], by, f"{words}, wanted by {by}")
    return words


def replay(broker: Broker, by: str, queue: str) -> str:
    """Send the dead letters of a queue to their lists again; return what was done, in words."""
    words = f"{queue}: {dead_letters.replay(broker, queue)} messages sent again"
    _write_down(broker, _group_of(broker, queue), by, f"{words} by {by}")
    return words


def purge(broker: Broker, by: str, queue: str) -> str:
    """Delete the dead letters of a queue; return what was done, in words."""
    words = f"{queue}: {dead_letters.purge(broker, queue)} messages deleted"
    _write_down(broker, _group_of(broker, queue), by, f"{words} by {by}")
    return words


def known_group(broker: Broker, group: str | None) -> str:
    """Return a group's name for the overrides.

    Raises:
        Refused: No living supervisor has such a group.
    """
    if group is None:
        return overrides.ALL
    groups = fleet_status.fleet_status(broker).groups
    if groups and group not in groups:
        raise Refused(f"no group '{group}'; there are: {', '.join(sorted(groups))}")
    return group


def workers(broker: Broker) -> list[str]:
    """Return the ids of the workers that have a lease, or had one and were not given up."""
    return [member.decode() for member in broker.client.zrange(broker.keys.workers, 0, -1)]


def _group_of(broker: Broker, queue: str) -> str:
    """Return the group that serves a queue."""
    groups = fleet_status.fleet_status(broker).groups
    return next((name for name, group in groups.items() if queue in group["queues"]), overrides.ALL)


def _write_down(broker: Broker, group: str, by: str, words: str) -> None:
    """Write among the decisions what an operator wanted."""
    seconds, microseconds = broker.client.time()
    entry = {"at": f"{seconds + microseconds / 1e6:.3f}", "group": group, "reason": words, "by": by}
    fleet_status.write(broker, {**fleet_status.NOTHING_MOVED, **entry})
