"""What operators want of the fleet, from the command line or from the page.

Each request is checked against what exists, done, and recorded among the decisions with who sent it.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import click

from celery_autoscaler.operations import dead_letters, failures, overrides
from celery_autoscaler.operations.known import Known, known, queues_with_dead_letters
from celery_autoscaler.operations.overrides import Sender
from celery_autoscaler.protocol.broker import Broker
from celery_autoscaler.protocol.decision import DecisionRecord
from celery_autoscaler.protocol.description import Description
from celery_autoscaler.protocol.identity import group_of
from celery_autoscaler.protocol.overrides import ALL
from celery_autoscaler.protocol.reading import MOST_NAME, MOST_WORKERS
from celery_autoscaler.protocol.spans import read_span, span_words
from celery_autoscaler.protocol.text import as_text, listed, missing
from celery_autoscaler.settings import GROUP_NAME
from celery_autoscaler.supervisor import fleet_status


class Refused(click.ClickException):
    """A request that cannot be done; the message says why in one line.

    Any host gives the same answer: a playbook asks no other one, by the exit status.
    """

    exit_code = 4

    def __init__(self, why: str) -> None:
        super().__init__(as_text(why))


def pause(broker: Broker, sender: Sender, group: str | None = None, app: Description | None = None) -> str:
    """Start and stop no workers of a group, or of any; return what is so now, in words.

    Raises:
        Refused: No living supervisor has such a group.
    """
    name = known_group(known(broker, app), group)
    overrides.change(broker, name, sender, paused=True)
    _write_down(broker, name, sender.by, f"paused{words(sender)}")
    return f"{group or 'all groups'}: paused{span(sender)}"


def resume(broker: Broker, by: str, group: str | None = None, app: Description | None = None) -> str:
    """Take the pause of a group back, or every pause; return what is so now, in words.

    Raises:
        Refused: There is no such group, or the pause is one of all groups.
    """
    name, paused = known_group(known(broker, app), group), overrides.paused(broker)
    if group is not None and ALL in paused:
        raise Refused(f"all groups are paused, not {group} alone: resume all of them")
    for each in {name} if group else paused:
        overrides.change(broker, each, Sender(by), paused=False)
    _write_down(broker, name, by, f"resumed by {by}")
    return f"{group or 'all groups'}: resumed"


def scale(
    broker: Broker,
    sender: Sender,
    group: str,
    min_workers: int | None,
    max_workers: int | None,
    *,
    reset: bool = False,
    app: Description | None = None,
) -> str:
    """Change the bounds of a group, or go back to its settings; return what is so now, in words.

    Raises:
        Refused: There is no such group, or these are no bounds.
    """
    if not reset and min_workers is None and max_workers is None:
        raise Refused("give --min-workers, --max-workers or --reset")
    given = {"min_workers": min_workers, "max_workers": max_workers}
    there = known(broker, app)
    name = known_group(there, group)
    refuse_bounds(name, min_workers, max_workers, {} if reset else bounds_now(broker, there, name))
    changes = {bound: value for bound, value in given.items() if reset or value is not None}
    now = overrides.change(broker, name, sender, **changes)
    set_now = {"min_workers": now.min_workers, "max_workers": now.max_workers}
    bounds = [f"{bound} {value}" for bound, value in set_now.items() if value is not None]
    done = ", ".join(bounds) or "bounds reset to the settings"
    _write_down(broker, name, sender.by, f"{done}, set{words(sender)}")
    return f"{group}: {done}{span(sender)}"


def bounds_now(broker: Broker, there: Known, group: str) -> dict[str, int]:
    """Return the bounds of a group as far as they are known: those of its settings, or what was set since."""
    found: dict[str, int] = {}
    if (settings := there.settings.get(group)) is not None:
        found = {"min_workers": settings.min_workers, "max_workers": settings.max_workers}
    if (status := there.status.groups.get(group)) is not None:
        found = {"min_workers": status.min_workers, "max_workers": status.max_workers}
    own = overrides.read(broker, group).all
    set_now = {"min_workers": own.min_workers, "max_workers": own.max_workers}
    return found | {bound: value for bound, value in set_now.items() if value is not None}


def sender_of(by: str, because: str = "", span: str = "") -> Sender:
    """Return who wants something, why, and for how long.

    Raises:
        Refused: The reason is too long, or the span is none.
    """
    if len(because.encode()) > MOST_NAME:
        raise Refused(f"the reason has {len(because.encode())} bytes; at most {MOST_NAME} are kept")
    try:
        return Sender(by, as_text(because.strip()), read_span(span) if span else 0)
    except ValueError as error:
        raise Refused(str(error)) from error


def words(sender: Sender) -> str:
    """Return who wants something, for how long, and why."""
    because = f": {sender.because}" if sender.because else ""
    return f" by {sender.by}{span(sender)}{because}"


def span(sender: Sender) -> str:
    """Return for how long something is wanted; nothing if until it is taken back."""
    return f" for {span_words(sender.seconds)}" if sender.seconds else ""


def refuse_bounds(group: str, min_workers: int | None, max_workers: int | None, now: dict[str, int]) -> None:
    """Refuse bounds that no group can have, or that contradict the one that stays.

    Raises:
        Refused: They are none.
    """
    for name, value, least in (("min_workers", min_workers, 0), ("max_workers", max_workers, 1)):
        if value is not None and not least <= value <= MOST_WORKERS:
            raise Refused(f"{group}: {name} {value}: allowed is {least} to {MOST_WORKERS}")
    if min_workers is not None and max_workers is not None:
        if min_workers > max_workers:
            raise Refused(f"--min-workers {min_workers} is more than --max-workers {max_workers}")
    elif min_workers is not None and min_workers > (high := now.get("max_workers", MOST_WORKERS)):
        raise Refused(f"{group}: min_workers {min_workers} is more than its max_workers {high}: set both")
    elif max_workers is not None and max_workers < (low := now.get("min_workers", 0)):
        raise Refused(f"{group}: max_workers {max_workers} is less than its min_workers {low}: set both")


def drain(broker: Broker, by: str, worker: str, *, undo: bool = False) -> str:
    """Let a worker take nothing new, or take messages again; return what is so now, in words.

    Raises:
        Refused: There is no such worker.
    """
    workers = known(broker).workers
    if worker not in workers:
        raise Refused(missing("worker", worker, workers))
    if undo:
        broker.client.srem(broker.keys.drain, worker)
    else:
        broker.client.sadd(broker.keys.drain, worker)
    done = f"{worker}: {'drain cancelled' if undo else 'draining'}"
    _write_down(broker, group_of(worker), by, f"{done}, wanted by {by}")
    return done


def drain_host(broker: Broker, by: str, host: str) -> None:
    """Let a host run no workers.

    Raises:
        Refused: No supervisor on such a host is alive.
    """
    hosts = known(broker).status.supervisors
    if host not in hosts:
        raise Refused(missing("host", host, hosts))
    broker.client.hset(broker.keys.leaving, host, by)


def use_host(broker: Broker, host: str) -> str:
    """Let a host run workers again; return what is so now, in words.

    Raises:
        Refused: There is no such host.
    """
    hosts = known(broker).hosts
    if host not in hosts:
        raise Refused(missing("host", host, hosts))
    broker.client.hdel(broker.keys.leaving, host)
    return f"{host}: runs workers again"


def replay(broker: Broker, by: str, queue: str, app: Description | None = None) -> str:
    """Send the dead letters of a queue to their lists again; return what was done, in words.

    Raises:
        Refused: There is no such queue.
    """
    group = group_of_queue(broker, queue, app)
    done = f"{queue}: {dead_letters.replay(broker, queue)} messages sent again"
    _write_down(broker, group, by, f"{done} by {by}")
    return done


def purge(broker: Broker, by: str, queue: str, app: Description | None = None) -> str:
    """Delete the dead letters of a queue; return what was done, in words.

    Raises:
        Refused: There is no such queue.
    """
    group = group_of_queue(broker, queue, app)
    done = f"{queue}: {dead_letters.purge(broker, queue)} messages deleted"
    _write_down(broker, group, by, f"{done} by {by}")
    return done


def retry(broker: Broker, by: str, tasks: Sequence[failures.Kept], pause: Callable[[], Any]) -> int:
    """Send the messages of failed tasks again, and pause after each; return how many were sent."""
    sent = failures.retry(broker, tasks, by, pause)
    names = listed(sorted({each.failure.task for each in tasks}))
    if sent:
        _write_down(broker, ALL, by, f"{sent} failed tasks sent again by {by}: {names}")
    return sent


def known_group(there: Known, group: str | None) -> str:
    """Return a group's name for the overrides.

    Raises:
        Refused: There is no such group.
    """
    if group is None:
        return ALL
    # Without a supervisor and settings that is unknown; a name that no group can have is none.
    if (there.groups and group not in there.groups) or not re.fullmatch(GROUP_NAME, group):
        raise Refused(missing("group", group, there.groups))
    return group


def group_of_queue(broker: Broker, queue: str, app: Description | None = None) -> str:
    """Return the group that serves a queue; ``*`` for one that has dead letters and no group.

    Raises:
        Refused: There is no such queue.
    """
    there = known(broker, app)
    queues = there.queues | queues_with_dead_letters(broker)
    if queue not in queues:
        raise Refused(missing("queue", queue, queues))
    groups = there.status.groups
    return next((name for name, group in groups.items() if queue in group.queues), ALL)


def _write_down(broker: Broker, group: str, by: str, words: str) -> None:
    """Write among the decisions what an operator wanted."""
    seconds, microseconds = broker.client.time()
    at = seconds + microseconds / 1e6
    fleet_status.write(broker, DecisionRecord(at=at, group=group, reason=words, by=by))
