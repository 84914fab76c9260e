"""A worker as its heartbeat shows it. Reading is total: a field that cannot be read spoils itself alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from celery_autoscaler.protocol.ended import Ended
from celery_autoscaler.protocol.keys import worker_name
from celery_autoscaler.protocol.readers import (
    Refusal,
    UnreadableError,
    read_list,
    read_mapping,
    read_number,
    read_text,
    read_whole,
)

KIND = "worker"
# State of a living worker whose own cannot be read: it counts neither as ready nor as starting.
UNKNOWN = "unknown"
# Bounds of what a heartbeat may say.
MOST_MESSAGES = 10_000_000
MOST_COUNT = 2**53
MOST_PID = 2**22
# Seconds: of work since the start of a worker, and of the epoch.
MOST_SECONDS = 1e12
MOST_SQUARES = 1e24
# Seconds ahead of which it is told how many tasks come due.
HORIZONS = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0)
# Entries of a mapping or an array, and bytes of a task's name.
MOST_ENTRIES, MOST_TASK = 10_000, 4096


@dataclass(frozen=True)
class WorkerSeen:
    """A worker, as its heartbeat shows it."""

    id: str
    alive: bool
    """Whether its lease lives."""
    host: str = ""
    group: str = ""
    pid: int = 0
    state: str = ""
    concurrency: int = 1
    active: int = 0
    reserved: int = 0
    scheduled: int = 0
    held: int | None = None
    """Messages that it has taken and not settled, whatever it does with them; nothing if it does not say."""
    overdue: int = 0
    """Tasks whose ETA has come and that have not begun."""
    oldest_due: float | None = None
    """ETA of the first of these, in seconds of the epoch."""
    processed: int = 0
    busy_seconds: float = 0.0
    memory: int = 0
    failed: int = 0
    release: str = ""
    next_eta: float | None = None
    """Time of the first task that waits for its ETA, in seconds of the epoch."""
    queues: frozenset[str] | None = None
    """Queues that it consumes now; nothing if it does not say."""
    taken: Mapping[str, int] = field(default_factory=dict)
    """Messages taken from each list."""
    due: Sequence[int] = ()
    """Tasks that come due within each of ``HORIZONS``."""
    tasks: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    """Tasks by name, of a worker of an older release: how many have begun, and the seconds that they took."""
    run_times: Mapping[str, Ended] = field(default_factory=dict)
    """Tasks by name: how many have run to their end, and how long that took."""
    running: Sequence[tuple[str, float | None]] = ()
    """Tasks that run: name, and since when."""

    @property
    def name(self) -> str:
        """Celery's name of the worker, ``group-n@host``."""
        return worker_name(self.id)

    @property
    def instance(self) -> str:
        """Its name on its host, ``group-n``."""
        return self.name.partition("@")[0]

    @property
    def holds_nothing(self) -> bool:
        """Whether it has no message at all: none that runs, is reserved, or waits for an ETA or a rate."""
        return not (self.active or self.reserved or self.scheduled or self.held)


def read_worker_id(member: Any) -> str:
    """Return the id of a worker, ``name@host:incarnation``, from a member of the set of workers.

    Raises:
        UnreadableError: It is none.
    """
    found = read_text(member)
    name, _, incarnation = found.rpartition(":")
    if not (incarnation and read_worker_name(name)):
        raise UnreadableError("it is no id of a worker, name@host:incarnation")
    return found


def read_worker_name(member: Any) -> str:
    """Return the name of a worker, ``name@host``.

    Raises:
        UnreadableError: It is none.
    """
    found = read_text(member)
    instance, _, host = found.partition("@")
    if not (instance and host):
        raise UnreadableError("it is no name of a worker, name@host")
    return found


