"""Tasks of the single-file app that are counted one by one, and the workers that run them."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self
from urllib.parse import urlsplit

from celery import Celery
from celery_autoscaler.protocol.broker import Broker
from celery_autoscaler.protocol.keys import Keys
from celery_autoscaler.protocol.recovery import recover
from celery_autoscaler.protocol.slots import tell
from kombu.exceptions import OperationalError
from redis import Redis

from support.processes.launched_workers import LaunchedWorker, settings_variable, write_app
from support.processes.services import wait_for

# What the tasks need to survive their worker, and nothing held behind a running task.
SETTINGS: dict[str, Any] = {
    "task_acks_late": True,
    "task_reject_on_worker_lost": True,
    "task_ignore_result": True,
    "worker_prefetch_multiplier": 1,
}
# Seconds after which a silent worker is given up, as celery_autoscaler has it.
LEASE = 5.0
# The same for the workers of tests, which would else do nothing but wait.
SHORT_LEASE = 2.5
# Seconds without any progress after which what is missing is missing for good.
NO_PROGRESS = 3 * LEASE
# The separator between a queue and its priority step in the name of a list, as kombu has it.
SEPARATOR = "\x06\x16"


@dataclass(frozen=True)
class Outcome:
    """What became of some tasks."""

    sent: int
    lost: list[str]
    """Ids of those that never came to their end."""
    started_again: list[str]
    """Ids of those that began more than once."""
    ended_again: list[str]
    """Ids of those that came to their end more than once."""

    @classmethod
    def of(cls, ids: Collection[str], started: Counter[str], ended: Counter[str]) -> Self:
        """Return what became of tasks that began and came to their end that number of times."""
        return cls(
            sent=len(ids),
            lost=[name for name in ids if not ended[name]],
            started_again=[name for name in ids if started[name] > 1],
            ended_again=[name for name in ids if ended[name] > 1],
        )

    @property
    def exactly_once(self) -> bool:
        """Whether each task ran once."""
        return not (self.lost or self.started_again or self.ended_again)

    def __str__(self) -> str:
        """Say it in one line."""
        return (
            f"{self.sent} sent, {len(self.lost)} lost, {len(self.started_again)} begun again, "
            f"{len(self.ended_again)} run to the end twice"
        )


class Tasks:
    """A plain producer of the single-file app's tasks, and what became of each of them."""

    def __init__(
        self, broker_url: str, server_url: str, counts_url: str, settings: Mapping[str, Any]
    ) -> None:
        # Who asks for no result shall not listen for it.
        backend = "disabled://" if settings["task_ignore_result"] else server_url
        self.app = Celery("single", broker=broker_url, backend=backend, set_as_current=False)
        self.app.conf.update(settings)
        self.broker_url = broker_url
        # Celery 5.6 stores the result of whatever is sent by its name, unless the message says otherwise.
        self._ignore_result = bool(settings["task_ignore_result"])
        self.redis = Redis.from_url(server_url, decode_responses=True)
        self.counts = Redis.from_url(counts_url, decode_responses=True)
        self._number = count()

    def close(self) -> None:
        """Close all connections."""
        self.app.close()
        self.redis.close()
        self.counts.close()

    def send(self, number: int = 1, *arguments: Any, name: str = "count", **options: Any) -> list[str]:
        """Send a task a number of times; return the ids."""
        options.setdefault("ignore_result", self._ignore_result)
        with self.app.producer_pool.acquire(block=True) as producer:
            return [
                str(
                    self.app.send_task(
                        f"single.{name}",
                        arguments,
                        task_id=f"task-{next(self._number):06}",
                        producer=producer,
                        **options,
                    ).id
                )
                for _ in range(number)
            ]

    def started(self) -> Counter[str]:
        """Return how often each task began."""
        return self._counter("started")

    def ended(self) -> Counter[str]:
        """Return how often each task came to its end."""
        return self._counter("ended")

    def begun(self) -> list[str]:
        """Return the ids in the order in which the tasks began."""
        begun: Any = self.counts.lrange("begun", 0, -1)
        return list(begun)

    def _counter(self, key: str) -> Counter[str]:
        found: Any = self.counts.hgetall(key)
        return Counter({name: int(times) for name, times in found.items()})

    def wait_until_started(self, ids: Collection[str], within: float = 30.0) -> None:
        """Return when all these tasks have begun."""
        wait_for(lambda: not set(ids) - set(self.started()), f"not begun: {ids}", within)

    def wait_until_ended(self, ids: Collection[str], within: float = 30.0) -> None:
        """Return when all these tasks have come to their end."""
        wait_for(lambda: not set(ids) - set(self.ended()), "some tasks have not ended", within)

    def settle(self, ids: Collection[str], patience: float = NO_PROGRESS) -> Outcome:
        """Wait until all tasks have ended and none is left in Redis, or nothing moves; count them."""
        before, since = -1, time.monotonic()
        while time.monotonic() - since < patience:
            ended: Any = self.counts.hlen("ended")
            # In this order: a message that moves during a look at what is left may escape it.
            all_ended = ended >= len(ids) and not set(ids) - set(self.ended())
            if all_ended and not any("dead_letter" not in key for key in self.left()):
                break
            if ended != before:
                before, since = ended, time.monotonic()
            time.sleep(0.05)
        return self.outcome(ids)

    def outcome(self, ids: Collection[str]) -> Outcome:
        """Count now."""
        return Outcome.of(ids, self.started(), self.ended())

    def left(self) -> dict[str, int]:
        """Return the lists and hashes of the broker that hold messages, and how many."""
        found = {}
        for key in self.redis.scan_iter(count=1000):
            kind = self.redis.type(key)
            if kind == "list" and not key.endswith("reply.celery.pidbox") and key != "begun":
                found[key] = int(self.redis.llen(key))
            elif kind == "hash" and "unacked" in key:
                found[key] = int(self.redis.hlen(key))
        return found

    def held(self, worker: str) -> list[str]:
        """Return the ids of the tasks that a worker has on its record, in the order in which it took them."""
        keys = list(self.redis.scan_iter(match=f"*fleet:unacked:{worker}@*"))
        hashes: list[Any] = [self.redis.hgetall(key) for key in keys]
        records = [record for found in hashes for _, record in sorted(found.items())]
        return [json.loads(record.partition("\n")[2])["headers"]["id"] for record in records]

    def waiting(self, key: str) -> list[str]:
        """Return the ids of the tasks in a list of the broker, the next to be taken first."""
        messages: Any = self.redis.lrange(key, 0, -1)
        return [json.loads(message)["headers"]["id"] for message in reversed(messages)]

    def worker_ids(self) -> list[str]:
        """Return the ids of the workers that have a lease."""
        prefix = str(self.app.conf.broker_transport_options.get("global_keyprefix", ""))
        found: Any = self.redis.zrange(f"{prefix}fleet:workers", 0, -1)
        return list(found)

    def heartbeat(self, worker: str) -> dict[str, str]:
        """Return what a worker last said of itself; nothing if it is gone."""
        for name in self.worker_ids():
            if name.startswith(f"{worker}@"):
                found: Any = self.redis.hgetall(f"fleet:worker:{name}")
                return dict(found)
        return {}

    def tell_slots(self, worker: str, slots: int) -> bool:
        """Tell a worker that stretches its number of slots, as its supervisor does."""
        with Redis.from_url(self.broker_url) as client:
            broker = Broker(client, Keys(), SEPARATOR)
            return any(
                tell(broker, name, slots) for name in self.worker_ids() if name.startswith(f"{worker}@")
            )

    def expire_lease(self, worker: str) -> None:
        """Let the lease of a dead worker run out, as if its seconds had passed."""
        keys: Any = self.redis.scan_iter(match=f"*fleet:worker:{worker}@*")
        for key in list(keys):
            self.redis.delete(key)
            prefix, _, worker_id = key.partition("fleet:worker:")
            self.redis.zadd(f"{prefix}fleet:workers", {worker_id: 0}, xx=True)

    def rescue(self, worker: str) -> None:
        """Give back what a dead worker held, at once, as a supervisor does that has seen it die."""
        self.expire_lease(worker)
        prefix = str(self.app.conf.broker_transport_options.get("global_keyprefix", ""))
        with Redis.from_url(self.broker_url) as client:
            for member in client.zrange(f"{prefix}fleet:workers", 0, -1):
                if member.decode().startswith(f"{worker}@"):
                    recover(Broker(client, Keys(prefix), SEPARATOR), member.decode())


