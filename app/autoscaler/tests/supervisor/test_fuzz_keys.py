"""Odd values in the fleet's keys, under a real supervisor with real workers: it goes on."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import strategies as st
from redis import Redis
from support.fuzzing import fuzz, keep
from support.odd_keys import Put, puts, records
from support.processes.counted_tasks import NewFleet
from support.processes.services import free_port, wait_for
from support.processes.supervisors import SupervisedFleet, Supervisor

EXAMPLES = 15
RESCUES = 8
TICK = 0.1
# Ticks that see what was written.
TICKS = 4
# What keeps the group whose queue is odd from having workers.
PAUSED = '{"paused": true}'
# Seconds that some ticks may take on a slow machine.
PATIENCE = 30.0
# Bytes that the supervisor may grow by.
GROWTH = 150 * 2**20


@dataclass
class Fuzzed:
    """A supervisor whose keys are written to."""

    fleet: SupervisedFleet
    supervisor: Supervisor
    port: int
    redis: Redis

    def check(self, writes: list[Put]) -> None:
        """Write what is odd; keep it in a file if the supervisor does not go on."""
        try:
            self.write(writes)
        except Exception:
            shown = [(put.key.decode("latin-1"), put.kind, repr(put.values)) for put in writes]
            print(f"what was written is in {keep('keys', shown)}")  # noqa: T201
            raise

    def write(self, writes: list[Put]) -> None:
        """Write what is odd, have the supervisor see it, take it away; check that it went on all the time.

        Raises:
            AssertionError: It did not.
        """
        for put in writes:
            put.apply(self.redis)
        self.go_on(TICKS)
        for path in ("/healthz", "/status", "/metrics"):
            assert self.get(path)[0] == 200, f"{path}: {self.state()}"
        self.clear()
        begin = time.time()
        wait_for(lambda: self.ended() or self.sees(begin), self.state, PATIENCE)
        assert not self.ended(), self.state()

    def go_on(self, ticks: int) -> None:
        """Wait for a number of ticks.

        Raises:
            ServiceError: They do not come.
        """
        seen: set[str] = set()

        def looked() -> bool:
            status = json.loads(self.get("/status")[1] or "{}")
            # One that is blind changes nothing but what its tick took.
            seen.add(str((status.get("at"), status.get("tick"))))
            return self.ended() or len(seen) > ticks

        wait_for(looked, self.state, PATIENCE)

    def clear(self) -> None:
        """Remove all that was written, at once; what the living need they write again."""
        real = [worker_id.encode() for worker_id in self.real_workers()]
        with self.redis.pipeline() as pipe:
            for key in list(self.redis.scan_iter(match="*", count=1000)):
                if not any(key.endswith(b":" + worker_id) for worker_id in real):
                    pipe.delete(key)
            pipe.hset("fleet:overrides", "idle", PAUSED)
            pipe.execute()

    def real_workers(self) -> set[str]:
        """Return the ids of the workers that the supervisor has started; they tell them to the kernel."""
        found: set[str] = set()
        for key in self.redis.scan_iter(match="fleet:worker:*", count=1000):
            if self.redis.type(key) == b"hash" and self.redis.hexists(key, "release"):
                pid = self.redis.hget(key, "pid") or b""
                if pid.isdigit() and int(pid) in {child.pid for child in self.supervisor.descendants()}:
                    found.add(key.decode().removeprefix("fleet:worker:"))
        return found

    def sees(self, since: float) -> bool:
        """Whether the supervisor has looked since then, and its group has the worker that it needs."""
        status = json.loads(self.get("/status")[1] or "{}")
        group = status.get("groups", {}).get("default", {})
        return bool(status.get("at", 0) > since and group.get("ready", 0) >= 1)

    def get(self, path: str) -> tuple[int, str]:
        """Ask the supervisor for something."""
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)) as connection:
            try:
                connection.request("GET", path)
                response = connection.getresponse()
                return response.status, response.read().decode()
            except OSError:
                return 0, ""

    def ended(self) -> bool:
        """Whether the supervisor has ended."""
        return self.supervisor.process.poll() is not None

    def state(self) -> str:
        """Say what is wrong with the supervisor."""
        words = "has ended" if self.ended() else "does not go on"
        return f"the supervisor {words}: {self.get('/healthz')}, {self.supervisor.tail(40)}"


@pytest.fixture
def fuzzed(redis_url: str, tmp_path: Path) -> Iterator[Fuzzed]:
    """Return a supervisor with one worker, that ticks often."""
    port = free_port()
    with (
        SupervisedFleet(tmp_path, redis_url, redis_url.replace("/0", "/1")) as fleet,
        Redis.from_url(redis_url) as redis,
    ):
        redis.hset("fleet:overrides", "idle", PAUSED)
        idle = '[groups.idle]\nqueues = ["aside"]\nmin_workers = 0\nmax_workers = 1\n'
        supervisor = fleet.start(
            more=idle,
            http=f"127.0.0.1:{port}",
            tick=TICK,
            group={"queues": ["celery"], "min_workers": 1, "max_workers": 1, "drain_timeout": 1.0},
        )
        fleet.wait_for_workers(1)
        yield Fuzzed(fleet, supervisor, port, redis)


def test_a_supervisor_survives_whatever_stands_in_its_keys(fuzzed: Fuzzed) -> None:
    process = psutil.Process(fuzzed.supervisor.process.pid)
    status = fuzzed.fleet.status("here")
    before = process.memory_info().rss

    fuzz(fuzzed.check, puts(status), EXAMPLES)

    assert process.memory_info().rss - before < GROWTH
    assert fuzzed.get("/healthz")[0] == 200
    # Still replaces a worker that dies.
    [worker] = fuzzed.fleet.wait_for_workers(1)
    pid = fuzzed.fleet.pid_of(worker)
    psutil.Process(pid).kill()

    def is_replaced() -> bool:
        # The lease of the one that died may end between two questions.
        with suppress(ValueError):
            return any(fuzzed.fleet.pid_of(name) != pid for name in fuzzed.fleet.consuming())
        return False

    wait_for(is_replaced, fuzzed.state, PATIENCE)


# --- Workers -------------------------------------------------------------------------------------------


def is_set_aside(redis: Redis, key: str) -> bool:
    """Whether a key is kept under another name."""
    return bool(redis.exists(f"fleet:set_aside:{key.removeprefix('fleet:')}"))


def test_a_worker_sets_keys_of_another_type_aside_and_goes_on(new_fleet: NewFleet) -> None:
    fleet = new_fleet()
    worker = fleet.start()
    redis = fleet.tasks.redis
    members: Any = wait_for(lambda: redis.zrange("fleet:workers", 0, -1) or None, "no worker")
    [worker_id] = members
    own = ("fleet:workers", "fleet:drain", f"fleet:worker:{worker_id}", f"fleet:unacked:{worker_id}")
    for key in own:
        with redis.pipeline() as pipe:
            pipe.delete(key)
            pipe.set(key, "of another type")
            pipe.execute()
        wait_for(partial(is_set_aside, redis, key), partial(worker.tail, 20), PATIENCE)

        assert fleet.tasks.settle(fleet.tasks.send(3)).exactly_once, key
    assert worker.process.poll() is None


def test_odd_records_of_dead_workers_keep_no_good_message(new_fleet: NewFleet) -> None:
    fleet = new_fleet()
    tasks, redis = fleet.tasks, Redis.from_url(fleet.broker_url)
    worker = fleet.start()

    def check(examples: list[Any]) -> None:
        """Put odd records of several dead workers beside good messages; all are rescued."""
        good = []
        for number, record in enumerate(examples):
            ids = tasks.send(3, queue="lost")
            good += ids
            messages: Any = redis.lpop("lost", 3)
            entries: dict[Any, Any] = {
                f"good{place}".encode(): b"celery\n" + raw for place, raw in enumerate(messages)
            }
            worker_id = f"dead-{number}@here:1"
            redis.hset(f"fleet:unacked:{worker_id}", mapping=entries | dict(record))
            redis.zadd("fleet:workers", {worker_id: 0})
        wait_for(lambda: not set(good) - set(tasks.ended()), lambda: worker.tail(40), PATIENCE)
        wait_for(lambda: not redis.keys("fleet:unacked:dead*"), lambda: worker.tail(40), PATIENCE)
        assert tasks.outcome(good).exactly_once
        assert worker.process.poll() is None

    with redis:
        fuzz(check, st.lists(records(b"celery\n"), min_size=3, max_size=6), RESCUES)