def read_worker(
    worker_id: str, alive: bool, heartbeat: Mapping[bytes, bytes]
) -> tuple[WorkerSeen, list[Refusal]]:
    """Return a worker from its heartbeat, and the fields that could not be read.

    A worker of an older release may lack fields; they, and those that cannot be read, have their defaults.
    """
    refused: list[Refusal] = []
    name, _, host = worker_name(worker_id).partition("@")

    def value(of: str, read: Callable[[bytes], Any], default: Any, unreadable: Any = None) -> Any:
        found = heartbeat.get(of.encode())
        if not found:
            return default
        try:
            return read(found)
        except UnreadableError as error:
            refused.append(Refusal(KIND, f"{worker_id} {of}", str(error)))
            return default if unreadable is None else unreadable

    def count(of: str, high: int = MOST_COUNT, default: int | None = 0) -> Any:
        return value(of, lambda found: read_whole(found, 0, high), default)

    seen = WorkerSeen(
        id=worker_id,
        alive=alive,
        host=value("host", read_text, "", host),
        group=value("group", read_text, "", name.rpartition("-")[0] or name),
        pid=count("pid", MOST_PID),
        state=value("state", lambda found: read_text(found, 32), "", UNKNOWN),
        concurrency=count("concurrency", MOST_MESSAGES) or 1,
        active=count("active", MOST_MESSAGES),
        # A task may begin between the two counts that this is the difference of.
        reserved=max(0, value("reserved", lambda found: read_whole(found, -MOST_MESSAGES, MOST_MESSAGES), 0)),
        scheduled=count("scheduled", MOST_MESSAGES),
        held=count("held", MOST_MESSAGES, None),
        overdue=count("overdue", MOST_MESSAGES),
        oldest_due=value("oldest_due", read_seconds, None),
        processed=count("processed"),
        failed=count("failed"),
        busy_seconds=value("busy_seconds", read_seconds, 0.0),
        memory=count("memory"),
        release=value("release", read_text, ""),
        next_eta=value("next_eta", read_seconds, None),
        queues=value("queues", read_queues, None),
        taken=value("taken", read_taken, {}),
        due=value("due", read_due, ()),
        tasks=value("tasks", read_tasks, {}),
        run_times=value("run_times", read_run_times, {}),
        running=value("running", read_running, []),
    )
    return seen, refused


def read_seconds(value: Any) -> float:
    """Return seconds."""
    return read_number(value, 0.0, MOST_SECONDS)


def read_queues(value: bytes) -> frozenset[str]:
    """Return names of queues from an array of JSON."""
    return frozenset(read_text(name) for name in read_list(value)[:MOST_ENTRIES])


def read_taken(value: bytes) -> dict[str, int]:
    """Return how many messages were taken from each list."""
    found = read_mapping(value)
    return {
        read_text(name): read_whole(count, 0, MOST_COUNT)
        for name, count in list(found.items())[:MOST_ENTRIES]
    }


def read_tasks(value: bytes) -> dict[str, tuple[int, float]]:
    """Return of each task how many have begun, and the seconds that they took."""
    return {
        read_text(name, MOST_TASK): (read_whole(begun, 0, MOST_COUNT), read_seconds(seconds))
        for name, (begun, seconds) in (
            (name, pair(entry)) for name, entry in list(read_mapping(value).items())[:MOST_ENTRIES]
        )
    }


def read_due(value: bytes) -> tuple[int, ...]:
    """Return how many tasks come due within each of the horizons."""
    return tuple(read_whole(count, 0, MOST_MESSAGES) for count in read_list(value)[: len(HORIZONS)])


def read_run_times(value: bytes) -> dict[str, Ended]:
    """Return the run times of tasks by their name."""
    return {
        read_text(name, MOST_TASK): read_ended(entry)
        for name, entry in list(read_mapping(value).items())[:MOST_ENTRIES]
    }


def read_ended(value: Any) -> Ended:
    """Return tasks that have ended.

    Raises:
        UnreadableError: There are no three numbers.
    """
    if not isinstance(value, list) or len(value) != 3:
        raise UnreadableError("a run time has not three numbers")
    tasks, seconds, squares = value
    return Ended(
        read_whole(tasks, 0, MOST_COUNT), read_seconds(seconds), read_number(squares, 0.0, MOST_SQUARES)
    )


def due_within(etas: Sequence[float], now: float) -> list[int]:
    """Return how many of some times come within each of the horizons; some may have passed."""
    return [sum(now < eta <= now + seconds for eta in etas) for seconds in HORIZONS]


def read_running(value: bytes) -> list[tuple[str, float | None]]:
    """Return the tasks that run, with the time since when."""
    return [
        (read_text(name, MOST_TASK), None if since is None else read_seconds(since))
        for name, since in map(pair, read_list(value)[:MOST_ENTRIES])
    ]


def pair(value: Any) -> tuple[Any, Any]:
    """Return the two elements of an array.

    Raises:
        UnreadableError: There are not two.
    """
    if not isinstance(value, list) or len(value) != 2:
        raise UnreadableError("it holds something that is no pair")
    return value[0], value[1]
