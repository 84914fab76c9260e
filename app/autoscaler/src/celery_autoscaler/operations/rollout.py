"""Replace running workers by others, and wait until that is done.

The supervisor of their host does it: it starts another worker first, and lets the old one drain once that
consumes. A worker that is replaced because its host runs another release now, starts on that release.
"""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from celery_autoscaler.operations.known import Known, group_of, known
from celery_autoscaler.operations.overrides import paused
from celery_autoscaler.protocol.broker import Broker
from celery_autoscaler.protocol.keys import worker_name
from celery_autoscaler.protocol.lenient import text
from celery_autoscaler.protocol.text import missing
from celery_autoscaler.supervisor.fleet_status import FleetStatus, fleet_status

# Seconds between two looks.
LOOK = 0.5
# Failed starts of a group after which its workers are not replaced.
FAILURES = 3
# Seconds without any progress, where nothing drains, after which it is given up.
STALLED = 180.0


@dataclass(frozen=True)
class RolloutError(Exception):
    """Workers could not be replaced: one line that says why."""

    reason: str
    unsupervised: bool = False
    """Whether there is no supervisor on this broker that could do it."""

    def __str__(self) -> str:
        return self.reason


def replace_workers(
    broker: Broker, names: Collection[str], say: Callable[[str], None], *, stalled: float = STALLED
) -> None:
    """Replace workers and return when the last of them has ended; those that start or end are passed over.

    Args:
        broker: The broker.
        names: Celery's names of the workers, ``group-n@host``.
        say: Is told of each step in one line.
        stalled: Seconds without progress after which it is given up.

    Raises:
        RolloutError: It cannot be done, or those that take their place do not start. The workers that were
            not replaced go on.
    """
    keys, client = broker.keys, broker.client
    refuse_unknown(known(broker), names)
    wanted = {worker_id for worker_id in living(broker) if worker_name(worker_id) in names}
    if not wanted:
        return
    refuse(broker, fleet_status(broker), wanted)
    before = failed_starts(fleet_status(broker))
    client.sadd(keys.replace, *wanted)
    left, since = set(wanted), time.monotonic()
    try:
        while left:
            time.sleep(LOOK)
            status = fleet_status(broker)
            now_left = left & living(broker)
            if now_left != left:
                say(f"{len(wanted) - len(now_left)} of {len(wanted)} workers replaced")
            if now_left != left or any(worker["state"] == "draining" for worker in status.workers):
                since = time.monotonic()
            left = now_left
            refuse_failing(status, left, before)
            if left and time.monotonic() - since > stalled:
                held = held_back(status, left)
                raise RolloutError(f"{len(left)} workers could not be replaced within {stalled:g} s{held}")
    finally:
        client.srem(keys.replace, *wanted)


def living(broker: Broker) -> set[str]:
    """Return the ids of the workers that have a lease."""
    return {text(member) for member in broker.client.zrange(broker.keys.workers, 0, -1)}


def group_and_host(worker_id: str) -> tuple[str, str]:
    """Return the group and the host in a worker's id."""
    instance, _, host = worker_name(worker_id).partition("@")
    return instance.rpartition("-")[0], host


def refuse_unknown(there: Known, names: Collection[str]) -> None:
    """Raise RolloutError for a name that is none; beside others, one that may have ended is passed over."""
    unknown = sorted(set(names) - there.workers)
    for name in unknown:
        is_plausible = (
            group_of(name) in there.status.groups and name.partition("@")[2] in there.status.supervisors
        )
        if not is_plausible or len(unknown) == len(set(names)):
            raise RolloutError(missing("worker", name, there.workers), not there.status.supervisors)


def refuse(broker: Broker, status: FleetStatus, wanted: Collection[str]) -> None:
    """Raise RolloutError where nobody would replace the workers."""
    for group, host in sorted({group_and_host(worker_id) for worker_id in wanted}):
        if host not in status.supervisors:
            raise RolloutError(f"{host}: no supervisor is alive that could replace its workers", True)
        if paused(broker) & {group, "*"}:
            raise RolloutError(f"{group} is paused: nothing is started or stopped until it is resumed")


def failed_starts(status: FleetStatus) -> dict[tuple[str, str], int]:
    """Return how many starts have failed, by group and host."""
    return {
        (name, host): group.get("failed_starts", 0)
        for host, supervisor in status.supervisors.items()
        for name, group in supervisor.get("groups", {}).items()
    }


def refuse_failing(status: FleetStatus, left: Collection[str], before: Mapping[tuple[str, str], int]) -> None:
    """Raise RolloutError if what takes the workers' place fails again and again."""
    for group, host in {group_and_host(worker_id) for worker_id in left}:
        found = failed_starts(status).get((group, host), 0) - before.get((group, host), 0)
        if found >= FAILURES:
            why = group_status(status, group, host)["last_failure"]
            raise RolloutError(f"{host}: {found} starts of workers of {group} failed: {why}")


def held_back(status: FleetStatus, left: Collection[str]) -> str:
    """Return what keeps supervisors from replacing workers, in words."""
    found = [group_status(status, *group_and_host(worker_id)).get("held_back", "") for worker_id in left]
    return next((f": {why}" for why in found if why), "")


def group_status(status: FleetStatus, group: str, host: str) -> Mapping[str, Any]:
    """Return what a host's supervisor says of a group."""
    found: Mapping[str, Any] = status.supervisors.get(host, {}).get("groups", {}).get(group, {})
    return found
