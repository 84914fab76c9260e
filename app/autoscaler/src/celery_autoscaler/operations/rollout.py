"""Replace running workers by others, and wait until that is done.

The supervisor of their host does it: it starts another worker first, and lets the old one drain once that
consumes. A worker that is replaced because its host runs another release now, starts on that release.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from celery_autoscaler.operations.known import Known, known
from celery_autoscaler.operations.overrides import paused
from celery_autoscaler.protocol.broker import Broker
from celery_autoscaler.protocol.identity import group_of, host_of, worker_name
from celery_autoscaler.protocol.lease import leased_workers
from celery_autoscaler.protocol.status import START_TIMEOUT_SECONDS, GroupStatus, SupervisorStatus
from celery_autoscaler.protocol.text import missing
from celery_autoscaler.supervisor.fleet_status import FleetStatus, fleet_status

# Seconds between two looks.
LOOK_SECONDS = 0.5
# Failed starts of a group after which its workers are not replaced.
FAILURES = 3
# Seconds without any progress, where nothing drains, after which it is given up: beside those of a start.
STALLED_SECONDS = 60.0


@dataclass(frozen=True)
class RolloutError(Exception):
    """Workers could not be replaced: one line that says why."""

    reason: str
    unsupervised: bool = False
    """Whether there is no supervisor on this broker that could do it."""

    def __str__(self) -> str:
        return self.reason


def replace_workers(
    broker: Broker, names: Collection[str], say: Callable[[str], None], *, stalled: float | None = None
) -> None:
    """Replace workers and return when the last of them has ended; those that start or end are passed over.

    Args:
        broker: The broker.
        names: Celery's names of the workers, ``group-n@host``.
        say: Gets one line for each step.
        stalled: Seconds without progress after which it is given up; without them, those of a start and more.

    Raises:
        RolloutError: It cannot be done, or those that take their place do not start. The workers that were
            not replaced go on.
    """
    keys, client = broker.keys, broker.client
    refuse_unknown(known(broker), names)
    wanted = {worker_id for worker_id in leased_workers(client, keys) if worker_name(worker_id) in names}
    if not wanted:
        return
    refuse(broker, fleet_status(broker), wanted)
    before = failed_starts(fleet_status(broker))
    client.sadd(keys.replace, *wanted)
    left, since = set(wanted), time.monotonic()
    try:
        while left:
            time.sleep(LOOK_SECONDS)
            status = fleet_status(broker)
            now_left = left.intersection(leased_workers(client, keys))
            if now_left != left:
                say(f"{len(wanted) - len(now_left)} of {len(wanted)} workers replaced")
            if now_left != left or any(worker.state == "draining" for worker in status.workers):
                since = time.monotonic()
            left = now_left
            refuse_failing(status, left, before)
            allowed = STALLED_SECONDS + start_timeout(status) if stalled is None else stalled
            if left and time.monotonic() - since > allowed:
                held = held_back(status, left)
                raise RolloutError(f"{len(left)} workers could not be replaced within {allowed:g} s{held}")
    finally:
        client.srem(keys.replace, *wanted)


def groups_and_hosts(worker_ids: Iterable[str]) -> set[tuple[str, str]]:
    """Return the groups of workers, each with the host."""
    return {(group_of(name), host_of(name)) for name in map(worker_name, worker_ids)}


def refuse_unknown(there: Known, names: Collection[str]) -> None:
    """Raise RolloutError for a name that is none; beside others, one that may have ended is passed over."""
    unknown = sorted(set(names) - there.workers)
    for name in unknown:
        is_plausible = group_of(name) in there.status.groups and host_of(name) in there.status.supervisors
        if not is_plausible or len(unknown) == len(set(names)):
            raise RolloutError(missing("worker", name, there.workers), not there.status.supervisors)


def refuse(broker: Broker, status: FleetStatus, wanted: Collection[str]) -> None:
    """Raise RolloutError where no supervisor would replace the workers."""
    for group, host in sorted(groups_and_hosts(wanted)):
        if host not in status.supervisors:
            raise RolloutError(f"{host}: no supervisor is alive that could replace its workers", True)
        if paused(broker) & {group, "*"}:
            raise RolloutError(f"{group} is paused: nothing is started or stopped until it is resumed")


def failed_starts(status: FleetStatus) -> dict[tuple[str, str], int]:
    """Return how many starts have failed, by group and host."""
    return {
        (name, host): group.failed_starts
        for host, supervisor in status.supervisors.items()
        for name, group in supervisor.groups.items()
    }


def refuse_failing(status: FleetStatus, left: Collection[str], before: Mapping[tuple[str, str], int]) -> None:
    """Raise RolloutError if what takes the workers' place fails again and again."""
    for group, host in groups_and_hosts(left):
        found = failed_starts(status).get((group, host), 0) - before.get((group, host), 0)
        if found >= FAILURES:
            why = group_status(status, group, host).last_failure
            raise RolloutError(f"{host}: {found} starts of workers of {group} failed: {why}")


def start_timeout(status: FleetStatus) -> float:
    """Return how long a worker may take to start, wherever in the fleet that is longest."""
    return max((one.start_timeout for one in status.supervisors.values()), default=START_TIMEOUT_SECONDS)


def held_back(status: FleetStatus, left: Collection[str]) -> str:
    """Return what keeps supervisors from replacing workers, in words."""
    found = [group_status(status, group, host).held_back for group, host in groups_and_hosts(left)]
    return next((f": {why}" for why in found if why), "")


def group_status(status: FleetStatus, group: str, host: str) -> GroupStatus:
    """Return what a host's supervisor says of a group; all defaults where it says nothing."""
    supervisor = status.supervisors.get(host, SupervisorStatus())
    return supervisor.groups.get(group, GroupStatus())