class Fleet:
    """Workers on one broker, ours or plain ones, with the tasks they run. Ends them all when it is left."""

    def __init__(
        self,
        folder: Path,
        broker_url: str,
        counts_url: str | None = None,
        settings: Mapping[str, Any] | None = None,
        *,
        plain: bool = False,
        server_url: str | None = None,
        lease: float = LEASE,
    ) -> None:
        """Make a fleet.

        `counts_url` is where tasks are counted, database 1 of the broker if not given; `server_url` leads to
        the Redis server itself, where the broker's URL does not.
        """
        write_app(folder)
        self.folder = folder
        self.broker_url = broker_url
        self.counts_url = counts_url or urlsplit(broker_url)._replace(path="/1").geturl()
        self.settings = SETTINGS | dict(settings or {})
        self.plain = plain
        self.lease = lease
        self.workers: list[LaunchedWorker] = []
        self.tasks = Tasks(broker_url, server_url or broker_url, self.counts_url, self.settings)
        self._names = count(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as stack:
            stack.callback(self.tasks.close)
            for worker in self.workers:
                stack.callback(worker.kill)

    def start(
        self,
        *arguments: str,
        name: str = "",
        concurrency: int = 2,
        plain: bool | None = None,
        ready: bool = True,
        gossip: bool = False,
        settings: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        most: int = 0,
    ) -> LaunchedWorker:
        """Start a worker; wait until it consumes unless told otherwise. It stretches if it has a most."""
        worker = LaunchedWorker(
            self.folder,
            self.broker_url,
            "worker",
            "-n",
            f"{name or f'w{next(self._names)}'}@here",
            "-c",
            str(concurrency),
            *(() if gossip else ("--without-mingle", "--without-gossip")),
            *arguments,
            environment=settings_variable(self.settings | dict(settings or {}))
            | {"COUNTS": self.counts_url, "CELERY_APP_LEASE": str(self.lease)}
            | ({"CELERY_APP_MAX_CONCURRENCY": str(most)} if most else {})
            | dict(environment or {}),
            plain=self.plain if plain is None else plain,
        )
        self.workers.append(worker)
        if ready:
            worker.wait_until_ready()
        return worker

    def start_several(self, number: int, *arguments: str, **options: Any) -> list[LaunchedWorker]:
        """Start workers at the same time and wait until all of them consume."""
        workers = [self.start(*arguments, ready=False, **options) for _ in range(number)]
        for worker in workers:
            worker.wait_until_ready()
        return workers

    def tails(self) -> str:
        """Return the end of what each worker printed."""
        return "\n".join(f"--- {worker.log.name}\n{worker.tail()}" for worker in self.workers)


class Load:
    """Tasks sent at a steady rate by a thread, until enough are sent or the block ends."""

    def __init__(
        self,
        tasks: Tasks,
        rate: float,
        *arguments: Any,
        total: int | None = None,
        between: Callable[[], None] | None = None,
        **options: Any,
    ) -> None:
        """Prepare; `between` is called after each task sent."""
        self.ids: list[str] = []
        self.refused = 0
        """How many could not be sent; whether the server has them nobody knows."""
        self._tasks = tasks
        self._rate = rate
        self._total = total
        self._arguments = arguments
        self._options = options
        self._between = between
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._total is None or error is not None:
            self._stopped.set()
        self._thread.join()

    def _run(self) -> None:
        begin = time.monotonic()
        attempts = 0
        while self._total is None or len(self.ids) < self._total:
            due = begin + attempts / self._rate
            if self._stopped.wait(max(0.0, due - time.monotonic())):
                return
            attempts += 1
            try:
                self.ids += self._tasks.send(1, *self._arguments, **self._options)
            except (OperationalError, OSError):
                self.refused += 1
            if self._between is not None:
                self._between()


class NewFleet(Protocol):
    """Makes a fleet that ends with the test."""

    def __call__(
        self,
        settings: Mapping[str, Any] | None = None,
        *,
        broker_url: str | None = None,
        server_url: str | None = None,
    ) -> Fleet:
        """Return a fleet on the session's Redis, or on another one; tasks are counted on the session's."""
