"""The workers of a group that consume, and the slots that each of them may have."""

from celery_autoscaler.settings import Group
from celery_autoscaler.supervisor.observation import FleetSeen
from celery_autoscaler.supervisor.policy.stretch import Member


def members(group: Group, fleet: FleetSeen) -> list[Member]:
    """Return the workers of a group that consume.

    One whose host has no supervisor is told nothing, and one on a host that is short of something does not
    grow. Workers of a release that does not stretch keep their slots.
    """
    limits = {
        peer.host: peer.limits.get(group.name, 0) for peer in fleet.peers if peer.host not in fleet.leaving
    }
    found = []
    for worker in fleet.workers:
        consumes = worker.alive and worker.group == group.name and worker.state == "running"
        if not consumes or worker.name in fleet.draining:
            continue
        least = most = worker.slots
        if group.max_concurrency and worker.max_concurrency and worker.host in limits:
            least = min(group.concurrency, worker.max_concurrency)
            most = min(group.max_concurrency, worker.max_concurrency)
            if limits[worker.host] is not None:
                most = max(least, min(most, worker.slots))
        found.append(
            Member(
                name=worker.name,
                host=worker.host,
                slots=worker.slots,
                least=least,
                most=most,
                has=worker.concurrency,
                busy=worker.active + worker.reserved,
            )
        )
    return found
