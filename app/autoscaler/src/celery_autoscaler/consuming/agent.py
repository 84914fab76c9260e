"""The agent inside a worker: its lease, its counters, its drain, its fence; and the rescue of others."""

import json
import logging
import os
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from celery import bootsteps
from celery.worker import state
from celery.worker.consumer.tasks import Tasks
from redis.exceptions import RedisError, ResponseError

from celery_autoscaler.consuming.background import leave_signals
from celery_autoscaler.consuming.due_tasks import due_times, overdue
from celery_autoscaler.consuming.ledger import Fenced, Ledger, fenced_or
from celery_autoscaler.protocol import recovery
from celery_autoscaler.protocol.heartbeat import due_within
from celery_autoscaler.protocol.keys import as_name, worker_name
from celery_autoscaler.protocol.orphans import Searcher
from celery_autoscaler.protocol.systemd import notify
from celery_autoscaler.protocol.text import as_text

logger = logging.getLogger(__name__)

BEAT = 1.0
FIRST_BEAT = 0.05
LEASE = 5.0
# Seconds between two measurements of the memory: the kernel has to walk through all of it.
MEASURE = 10.0
# Seconds between two tellings of the counts of tasks.
TELL = 5.0
# Running tasks that the heartbeat shows at most.
RUNNING_SHOWN = 20
# Messages of others that one beat gives back; the lease must not wait for more.
RESCUE = 5000

# KEYS: the worker's hash, its fence, the set of workers, the set of those that shall drain, its record.
# ARGV: worker id, its name, milliseconds of the lease, then names and values of the heartbeat.
# Returns FENCED, or whether the worker shall drain, whose leases have run out, whether its own had, and how
# many messages are recorded.
# A full server refuses to write the heartbeat; the lease is extended all the same.
HEARTBEAT = """
if redis.call('EXISTS', KEYS[2]) == 1 then return redis.error_reply('FENCED') end
local late = 1 - redis.call('EXISTS', KEYS[1])
local told = redis.pcall('HSET', KEYS[1], unpack(ARGV, 4))
if type(told) == 'table' and told.err and string.find(told.err, 'WRONGTYPE', 1, true) then return told end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.pcall('ZADD', KEYS[3], now + ARGV[3], ARGV[1])
local dead = redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now)
return {redis.call('SISMEMBER', KEYS[4], ARGV[2]), dead, late, redis.call('HLEN', KEYS[5])}
"""


