"""What a worker says of itself once a second: a hash of Redis, whose other field is the worker's session.

A field that is missing or cannot be read spoils itself alone; it has its default.
"""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from celery_autoscaler.protocol.ended import Ended
from celery_autoscaler.protocol.identity import KIND, group_of, host_of, worker_name
from celery_autoscaler.protocol.reading import (
    Refusal,
    UnreadableError,
    read_list,
    read_mapping,
    read_number,
    read_text,
    read_whole,
)

# 1: release 0.1, which wrote no version. A field keeps its meaning; another meaning is another field.
VERSION = 2
# State of a living worker whose own cannot be read: it counts neither as ready nor as starting.
UNKNOWN = "unknown"
# Bounds of what a heartbeat may say.
MOST_MESSAGES = 10_000_000
MOST_COUNT = 2**53
MOST_PID = 2**22
# Seconds: of work since the start of a worker, and of the epoch.
MOST_SECONDS = 1e12
MOST_SQUARES = 1e24
# Seconds within which the heartbeat counts the tasks that come due.
HORIZONS = (1.0, 2.0, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0)
# Entries of a mapping or an array, and bytes of a task's name.
MOST_ENTRIES, MOST_TASK = 10_000, 4096


@dataclass(frozen=True)
class Heartbeat:
    """What a worker says of itself."""

    host: str = ""
    group: str = ""
    pid: int = 0
    state: str = ""
    concurrency: int = 1
    """Tasks that it runs at a time now."""
    max_concurrency: int = 0
    """Tasks that it can run at a time if it is told to; 0 if it does not stretch."""
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
    queues: Collection[str] | None = None
    """Queues that it consumes now; nothing if it does not say."""
    taken: Mapping[str, int] = field(default_factory=dict)
    """Messages taken from each list."""
    due: Sequence[int] = ()
    """Tasks that come due within each of ``HORIZONS``."""
    tasks: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    """Tasks by name, of a worker of release 0.1: how many have begun, and the seconds that they took."""
    run_times: Mapping[str, Ended] = field(default_factory=dict)
    """Tasks by name: how many have run to their end, and how long that took."""
    running: Sequence[tuple[str, float | None]] = ()
    """Tasks that run: name, and since when."""
    version: int = VERSION

    def dump(self) -> list[str | int | float]:
        """Return names and values of the hash in turn."""
        return [
            *("version", self.version, "host", self.host, "group", self.group, "pid", self.pid),
            *("state", self.state, "concurrency", self.concurrency, "active", self.active),
            *("max_concurrency", self.max_concurrency),
            *("reserved", self.reserved, "scheduled", self.scheduled, "held", _or_empty(self.held)),
            *("overdue", self.overdue, "oldest_due", _or_empty(self.oldest_due)),
            *("processed", self.processed, "busy_seconds", f"{self.busy_seconds:.3f}"),
            *("memory", self.memory, "failed", self.failed, "release", self.release),
            *("next_eta", _or_empty(self.next_eta), "taken", json.dumps(self.taken)),
            *("queues", "" if self.queues is None else json.dumps(list(self.queues))),
            *("due", json.dumps(self.due), "running", json.dumps(self.running)),
            "run_times",
            json.dumps(
                {
                    name: [ended.tasks, round(ended.seconds, 4), round(ended.squares, 6)]
                    for name, ended in self.run_times.items()
                }
            ),
        ]

    @classmethod
    def load(cls, found: Mapping[bytes, bytes], worker_id: str = "") -> tuple[Self, list[Refusal]]:
        """Read the hash of a worker; return what it says, and the fields that cannot be read."""
        refused: list[Refusal] = []
        return cls(**fields(worker_id, found, refused)), refused


def _or_empty(value: float | None) -> float | str:
    return "" if value is None else value


def fields(worker_id: str, found: Mapping[bytes, bytes], refused: list[Refusal]) -> dict[str, Any]:
    """Return the fields of a heartbeat; `refused` takes those that cannot be read."""
    name = worker_name(worker_id)

    def value(of: str, read: Callable[[bytes], Any], default: Any, unreadable: Any = None) -> Any:
        text = found.get(of.encode())
        if not text:
            return default
        try:
            return read(text)
        except UnreadableError as error:
            refused.append(Refusal(KIND, f"{worker_id} {of}", str(error)))
            return default if unreadable is None else unreadable

    def count(of: str, high: int = MOST_COUNT, default: int | None = 0) -> Any:
        return value(of, lambda text: read_whole(text, 0, high), default)

    return {
        "version": count("version", default=1),
        "host": value("host", read_text, "", host_of(name)),
        "group": value("group", read_text, "", group_of(name)),
        "pid": count("pid", MOST_PID),
        "state": value("state", lambda text: read_text(text, 32), "", UNKNOWN),
        "concurrency": count("concurrency", MOST_MESSAGES) or 1,
        "max_concurrency": count("max_concurrency", MOST_MESSAGES),
        "active": count("active", MOST_MESSAGES),
        # A task may begin between the two counts that this is the difference of.
        "reserved": max(
            0, value("reserved", lambda text: read_whole(text, -MOST_MESSAGES, MOST_MESSAGES), 0)
        ),
        "scheduled": count("scheduled", MOST_MESSAGES),
        "held": count("held", MOST_MESSAGES, None),
        "overdue": count("overdue", MOST_MESSAGES),
        "oldest_due": value("oldest_due", read_seconds, None),
        "processed": count("processed"),
        "failed": count("failed"),
        "busy_seconds": value("busy_seconds", read_seconds, 0.0),
        "memory": count("memory"),
        "release": value("release", read_text, ""),
        "next_eta": value("next_eta", read_seconds, None),
        "queues": value("queues", read_queues, None),
        "taken": value("taken", read_taken, {}),
        "due": value("due", read_due, ()),
        "tasks": value("tasks", read_tasks, {}),
        "run_times": value("run_times", read_run_times, {}),
        "running": value("running", read_running, ()),
    }


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


def read_running(value: bytes) -> tuple[tuple[str, float | None], ...]:
    """Return the tasks that run, with the time since when."""
    return tuple(
        (read_text(name, MOST_TASK), None if since is None else read_seconds(since))
        for name, since in map(pair, read_list(value)[:MOST_ENTRIES])
    )


def pair(value: Any) -> tuple[Any, Any]:
    """Return the two elements of an array.

    Raises:
        UnreadableError: There are not two.
    """
    if not isinstance(value, list) or len(value) != 2:
        raise UnreadableError("it holds something that is no pair")
    return value[0], value[1]
