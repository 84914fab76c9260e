"""Deployed workers that lose nothing, one on each host: what they hold, what becomes of tasks under load.

They serve the same queues, so that each takes over what the others lose. Used with `deployed_app`, which
makes the test process a client of the deployment.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tasks.priority import queue_lengths

from support.background import repeating
from support.hosts.deployed_app import WITHIN, Batch, ended, forget_messages, redis, send, started, taken
from support.hosts.worker_units import Workers
from support.processes.counted_tasks import LEASE, Outcome
from support.processes.services import ServiceError, wait_for

logger = logging.getLogger(__name__)

INSTANCE = "general-1"
UNIT = f"celery-worker@{INSTANCE}.service"
# Seconds within which a dead worker's messages are given back: three times what is guaranteed.
RESCUED_WITHIN = 3 * (LEASE + 2.0)


class Worker:
    """The worker of a host."""

    def __init__(self, host_name: str, host: Any) -> None:
        self.name = f"{INSTANCE}@{host_name}"
        self.host = host
        self._units = Workers(host)

    def stop(self) -> None:
        """Stop it and wait until it has ended."""
        self._units.stop(INSTANCE)

    def start(self) -> None:
        """Start it and wait until it consumes."""
        self._units.start(INSTANCE)

    def restart(self) -> None:
        """Stop it and start it again."""
        self._units.restart(INSTANCE)

    def kill_child(self) -> None:
        """Kill the processes in which it executes tasks."""
        self._units.kill_child(INSTANCE)

    def signal(self, name: str, whom: str = "all") -> None:
        """Send a signal to its processes: `all`, or `main` only."""
        self.host.check_output(f"systemctl kill --signal={name} --kill-whom={whom} {UNIT}")

    @contextmanager
    def frozen(self, whom: str) -> Iterator[None]:
        """Freeze its processes until the block ends."""
        self.signal("STOP", whom)
        try:
            yield
        finally:
            self.signal("CONT", whom)

    def property(self, of: str) -> str:
        """Return what systemd knows about it."""
        return self._units.property(INSTANCE, of)

    def journal(self, since: float) -> str:
        """Return what it and systemd have said of it since a time of the host's clock."""
        return self._units.journal(INSTANCE, since)

    def living(self) -> list[str]:
        """Return the ids under which it has a lease: one, or none."""
        ids = [worker_id for worker_id in enlisted() if worker_id.startswith(f"{self.name}:")]
        return [worker_id for worker_id in ids if redis().exists(f"fleet:worker:{worker_id}")]

    def id(self, after: str = "", within: float = WITHIN) -> str:
        """Return the id of the living worker; wait for one that comes after this one."""

        def found() -> str | None:
            return next((worker_id for worker_id in self.living() if worker_id != after), None)

        return wait_for(found, f"{self.name} does not live", within)

    def busy(self, within: float = WITHIN) -> str:
        """Wait until it holds messages; return its id."""
        worker_id = self.id()
        wait_for(lambda: bool(held(worker_id)), f"{worker_id} holds no message", within)
        return worker_id


def enlisted() -> list[str]:
    """Return the ids of all workers that have not signed off and were not given up."""
    return [str(worker_id) for worker_id in redis().zrange("fleet:workers", 0, -1)]


def held(worker_id: str) -> list[str]:
    """Return the ids of the tasks that a worker, alive or dead, has on its record."""
    records: Any = redis().hvals(f"fleet:unacked:{worker_id}")
    return [json.loads(record.partition("\n")[2])["headers"]["id"] for record in records]


def dead_letters(queue: str) -> list[dict[str, Any]]:
    """Return the dead letters of a queue, the newest first."""
    return [json.loads(letter) for letter in redis().lrange(f"dead_letter:{queue}", 0, -1)]


def left() -> int:
    """Return how many messages wait or are held by a worker, ours or plain."""
    return sum(queue_lengths().values()) + taken()


def forget_everything() -> None:
    """Delete all messages, those on the workers' records and the dead letters among them."""
    forget_messages()
    for pattern in ("fleet:unacked:*", "dead_letter:*"):
        redis().delete("", *redis().scan_iter(match=pattern, count=1000))


def waits(seconds: float, count: int = 1, **kwargs: Any) -> Batch:
    """Return tasks of the workers' queue that take so long."""
    return Batch("tasks.io_intensive.wait", count, {"seconds": seconds, **kwargs}, {"queue": "default"})


@contextmanager
def load(trace: str, *, rate: float = 40.0, seconds: float = 0.08) -> Iterator[list[str]]:
    """Send tasks at a steady rate until the block ends; the list grows by the id of each.

    The default keeps four processes busy.
    """
    ids: list[str] = []
    with repeating(lambda: ids.extend(send(f"{trace}-{len(ids)}", waits(seconds, trace_key=trace))), rate):
        started(trace, 10)
        yield ids


def interrupted(trace: str, worker_id: str) -> set[str]:
    """Return the ids of the tasks that a worker executed when it died, or was about to report."""
    on_record = held(worker_id)  # does not change until the dead worker's lease ends
    return set(started(trace)).intersection(on_record)


def rescued(trace: str, worker_id: str, lost_at: float) -> set[str]:
    """Wait until a dead worker's messages were given back in time and what it had begun was run again.

    Args:
        trace: Under which the tasks are traced.
        worker_id: The worker.
        lost_at: When it died, `time.monotonic()`.

    Returns:
        The ids of the tasks that were running.
    """
    running = interrupted(trace, worker_id)
    in_time = lost_at + RESCUED_WITHIN - time.monotonic()
    wait_for(lambda: worker_id not in enlisted(), f"{worker_id} is not given up", in_time)
    given_back = time.monotonic() - lost_at
    in_time = lost_at + RESCUED_WITHIN - time.monotonic()
    wait_for(lambda: running <= set(ended(trace)), "what ran is not executed again", in_time)
    executed = time.monotonic() - lost_at
    logger.info(
        "%s: %d were running, given back after %.1f s, executed after %.1f s",
        worker_id,
        len(running),
        given_back,
        executed,
    )
    return running


def outcome(trace: str, ids: Collection[str], within: float = WITHIN) -> Outcome:
    """Wait until all tasks have ended and no message is left that could run one again; count them."""

    def over() -> bool:
        # A message may be moved while this looks.
        return not left() and not left() and set(ids) <= set(ended(trace))

    with suppress(ServiceError):
        wait_for(over, "tasks are missing", within)
    found = Outcome.of(ids, Counter(started(trace)), Counter(ended(trace)))
    logger.info("%s", found)
    return found
