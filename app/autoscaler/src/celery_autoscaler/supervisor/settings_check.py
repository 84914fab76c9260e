"""Look for settings that cost tasks or time: those of the app, of the supervisor and of the Redis server."""

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from celery_autoscaler.protocol.broker import Broker
from celery_autoscaler.protocol.description import Description
from celery_autoscaler.protocol.orphans import orphans
from celery_autoscaler.protocol.text import as_text
from celery_autoscaler.settings import Group, Settings
from celery_autoscaler.supervisor.clock import TOLERATED_SECONDS
from celery_autoscaler.supervisor.fleet_status import fleet_status

# Clients of the server that a worker takes, where no supervisor has measured it.
CONNECTIONS = 10


@dataclass(frozen=True)
class Finding:
    """Something that should be otherwise."""

    is_error: bool
    """Whether tasks can be lost or run twice by it."""
    text: str

    @property
    def level(self) -> str:
        """How bad it is, in a word."""
        return "error" if self.is_error else "warning"

    def __str__(self) -> str:
        return f"{self.level}: {self.text}"

    def as_dict(self) -> dict[str, str]:
        """Return it for other programs."""
        return {"level": self.level, "text": self.text}


def check(app: Description, settings: Settings, broker: Broker) -> list[Finding]:
    """Return what is found, errors first.

    Raises:
        redis.RedisError: The server does not answer.
    """
    found = [
        *check_settings(app, settings),
        *check_server(settings, broker),
        *check_supervisors(broker),
    ]
    for group in settings.groups.values():
        found += check_experience(group, broker)
    return errors_first(found)


def check_settings(app: Description, settings: Settings | None) -> list[Finding]:
    """Return what is found without a server, errors first; without a supervisor in the app alone."""
    found = [*check_app(app)]
    if settings is not None:
        found += check_queues(app, settings)
        for group in settings.groups.values():
            found += check_group(app, group)
    return errors_first(found)


def errors_first(found: list[Finding]) -> list[Finding]:
    """Return findings in the order in which they matter."""
    return sorted(found, key=lambda finding: not finding.is_error)


def errors(found: list[Finding]) -> list[str]:
    """Return what can lose or double tasks, or leave them waiting."""
    return [finding.text for finding in found if finding.is_error]


def check_app(app: Description) -> Iterator[Finding]:
    """Look at the settings of the app."""
    if not app.acks_late:
        yield Finding(True, "task_acks_late is off: a worker that is killed loses the tasks it runs")
    elif not app.reject_on_worker_lost:
        yield Finding(
            True,
            "task_reject_on_worker_lost is off: a task is lost if its process is killed when memory is short",
        )
    if app.prefetch_multiplier != 1:
        yield Finding(
            False,
            f"worker_prefetch_multiplier={app.prefetch_multiplier:g}: tasks wait behind long ones in a "
            "worker while others are idle; 1 is right unless tasks take a few milliseconds",
        )
    if "visibility_timeout" in app.transport_options:
        seconds = app.transport_options["visibility_timeout"]
        yield Finding(
            False,
            f"visibility_timeout={seconds}: the workers of this fleet need none; in plain workers beside "
            "them, tasks that run or wait for longer run twice",
        )
    if os.environ.get("REMAP_SIGTERM"):
        yield Finding(
            True, f"REMAP_SIGTERM={os.environ['REMAP_SIGTERM']}: stopping a worker interrupts its tasks"
        )


def check_queues(app: Description, settings: Settings) -> Iterator[Finding]:
    """Compare the queues of the app with those of the groups."""
    served = {queue for group in settings.groups.values() for queue in group.queues}
    for queue in sorted(set(app.queues) - served):
        yield Finding(True, f"queue {queue} of the app belongs to no group: its tasks wait forever")
    for queue in sorted(set(app.routed) - set(app.queues) - served):
        yield Finding(False, f"queue {queue} of the app's task_routes belongs to no group: who serves it?")
    for queue in sorted(served - set(app.queues) - set(app.routed)):
        yield Finding(
            False, f"queue {queue} is in neither task_queues nor task_routes of the app: is the name right?"
        )


def check_group(app: Description, group: Group) -> Iterator[Finding]:
    """Look at the settings of a group."""
    if autoscale := group.options.get("autoscale"):
        most, _, least = str(autoscale).partition(",")
        if least and int(least) > int(most):
            yield Finding(True, f"{group.name}: autoscale={autoscale} is the wrong way round: it is max,min")
        else:
            yield Finding(
                False,
                f"{group.name}: autoscale={autoscale}: the supervisor counts on {group.concurrency} slots",
            )
    limit = app.time_limit
    if limit and limit > group.drain_timeout:
        yield Finding(
            False,
            f"{group.name}: drain_timeout={group.drain_timeout:g} is shorter than task_time_limit={limit:g}: "
            "a stop gives running tasks back",
        )


def wrong_address(address: str) -> str:
    """Return why an address is none of this host; nothing if it is one, whatever has its port now."""
    if not address or address.startswith("unix:"):
        return ""
    host = address.rpartition(":")[0].strip("[]")
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.bind((host, 0))
    except OSError as error:
        return f"{host} is no address of this host ({error.strerror})"
    return ""


def check_experience(group: Group, broker: Broker) -> Iterator[Finding]:
    """Compare the settings of a group with what its workers were seen to do."""
    seen = fleet_status(broker).groups.get(group.name)
    if seen is None:
        return
    takes, startup = seen.service_time, seen.startup
    if takes and takes > group.drain_timeout:
        yield Finding(
            False,
            f"{group.name}: its tasks take {takes:.0f} s on average, longer than drain_timeout="
            f"{group.drain_timeout:g}: a stop gives them back",
        )
    if group.min_workers == 0 and startup > group.target_wait:
        yield Finding(
            False,
            f"{group.name}: a start takes {startup:.0f} s: with min_workers=0 the target wait of "
            f"{group.target_wait:g} s cannot be met",
        )


def check_supervisors(broker: Broker) -> Iterator[Finding]:
    """Look at what the living supervisors say of their hosts and of what they read."""
    for host, status in sorted(fleet_status(broker).supervisors.items()):
        offset = status.clock_offset
        if abs(offset) > TOLERATED_SECONDS:
            where = "behind" if offset > 0 else "ahead of"
            yield Finding(
                False,
                f"{host}: its clock is {abs(offset):.0f} s {where} that of Redis: tasks with an ETA start at "
                "the wrong time there",
            )
        for kind, found in status.unreadable.items():
            for name in found.names:
                yield Finding(False, f"{host}: unreadable, ignored: {kind} {name}")


def check_server(settings: Settings, broker: Broker) -> Iterator[Finding]:
    """Look at the Redis server."""
    info = broker.client.info()
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        yield Finding(True, f"Redis has maxmemory-policy {policy}: when it is full it drops tasks")
    if not info.get("aof_enabled"):
        yield Finding(False, "Redis has no append-only file: when it is killed, tasks are lost")
    for worker_id, messages in orphans(broker.client, broker.keys):
        yield Finding(
            True,
            f"{messages} messages are recorded for {as_text(worker_id)}, which is not a worker: they are "
            "given back within minutes, or at once by `fleet recover`",
        )
    most = int(info.get("maxclients", 0))
    measured = [status.clients.per_worker for status in fleet_status(broker).supervisors.values()]
    needed = round(max(measured, default=0) or CONNECTIONS) * sum(
        group.max_workers for group in settings.groups.values()
    )
    if most and needed > most:
        yield Finding(False, f"Redis allows {most} clients; at their maximum the workers need about {needed}")
