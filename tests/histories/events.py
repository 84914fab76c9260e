"""What happened in one history: every message sent, every run of a task, every fault, and what was left."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Self


class Outcome(StrEnum):
    """How a run of a task ended, as the task itself recorded it."""

    DONE = "done"
    FAILED = "failed"
    IGNORED = "ignored"
    REJECTED = "rejected"
    REQUEUED = "requeued"
    RETRIED = "retried"
    """The task has sent itself again, as its next attempt."""
    SOFT = "soft"
    """The task met its soft time limit."""


class FaultKind(StrEnum):
    """What was done to the processes and the servers."""

    KILL_WORKER = "kill worker"
    KILL_CHILD = "kill child"
    KILL_SUPERVISOR = "kill supervisor"
    FREEZE = "freeze"
    FREEZE_SUPERVISOR = "freeze supervisor"
    CUT_OFF = "cut off"
    """The worker's connections carry nothing any more, and nobody tells it."""
    DROP = "drop connections"
    TERM = "SIGTERM"
    QUIT = "SIGQUIT"
    HUP = "SIGHUP"
    DRAIN = "drain and back"
    DEPLOY = "deploy"
    STRETCH = "stretch"
    """A worker was told to have another number of slots."""
    RELOAD = "reload"
    SCALE = "scale"
    TERM_SUPERVISOR = "SIGTERM supervisor"
    CLOCK = "clock jump"
    BROKER_KILLED = "broker killed"
    BROKER_PAUSED = "broker paused"
    BROKER_FULL = "broker full"
    BROKER_READ_ONLY = "broker read-only"
    FAILOVER = "failover"
    BROKER_SILENT = "broker silent"
    """All connections to the broker carry nothing any more, and nobody is told."""
    RESULTS_KILLED = "results killed"
    RESULTS_PAUSED = "results paused"
    RESULTS_FULL = "results full"
    CRASH = "crash"
    """A task has killed the process that ran it."""
    STALL = "stall"
    """The machine has run nobody for a while."""


KILLS = frozenset({FaultKind.KILL_WORKER, FaultKind.KILL_CHILD, FaultKind.QUIT, FaultKind.CRASH})
STOPS = frozenset({FaultKind.TERM, FaultKind.QUIT, FaultKind.HUP, FaultKind.DEPLOY})
# What may lead a supervisor to stop workers of its own.
STOPS_OF_SUPERVISORS = frozenset(
    {
        FaultKind.KILL_SUPERVISOR,
        FaultKind.TERM_SUPERVISOR,
        FaultKind.FREEZE_SUPERVISOR,
        FaultKind.SCALE,
        FaultKind.RELOAD,
    }
)
SILENCES = frozenset({FaultKind.FREEZE, FaultKind.CUT_OFF, FaultKind.STALL})
BROKER_AWAY = frozenset(
    {
        FaultKind.BROKER_KILLED,
        FaultKind.BROKER_PAUSED,
        FaultKind.BROKER_FULL,
        FaultKind.BROKER_READ_ONLY,
        FaultKind.BROKER_SILENT,
        FaultKind.FAILOVER,
        FaultKind.DROP,
        FaultKind.STALL,
    }
)
RESULTS_AWAY = frozenset({FaultKind.RESULTS_KILLED, FaultKind.RESULTS_PAUSED, FaultKind.RESULTS_FULL})


@dataclass(frozen=True)
class Sent:
    """A task that was sent, or that other tasks were to send."""

    at: float
    id: str
    kind: str
    accepted: bool
    """False where nobody knows whether the server has it."""
    after: tuple[str, ...] = ()
    """The tasks that send it when they end: of a chain, or of the header of a chord."""


@dataclass(frozen=True)
class Begun:
    """A run of a task began."""

    at: float
    id: str
    attempt: int
    pid: int
    main: int
    """The process id of the worker."""


@dataclass(frozen=True)
class Ended:
    """A run of a task came to an end of its own."""

    at: float
    id: str
    attempt: int
    pid: int
    outcome: Outcome


@dataclass(frozen=True)
class Fault:
    """Something was done to processes or servers, for a while."""

    kind: FaultKind
    since: float
    until: float
    pids: tuple[int, ...] = ()
    """The processes it was done to, with their children; none where all are concerned."""
    subject: str = ""

    def concerns(self, *pids: int) -> bool:
        """Whether it was done to one of these processes, or to all."""
        return not self.pids or not set(self.pids).isdisjoint(pids)


@dataclass(frozen=True)
class Death:
    """A worker or a supervisor ended."""

    at: float
    name: str
    pid: int
    status: int
    """As subprocess has it: negative where a signal ended it."""
    asked: float | None
    """When it was asked to end."""
    last_words: str = ""
    ready: bool = True
    """Whether it had ever consumed, or supervised."""


@dataclass(frozen=True)
class Letter:
    """A dead letter."""

    id: str
    queue: str
    reason: str
    redeliveries: int


@dataclass(frozen=True)
class Overdue:
    """Messages of a dead worker that were not given back for too long."""

    at: float
    worker: str
    seconds: float


@dataclass(frozen=True)
class History:
    """All that is known of one history, in seconds of the recorder's clock."""

    seed: int
    lease: float
    """Seconds after which a silent worker is given up."""
    pool: str
    most: int = 0
    """Tasks that a worker runs at most, if workers stretch."""
    ended_at: float = 0.0
    sent: list[Sent] = field(default_factory=list)
    begun: list[Begun] = field(default_factory=list)
    ended: list[Ended] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    deaths: list[Death] = field(default_factory=list)
    letters: list[Letter] = field(default_factory=list)
    overdue: list[Overdue] = field(default_factory=list)
    left: dict[str, int] = field(default_factory=dict)
    """Keys of the broker that hold messages when all is quiet, and how many."""
    keys: list[str] = field(default_factory=list)
    """Keys of the fleet that are left when all workers and supervisors have ended."""
    results: dict[str, str] = field(default_factory=dict)
    """Task → state, of those whose result was to be stored."""

    def save(self, path: Path) -> None:
        """Write it down."""
        path.write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` has written."""
        found = json.loads(path.read_text())
        kinds: dict[str, type] = {
            "sent": Sent,
            "begun": Begun,
            "letters": Letter,
            "overdue": Overdue,
            "deaths": Death,
        }
        for name, kind in kinds.items():
            found[name] = [kind(**entry) for entry in found[name]]
        found["sent"] = [Sent(**vars(one) | {"after": tuple(one.after)}) for one in found["sent"]]
        found["ended"] = [Ended(**entry | {"outcome": Outcome(entry["outcome"])}) for entry in found["ended"]]
        found["faults"] = [
            Fault(**entry | {"kind": FaultKind(entry["kind"]), "pids": tuple(entry["pids"])})
            for entry in found["faults"]
        ]
        return cls(**found)
