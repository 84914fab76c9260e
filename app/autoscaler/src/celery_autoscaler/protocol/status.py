"""What a supervisor says of its host, its groups and its workers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from celery_autoscaler.protocol.document import Document, Trouble, at_least
from celery_autoscaler.protocol.former import FORMER_NAMES, renamed
from celery_autoscaler.protocol.reading import Refusal, UnreadableError, read_mapping

KIND = "status"
# 1: release 0.1, which wrote no version. A field keeps its meaning; another meaning is another field.
VERSION = 2
# Bytes of a status: a host has thousands of workers at most.
MOST_BYTES = 16 * 2**20
# Seconds that a worker may take to consume by default: a large project needs minutes while CPUs are busy.
START_TIMEOUT_SECONDS = 300.0
# What limits a group whose workers are started one after the other.
START_SLOTS = "start slots"
# The state of a supervisor or a worker that says none.
UNKNOWN = "?"


@dataclass(frozen=True)
class QueueStatus(Document):
    """A queue, all its priority steps together."""

    messages: int = 0
    future: int = 0
    """Those of them whose ETA has not come."""
    age: float = 0.0
    """Seconds for which the oldest message that could run has waited."""
    taken: int = 0
    """Messages that the living workers have taken from it."""
    dead_letters: int = 0

    @property
    def waiting(self) -> int:
        """Messages that could run now."""
        return self.messages - self.future


@dataclass(frozen=True)
class GroupStatus(Document):
    """A worker group, as the supervisor of one host sees it."""

    target_wait: float = at_least(0.001, 10.0)
    min_workers: int = 0
    max_workers: int = 0
    concurrency: int = 1
    """Tasks that one worker runs at a time; the least, if workers stretch."""
    max_concurrency: int = 0
    """Tasks that one worker runs at most, if workers stretch."""
    slots: int = 0
    """Tasks that the workers that consume run at a time."""
    want: int = 0
    """Workers of the fleet that the load needs."""
    want_slots: int = 0
    """Slots of these."""
    reason: str = ""
    limit: str = ""
    """What keeps the number from being another one, in a word."""
    override: str = ""
    """Which bounds an operator has set, who did, for how long and why."""
    emergency: bool = False
    held_back: str = ""
    """What keeps this host from running as many workers as it should, in words."""
    unserved: float = 0.0
    """Seconds for which no worker has served it although its minimum asks for one."""
    not_served: bool = False
    """Whether that is longer than a start takes."""
    failed_starts: int = 0
    last_failure: str = ""
    ready: int = 0
    starting: int = 0
    draining: int = 0
    busy: int = 0
    """Tasks that run."""
    held: int = 0
    """Tasks that workers hold and have not begun."""
    waiting: int = 0
    future: int = 0
    age: float = 0.0
    overdue: int = 0
    """Tasks in workers whose ETA has come and that have not begun."""
    overdue_age: float = 0.0
    arrivals: float = 0.0
    """Tasks a second."""
    service_time: float | None = None
    """Seconds that a task takes; nothing before the first one."""
    startup: float = 0.0
    queues: Mapping[str, QueueStatus] = field(default_factory=dict)

    @classmethod
    def current(cls, found: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return what an older release wrote, with this release's names."""
        limit = found.get("limit")
        if FORMER_NAMES.keys().isdisjoint(found) and limit not in ("minimum", "maximum"):
            return found
        return renamed(found) | {"limit": FORMER_NAMES.get(limit, limit) if isinstance(limit, str) else limit}


@dataclass(frozen=True)
class RunningTask(Document):
    """A task that runs."""

    task: str = UNKNOWN
    seconds: float = 0.0


@dataclass(frozen=True)
class WorkerStatus(Document):
    """A worker of the host."""

    name: str = UNKNOWN
    group: str = ""
    state: str = UNKNOWN
    why: str = ""
    """Why it is to end, unless the load says so."""
    pid: int = 0
    active: int = 0
    reserved: int = 0
    processed: int = 0
    failed: int = 0
    outdated: bool = False
    memory: int = 0
    release: str = ""
    running: Sequence[RunningTask] = ()


@dataclass(frozen=True)
class TickStatus(Document):
    """How often a supervisor looks, and how long that took last, in seconds."""

    every: float = 1.0
    took: float = 0.0


@dataclass(frozen=True)
class ClientsStatus(Document):
    """The clients of the Redis server."""

    connected: int = 0
    most: int = 0
    """Clients that it accepts; 0 if it does not tell."""
    per_worker: float = 0.0


@dataclass(frozen=True)
class UnreadableStatus(Document):
    """Values of one kind that a supervisor cannot read."""

    count: int = 0
    """Since its start."""
    names: Sequence[str] = ()
    """Those that are there now."""


@dataclass(frozen=True)
class SupervisorStatus(Document):
    """The supervisor of a host: what it sees and does."""

    host: str = ""
    version: int = 1
    at: float = 0.0
    """When it last looked, in seconds of the epoch; 0 before the first look."""
    state: str = UNKNOWN
    """``starting``, ``supervising``, ``paused``, ``leaving``, ``blind`` or ``stale``."""
    why: str = ""
    pid: int = 0
    tick: TickStatus = field(default_factory=TickStatus)
    peers: Sequence[str] = ()
    """Hosts of the living supervisors."""
    redis: str = ""
    """What the server is short of, in words."""
    capacity: float | None = None
    """The share of the fleet that the host offers; its CPUs unless the settings say otherwise."""
    cpus: float = at_least(0.01, 1.0)
    cpu: float = 0.0
    """Percent in use."""
    memory: float = 0.0
    """Percent in use."""
    memory_limit: float = 0.0
    """Bytes."""
    clock_offset: float = at_least(-1e12, 0.0)
    """Seconds by which the clock of Redis is ahead of the host's."""
    start_timeout: float = at_least(0.0, START_TIMEOUT_SECONDS)
    """Seconds that a worker may take to consume."""
    clients: ClientsStatus = field(default_factory=ClientsStatus)
    groups: Mapping[str, GroupStatus] = field(default_factory=dict)
    workers: Sequence[WorkerStatus] = ()
    unreadable: Mapping[str, UnreadableStatus] = field(default_factory=dict)
    """By kind."""
    problems: Sequence[str] = ()
    """Settings by which tasks can be lost, doubled or left waiting."""
    faults: Mapping[str, str] = field(default_factory=dict)
    """Parts of the last tick that failed → how."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """Name of a task → executions that have failed on this host in the last hour."""
    ended: Mapping[str, int] = field(default_factory=dict)
    """Name of one of these tasks → executions that have ended, in whatever way."""

    @classmethod
    def load(cls, host: str, text: Any) -> "tuple[SupervisorStatus | None, list[Refusal]]":
        """Read the value in Redis.

        Args:
            host: The host that it is of; what the status itself says of that counts for nothing.
            text: The value.

        Returns:
            The status, nothing if none of it can be read; and what was refused.
        """
        try:
            found = read_mapping(text, MOST_BYTES)
        except UnreadableError as error:
            return None, [Refusal(KIND, host, str(error))]
        trouble = Trouble()
        status = cls.read(found, trouble)
        refused = [Refusal(KIND, host, f"{name} is of another type") for name in trouble.named]
        return replace(status, host=host, capacity=status.capacity or status.cpus), refused
