"""What a host can bear: when it starts no worker, how many at a time, and whose turn it is. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class HostSeen:
    """What a supervisor sees of its host, or of the cgroup that it runs in."""

    cpus: float = 1.0
    cpu: float = 0.0
    """Per cent of the CPUs in use."""
    memory: float = 0.0
    """Per cent of the memory in use."""
    memory_limit: int = 0
    """Bytes, 0 if not known."""
    memory_pressure: float = 0.0
    """Per cent of the last 10 s in which something waited for memory (PSI)."""
    cpu_pressure: float = 0.0
    """Per cent of the last 10 s in which something waited for a CPU (PSI)."""

    def with_idle_cpus(self) -> "HostSeen":
        """Return the same, as if the CPUs had time."""
        return replace(self, cpu=0.0, cpu_pressure=0.0)


# Pressure stall information above which nothing is started, in per cent.
MEMORY_PRESSURE_PERCENT = 10.0
CPU_PRESSURE_PERCENT = 60.0
# Workers that may be starting at a time for each CPU.
STARTS_PER_CPU = 2
# Seconds after which a start that needs a CPU would show in its use, and the use below which it needs none.
START_SHOWS_SECONDS = 5.0
CPU_ROOM_PERCENT = 70.0
# Children that a host adds at a time where nothing is known that limits them.
MOST_CHILDREN = 10_000
# What a sum of weights may be wrong by.
ROUNDING = 1e-9
# Seconds between two workers given up because the host is short of something, and before any is started.
SETTLE_SECONDS = 10.0


@dataclass
class HostLimits:
    """What keeps a host from starting workers, or makes it give one up."""

    cpu_threshold: float
    memory_threshold: float
    _last: float = -math.inf
    _short_since: float | None = None

    def against_starts(self, host: HostSeen, *, slowing: bool, worker_memory: int, starting: int) -> str:
        """Return what the host is too short of to start a worker; nothing if it is not.

        Args:
            host: What is seen of the host.
            slowing: Whether tasks take longer lately.
            worker_memory: Bytes that one more worker would take; 0 if not known.
            starting: Workers of the host that are starting.
        """
        if host.memory > self.memory_threshold:
            return f"memory usage is {host.memory:.0f} %, above {self.memory_threshold:g} %"
        room = self._memory_room(host)
        if host.memory_limit and worker_memory * (starting + 1) > room:
            return (
                f"a worker takes {worker_memory / 2**20:.0f} MiB, {room / 2**20:.0f} MiB are left below "
                f"{self.memory_threshold:g} % of memory"
            )
        if host.memory_pressure > MEMORY_PRESSURE_PERCENT:
            return f"memory is under pressure: something waited for it {host.memory_pressure:.0f} % of 10 s"
        if host.cpu > self.cpu_threshold:
            return f"CPU usage is {host.cpu:.0f} %, above {self.cpu_threshold:g} %"
        if host.cpu_pressure > CPU_PRESSURE_PERCENT and slowing:
            return f"CPU is under pressure ({host.cpu_pressure:.0f} %) and tasks take longer than before"
        return ""

    def children(self, host: HostSeen, *, slowing: bool, child_memory: int) -> int:
        """Return how many children the workers of a host may add now.

        Args:
            host: What is seen of the host.
            slowing: Whether tasks take longer lately.
            child_memory: Bytes that one more child would take; 0 if not known.
        """
        if self.against_starts(host, slowing=slowing, worker_memory=0, starting=0):
            return 0
        if not (host.memory_limit and child_memory):
            return MOST_CHILDREN
        return max(0, int(self._memory_room(host) // child_memory))

    def _memory_room(self, host: HostSeen) -> float:
        """Return the bytes that are left below the threshold."""
        return host.memory_limit * (self.memory_threshold - host.memory) / 100

    def is_starved(self, host: HostSeen) -> bool:
        """Return whether tasks take longer because a host is short of CPU, whichever process uses it."""
        return host.cpu > self.cpu_threshold or host.cpu_pressure > CPU_PRESSURE_PERCENT

    @staticmethod
    def starts_at_once(host: HostSeen) -> int:
        """Return how many workers may be starting at a time, so that none starts slowly."""
        return max(2, math.ceil(STARTS_PER_CPU * host.cpus))

    def for_a_stop(self, now: float, host: HostSeen, *, slowing: bool) -> str:
        """Return why one worker should be given up now; nothing if none should."""
        if host.memory > self.memory_threshold:
            why = f"memory stays at {host.memory:.0f} %, over {self.memory_threshold:g} %"
        elif host.cpu > self.cpu_threshold and slowing:
            why = f"CPU stays at {host.cpu:.0f} % and more workers only make tasks slower"
        else:
            self._short_since = None
            return ""
        if self._short_since is None:
            self._short_since = now
        if now - self._short_since < SETTLE_SECONDS or now - self._last < SETTLE_SECONDS:
            return ""
        self._last = now
        return why


def starting_load(now: float, begun: Sequence[float], host: HostSeen) -> int:
    """Return how many starting workers take the place of others that could start.

    One that has been starting for long while the CPUs are not busy waits for something else, such as a
    database: it does not slow the start of others.

    Args:
        now: When the host was looked at.
        begun: When each of the host's starting workers was started.
        host: What is seen of the host.
    """
    if host.cpu > CPU_ROOM_PERCENT or host.cpu_pressure > CPU_PRESSURE_PERCENT:
        return len(begun)
    return sum(now - since < START_SHOWS_SECONDS for since in begun)


@dataclass(frozen=True)
class StartNeed:
    """What a group wants to start on a host."""

    group: str
    missing: int
    """Workers to start."""
    starting: int = 0
    """Its workers on this host that are starting already."""
    weight: float = 1.0
    """Of one start, in relation to one that needs a CPU."""
    below_minimum: bool = False
    """Whether it has fewer workers than its minimum."""
    overdue: float = 0.0
    """Age of its oldest waiting task in relation to its target wait."""

    @property
    def order(self) -> tuple[bool, float, str]:
        """Sorts the group that starts first to the front."""
        return (not self.below_minimum, -self.overdue, self.group)


def start_turns(needs: Sequence[StartNeed], at_once: float) -> dict[str, int]:
    """Divide the starts that a host can bear at a time among its groups.

    Each group without a starting worker may start one, whatever the others do: a group whose workers hang in
    their start, or a burst of another group, keeps none from its first worker. What is left goes round, to
    the group with the fewest starting workers, among equals to one below its minimum, then to the most
    overdue. Light starts take less of what is left.

    Args:
        needs: What each group wants to start.
        at_once: Workers that may be starting on the host at a time, over all groups, if each needs a CPU.

    Returns:
        For each group how many it may start now.
    """
    turns = {need.group: int(need.missing > 0 and need.starting <= 0) for need in needs}
    free = at_once - sum(need.weight * (max(0, need.starting) + turns[need.group]) for need in needs)
    while left := [
        need for need in needs if turns[need.group] < need.missing and need.weight <= free + ROUNDING
    ]:
        least = min(left, key=lambda need: (need.starting + turns[need.group], need.order))
        turns[least.group] += 1
        free -= least.weight
    return turns
