"""What keeps this host from starting another worker in one tick."""

from dataclasses import dataclass

from celery_autoscaler.supervisor.context import Context
from celery_autoscaler.supervisor.group_state import GroupState
from celery_autoscaler.supervisor.policy.limits import HostSeen
from celery_autoscaler.supervisor.tick import Tick


@dataclass(frozen=True)
class Shortage:
    """What keeps this host from starting a worker."""

    kind: str = ""
    """CPU, memory, Redis or back-off; nothing if nothing does."""
    words: str = ""

    def __bool__(self) -> bool:
        return bool(self.words)


class StartRoom:
    """The room that Redis and this host have for more workers in one tick."""

    def __init__(self, context: Context, tick: Tick) -> None:
        self.context = context
        self.tick = tick
        self._clients = self._workers_for_clients()

    def take_one(self) -> None:
        """Note that a worker was started: it will need clients of Redis."""
        if self._clients is not None:
            self._clients -= 1

    def shortage(self, state: GroupState, host: HostSeen) -> Shortage:
        """Return what keeps this host from starting a worker of a group.

        Args:
            state: The group.
            host: What is seen of the host, or the part of it that matters.
        """
        fleet = self.tick.fleet
        if fleet.short:
            return Shortage("Redis", fleet.short)
        if self._clients is not None and self._clients < 1:
            clients, each = fleet.clients, self.context.clients_per_worker.value
            return Shortage(
                "Redis",
                f"Redis has {clients.connected} of at most {clients.most} clients, a worker takes {each:.0f}",
            )
        memory = [w.memory for w in fleet.workers if w.alive and w.group == state.group.name and w.memory]
        words = self.context.host_limits.against_starts(
            host,
            slowing=self.context.slowdown.is_slowing,
            worker_memory=state.group.memory_max or max(memory, default=0),
            starting=self.context.count(None, "starting"),
        )
        if words:
            return Shortage("CPU" if words.startswith("CPU") else "memory", words)
        return Shortage("back-off", state.backoff.explain(self.tick.now))

    def children(self, state: GroupState, host: HostSeen) -> int:
        """Return how many slots the workers of a group may add on this host.

        A fork takes no place in the queue of starts; what the host and Redis are short of holds it back too.
        """
        fleet = self.tick.fleet
        if fleet.short or (self._clients is not None and self._clients < 1):
            return 0
        shares = [
            w.memory // (w.concurrency + 1)
            for w in fleet.workers
            if w.alive and w.group == state.group.name and w.memory
        ]
        return self.context.host_limits.children(
            host, slowing=self.context.slowdown.is_slowing, child_memory=max(shares, default=0)
        )

    def _workers_for_clients(self) -> int | None:
        """Return how many workers this host may start before Redis runs out of clients."""
        fleet, host = self.tick.fleet, self.context.host
        hosts = sorted({host, *(peer.host for peer in fleet.peers)})
        starting = {name for names in fleet.claims.values() for name in names}
        starting -= {worker.name for worker in fleet.workers if worker.state}
        return self.context.clients_per_worker.room(
            fleet.clients, len(starting), len(hosts), hosts.index(host)
        )