class Heartbeat(threading.Thread):
    """Renews the lease once a second, in a thread: a task of the solo pool holds up the event loop."""

    def __init__(self, consumer: Any, ledger: Ledger) -> None:
        super().__init__(name="fleet-heartbeat", daemon=True)
        self.consumer = consumer
        self.ledger = ledger
        self.stopped = threading.Event()
        self.busy_seconds = 0.0
        self.memory = 0
        self.measured = -MEASURE
        self.told = time.monotonic()
        self.last_beat = time.monotonic()
        self.fence_obeyed = False
        self.spoilt = False
        self.unknown = False
        self.searcher = Searcher()
        self.heard = 0.0
        self.heard_since = 0.0

    def run(self) -> None:
        """Beat until stopped; a server that does not answer is tried again."""
        leave_signals()
        beat = min(BEAT, self.ledger.lease / 5)
        # The first beat shows that the worker consumes.
        while not self.stopped.wait(beat if self.ledger.sessions else FIRST_BEAT):
            try:
                self.consumer.event_loop.look()
                self.beat()
            except RedisError as error:
                logger.debug("No heartbeat: %s", error)
            except Exception:  # whatever one beat meets: without the next the worker is given up
                logger.exception("No heartbeat")
            notify("WATCHDOG=1")

    def fields(self) -> dict[str, Any]:
        """Return the heartbeat, or what can be read of it: the lease lives on."""
        try:
            return self.counters()
        except Exception:
            if not self.spoilt:
                logger.exception("The heartbeat lacks the worker's tasks")
            self.spoilt = True
            return {"state": self.state, "pid": os.getpid()}

    def counters(self) -> dict[str, Any]:
        """Return the heartbeat: what the worker is and does."""
        now = time.monotonic()
        active, scheduled = snapshot(state.active_requests), snapshot(state.scheduled_requests)
        self.busy_seconds += len(active) * (now - self.last_beat)
        self.last_beat = now
        if now - self.measured >= MEASURE:
            self.measured = now
            self.memory = memory_used(self.consumer.pool.info.get("processes", []))
        name, _, host = worker_name(self.ledger.worker_id).partition("@")
        waiting = {*scheduled, *snapshot(state.reserved_requests)} - {*active}
        number_overdue, oldest_due = overdue(waiting)
        etas = list(due_times(scheduled))
        return {
            "host": host,
            "group": name.rpartition("-")[0] or name,
            "pid": os.getpid(),
            "state": self.state,
            "concurrency": self.consumer.controller.concurrency,
            "active": len(active),
            "reserved": len(state.reserved_requests) - len(active),
            "scheduled": len(scheduled),
            # Whatever it does with them: run, wait for a slot, an ETA or a rate.
            "held": len(self.ledger.held()),
            "next_eta": min(etas, default=""),
            # Tasks that come due within each of these numbers of seconds.
            "due": json.dumps(due_within(etas, time.time())),
            # Held tasks that are due and have not begun, and since when the first of them is.
            "overdue": number_overdue,
            "oldest_due": oldest_due,
            "processed": state.all_total_count[0],
            "failed": self.ledger.failed,
            "busy_seconds": f"{self.busy_seconds:.3f}",
            "queues": json.dumps(self.queues),
            # Lists by name, and how many messages were taken from each.
            "taken": json.dumps(self.ledger.taken),
            # Tasks by name: how many have run to their end, the sum of their seconds, and of the squares.
            "run_times": json.dumps(
                {
                    as_text(name): [ended.tasks, round(ended.seconds, 4), round(ended.squares, 6)]
                    for name, ended in self.ledger.task_counts.run_times().items()
                }
            ),
            # What runs: the task's name, and since when.
            "running": json.dumps(
                [(as_text(request.name), request.time_start) for request in active[:RUNNING_SHOWN]]
            ),
            "memory": self.memory,
            "release": os.environ.get("CELERY_APP_RELEASE", ""),
        }

    @property
    def queues(self) -> list[str]:
        """The queues that the worker consumes now; operators may add and cancel some."""
        task_consumer = self.consumer.task_consumer
        return [queue.name for queue in task_consumer.queues] if task_consumer is not None else []

    @property
    def state(self) -> str:
        """What the worker does with its queues: running, draining, drained, stalled or fenced."""
        if self.ledger.fenced:
            return "fenced"
        if self.consumer.event_loop.stalled:
            return "stalled"
        if not self.ledger.draining:
            return "running"
        return "draining" if len(self.ledger.held()) > len(state.scheduled_requests) else "drained"

    def beat(self) -> None:
        """Renew the lease, obey a wish to drain, and rescue whose lease has run out."""
        ledger = self.ledger
        if not ledger.fenced and ledger.sessions > 0:
            try:
                self.renew()
                if time.monotonic() - self.told >= TELL:
                    self.told = time.monotonic()
                    ledger.tell_task_counts()
            except ResponseError as error:
                ledger.heal(error)
                ledger.fenced = isinstance(fenced_or(error), Fenced)
                if not ledger.fenced:
                    raise
        if ledger.fenced and not self.fence_obeyed:
            self.fence_obeyed = True
            self.consumer.call_soon(self.fence)

    def renew(self) -> None:
        """Send the heartbeat and obey the answer."""
        ledger, keys, client = self.ledger, self.ledger.keys, self.ledger.client
        ledger.flush()
        heartbeat = [part for item in self.fields().items() for part in item]
        sent = time.monotonic()
        drain, dead, late, recorded = client.register_script(HEARTBEAT)(
            keys=[
                keys.worker(ledger.worker_id),
                keys.rescued(ledger.worker_id),
                keys.workers,
                keys.drain,
                keys.unacked(ledger.worker_id),
            ],
            args=[ledger.worker_id, worker_name(ledger.worker_id), int(ledger.lease * 1000), *heartbeat],
        )
        if bool(drain) != ledger.draining:
            ledger.draining = bool(drain)
            logger.info("Draining: fetching nothing new" if drain else "Drain cancelled")
        ledger.renewed = sent
        self.reconcile(recorded)
        # Who did not hear the server may not be the only one: the others get a lease's time to come back.
        if late or sent - self.heard > ledger.lease / 2:
            self.heard_since = sent
        self.heard = sent
        if sent - self.heard_since < ledger.lease:
            return
        others = [worker_id for worker_id in map(as_name, dead) if worker_id != ledger.worker_id]
        recovery.recover_each(client, keys, others, separator=ledger.separator, limit=RESCUE)
        self.searcher.search(client, keys)

    def reconcile(self, recorded: int) -> None:
        """Put back what is recorded and unknown to the process, if two beats in a row see such messages."""
        unknown = recorded > self.ledger.held_in_redis()
        if unknown and self.unknown:
            self.ledger.reconcile()
        self.unknown = unknown

    def fence(self) -> None:
        """Drop what was not begun, let what runs finish, and end."""
        logger.error("Fenced: the lease ran out and the messages were given to others; this worker ends")
        self.consumer.on_close()
        state.should_stop = os.EX_TEMPFAIL


def snapshot(requests: Any) -> list[Any]:
    """Return what is in a set of requests that other threads change."""
    while True:
        try:
            return list(requests)
        except RuntimeError:
            continue


def memory_used(children: Iterable[int]) -> int:
    """Return the bytes that a worker takes, what its processes share counted once (PSS)."""
    used = 0
    for pid in (os.getpid(), *children):
        with suppress(OSError):
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            used += sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return used * 1024


class Agent(bootsteps.StartStopStep):
    """Consumer step that runs the heartbeat until the last message is settled."""

    requires = (Tasks,)

    def __init__(self, consumer: Any, **kwargs: Any) -> None:
        super().__init__(consumer, **kwargs)
        self.heartbeat: Heartbeat | None = None

    def start(self, consumer: Any) -> None:
        """Begin to beat with the first connection."""
        consumer.send_events_of_held_tasks()
        if self.heartbeat is None:
            self.heartbeat = Heartbeat(consumer, consumer.ledger)
            self.heartbeat.start()

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        """Go on with what the pool was writing and reading when the last connection was lost."""
        # An idle loop turns as well.
        hub.call_repeatedly(BEAT, consumer.event_loop.turn)
        consumer.pipes.resume()

    def stop(self, consumer: Any) -> None:
        """Keep beating: running tasks need the lease."""

    def shutdown(self, consumer: Any) -> None:
        """Tell what became of tasks, in bounded time, and let the channel give back what is left."""
        consumer.finish()
        consumer.ledger.closing = True
        if self.heartbeat is not None:
            self.heartbeat.stopped.set()
