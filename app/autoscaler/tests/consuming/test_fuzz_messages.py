"""Odd messages among good ones, on a long-living worker of each pool: each spoils itself alone."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil
import pytest
from hypothesis import strategies as st
from support.fuzzing import fuzz, keep
from support.odd_values import encoded, envelope, messages
from support.processes.counted_tasks import SEPARATOR, Fleet, NewFleet
from support.processes.launched_workers import LaunchedWorker
from support.processes.services import wait_for

POOLS = ("prefork", "threads", "solo", "gevent")
SLOTS = 3
# Odd messages in one batch, as many good ones stand between them.
BATCH = 12
BATCHES = 12
# Seconds that a slow machine may take for what takes fractions of one.
PATIENCE = 20.0
# Seconds of a task of those that show how many slots are free.
TASK = 0.3
# Bytes that a worker may grow by, and the part of a CPU that it may take while it has nothing to do.
GROWTH = 150 * 2**20
IDLE_CPU = 0.5


def found() -> list[bytes]:
    """Return messages that once spoilt more than themselves, each odd in one place."""
    headers: list[dict[str, Any]] = [
        {"shadow": [[[]]]},
        {"timelimit": [None, "null"]},
        {"timelimit": [1, "", None, "x"]},
        {"timelimit": 3},
        {"timelimit": [10**400, None]},
        {"published_at": 10**400},
        {"published_at": float("nan")},
        {"id": "\ud800"},
        {"eta": "0001-01-01T00:00:00+23:59"},
    ]
    bodies: list[Any] = [
        [[], {}, {"callbacks": None, "errbacks": None, "chain": {"a": {"b": ["c"]}}, "chord": None}],
        [[], {}, {"callbacks": None, "errbacks": None, "chain": [None], "chord": [None]}],
        "abc",
    ]
    odd = []
    for change in headers:
        message = envelope("single.absorb", "odd", 2, [])
        odd.append(encoded({**message, "headers": message["headers"] | change}))
    for body in bodies:
        odd.append(encoded(envelope("single.absorb", "odd", 2, []) | {"body": body}))
    return odd


@dataclass
class Fuzzed:
    """One worker, and what it was sent."""

    fleet: Fleet
    pool: str
    worker: LaunchedWorker
    sent: list[bytes] = field(default_factory=list)

    def push(self, odd: Sequence[bytes]) -> list[str]:
        """Put odd messages and good ones by turns into a list; return the ids of the good ones."""
        good = []
        for message in odd:
            self.fleet.tasks.redis.lpush("celery", message)
            good += self.fleet.tasks.send(1)
        self.sent += odd
        return good

    def check(self, odd: Sequence[bytes]) -> None:
        """Send a batch; keep it in a file if anything but its odd messages is spoilt."""
        try:
            self.send(odd)
        except Exception:
            file = keep("messages", [message.decode("latin-1") for message in odd])
            print(f"the batch is in {file}")  # noqa: T201
            raise

    def send(self, odd: Sequence[bytes]) -> None:
        """Send a batch; check that nothing but its odd messages is spoilt.

        Raises:
            AssertionError: Something else is.
        """
        tasks = self.fleet.tasks
        good = self.push(odd)
        wait_for(
            lambda: self.ended() or not set(good) - set(tasks.ended()),
            lambda: f"{len(set(good) - set(tasks.ended()))} good tasks have not ended: {self.state()}",
            PATIENCE,
        )
        assert not self.ended(), f"the worker has ended: {self.worker.tail(30)}"
        wait_for(self.is_clean, lambda: f"something is left behind: {self.state()}", PATIENCE)
        outcome = tasks.outcome(good)
        assert outcome.exactly_once, outcome

    def check_slots(self) -> None:
        """Check that as many tasks as the worker has slots run at a time.

        Raises:
            AssertionError: They do not.
        """
        tasks = self.fleet.tasks
        slots = 1 if self.pool == "solo" else SLOTS

        def run() -> float:
            ids = tasks.send(slots, TASK)
            tasks.wait_until_ended(ids, PATIENCE)
            found: Any = tasks.counts.hmget("at", ids)
            begun = [float(at) for at in found]
            return max(begun) - min(begun)

        # On a busy machine they may begin late once.
        assert any(run() < TASK for _ in range(5)), f"fewer than {slots} slots are free: {self.state()}"

    def ended(self) -> bool:
        """Whether the worker has ended."""
        return self.worker.process.poll() is not None

    def heartbeat(self) -> dict[str, str]:
        """Return the worker's heartbeat."""
        redis = self.fleet.tasks.redis
        for key in redis.scan_iter(match="fleet:worker:*"):
            found: Any = redis.hgetall(key)
            return dict(found)
        return {}

    def records(self) -> dict[str, str]:
        """Return the messages on the worker's record: token → list and message."""
        redis = self.fleet.tasks.redis
        found: dict[str, str] = {}
        for key in redis.scan_iter(match="fleet:unacked:*"):
            record: Any = redis.hgetall(key)
            found |= record
        return found

    def waiting(self) -> int:
        """Return how many messages wait in the lists of the queue."""
        redis = self.fleet.tasks.redis
        lists = ("celery", *(f"celery{SEPARATOR}{step}" for step in (3, 6, 9)))
        lengths: Any = [redis.llen(name) for name in lists]
        return sum(lengths)

    def is_clean(self) -> bool:
        """Whether nothing waits, and the worker holds only what it holds for its ETA."""
        scheduled = int(self.heartbeat().get("scheduled", -1))
        return self.waiting() == 0 and len(self.records()) == scheduled

    def state(self) -> str:
        """Say what the worker holds and what it has printed."""
        records = [record[:300] for record in self.records().values()]
        heartbeat = {
            name: self.heartbeat().get(name) for name in ("active", "reserved", "scheduled", "state")
        }
        held = f"{self.pool}: {self.waiting()} waiting, on its record {records}, {heartbeat}"
        return f"{held}, {self.worker.tail(25)}"


def memory(process: psutil.Process) -> int:
    """Return the bytes of a worker and its children."""
    return sum(each.memory_info().rss for each in [process, *process.children(recursive=True)])


def cpu_seconds(process: psutil.Process) -> float:
    """Return the CPU time of a worker and its children."""
    times = [each.cpu_times() for each in [process, *process.children(recursive=True)]]
    return sum(each.user + each.system for each in times)


@pytest.mark.parametrize("pool", POOLS)
def test_an_odd_message_spoils_itself_alone(new_fleet: NewFleet, pool: str) -> None:
    fleet = new_fleet({"worker_prefetch_multiplier": 4})
    worker = fleet.start("-P", pool, concurrency=1 if pool == "solo" else SLOTS)
    process = psutil.Process(worker.process.pid)
    fuzzed = Fuzzed(fleet, pool, worker)
    fuzzed.check([])
    fuzzed.check_slots()
    before = memory(process)

    fuzzed.check(found())
    fuzzed.check_slots()
    fuzz(fuzzed.check, st.lists(messages("single.absorb"), min_size=BATCH, max_size=BATCH), BATCHES)

    fuzzed.check_slots()
    assert memory(process) - before < GROWTH
    spent, begin = cpu_seconds(process), time.monotonic()
    time.sleep(1)
    assert (cpu_seconds(process) - spent) / (time.monotonic() - begin) < IDLE_CPU
    letters: Any = fleet.tasks.redis.lrange("dead_letter:celery", 0, -1)
    for letter in letters:
        assert json.loads(letter)["reason"]
