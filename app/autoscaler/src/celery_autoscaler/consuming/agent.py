"""The agent inside a worker: its lease, its counters, its drain, its fence; and the rescue of others."""

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
from celery_autoscaler.consuming.versions import scheduled_requests
from celery_autoscaler.protocol import recovery
from celery_autoscaler.protocol.heartbeat import Heartbeat, due_within
from celery_autoscaler.protocol.identity import group_of, host_of, worker_name
from celery_autoscaler.protocol.keys import as_name
from celery_autoscaler.protocol.orphans import Searcher
from celery_autoscaler.protocol.script import script
from celery_autoscaler.protocol.systemd import notify
from celery_autoscaler.protocol.text import as_text

logger = logging.getLogger(__name__)

BEAT_SECONDS = 1.0
FIRST_BEAT_SECONDS = 0.05
LEASE_SECONDS = 5.0
# Seconds between two measurements of the memory: the kernel has to walk through all of it.
MEASURE_SECONDS = 10.0
# Seconds between two tellings of the counts of tasks.
TELL_SECONDS = 5.0
# Running tasks that the heartbeat shows at most.
RUNNING_SHOWN = 20
# Messages of others that one beat gives back; the lease must not wait for more.
MESSAGES_PER_BEAT = 5000

HEARTBEAT = script("consuming", "beat")


class HeartbeatThread(threading.Thread):
    """Renews the lease once a second, in a thread: a task of the solo pool holds up the event loop."""

    def __init__(self, consumer: Any, ledger: Ledger) -> None:
        super().__init__(name="fleet-heartbeat", daemon=True)
        self.consumer = consumer
        self.ledger = ledger
        self.stopped = threading.Event()
        self.busy_seconds = 0.0
        self.memory = 0
        self.measured = -MEASURE_SECONDS
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
        beat = min(BEAT_SECONDS, self.ledger.lease / 5)
        # The first beat shows that the worker consumes.
        while not self.stopped.wait(beat if self.ledger.sessions else FIRST_BEAT_SECONDS):
            try:
                self.consumer.event_loop.look()
                self.beat()
            except RedisError as error:
                logger.debug("No heartbeat: %s", error)
            except Exception:  # whatever one beat meets: without the next the worker is given up
                logger.exception("No heartbeat")
            notify("WATCHDOG=1")

    def fields(self) -> list[str | int | float]:
        """Return names and values of the heartbeat in turn, or what can be read of it: the lease lives on."""
        try:
            return self.heartbeat().dump()
        except Exception:
            if not self.spoilt:
                logger.exception("The heartbeat lacks the worker's tasks")
            self.spoilt = True
            return ["state", self.state, "pid", os.getpid()]

    def heartbeat(self) -> Heartbeat:
        """Return what the worker is and does."""
        now = time.monotonic()
        active, scheduled = snapshot(state.active_requests), snapshot(scheduled_requests)
        self.busy_seconds += len(active) * (now - self.last_beat)
        self.last_beat = now
        if now - self.measured >= MEASURE_SECONDS:
            self.measured = now
            self.memory = memory_used(self.consumer.pool.info.get("processes", []))
        name = worker_name(self.ledger.worker_id)
        waiting = {*scheduled, *snapshot(state.reserved_requests)} - {*active}
        number_overdue, oldest_due = overdue(waiting)
        etas = list(due_times(scheduled))
        return Heartbeat(
            host=host_of(name),
            group=group_of(name),
            pid=os.getpid(),
            state=self.state,
            concurrency=self.consumer.stretch.slots,
            max_concurrency=self.consumer.stretch.most,
            active=len(active),
            reserved=len(state.reserved_requests) - len(active),
            scheduled=len(scheduled),
            held=len(self.ledger.held()),
            overdue=number_overdue,
            oldest_due=oldest_due,
            processed=state.all_total_count[0],
            busy_seconds=self.busy_seconds,
            memory=self.memory,
            failed=self.ledger.failed,
            release=os.environ.get("CELERY_APP_RELEASE", ""),
            next_eta=min(etas, default=None),
            queues=self.queues,
            taken=self.ledger.taken,
            due=due_within(etas, time.time()),
            run_times={as_text(name): ended for name, ended in self.ledger.task_counts.run_times().items()},
            running=[(as_text(request.name), request.time_start) for request in active[:RUNNING_SHOWN]],
        )

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
        return "draining" if len(self.ledger.held()) > len(scheduled_requests) else "drained"

    def beat(self) -> None:
        """Renew the lease, obey a wish to drain, and rescue whose lease has run out."""
        ledger = self.ledger
        if not ledger.fenced and ledger.sessions > 0:
            try:
                self.renew()
                if time.monotonic() - self.told >= TELL_SECONDS:
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
        heartbeat = self.fields()
        sent = time.monotonic()
        drain, dead, late, recorded, slots = client.register_script(HEARTBEAT)(
            keys=[
                keys.worker(ledger.worker_id),
                keys.rescued(ledger.worker_id),
                keys.workers,
                keys.drain,
                keys.unacked(ledger.worker_id),
            ],
            args=[
                *(ledger.worker_id, worker_name(ledger.worker_id), int(ledger.lease * 1000)),
                *(int(self.consumer.stretch.most > 0), *heartbeat),
            ],
        )
        if bool(drain) != ledger.draining:
            ledger.draining = bool(drain)
            logger.info("Draining: fetching nothing new" if drain else "Drain cancelled")
        ledger.renewed = sent
        if slots:
            self.consumer.stretch.tell(slots)
        self.reconcile(recorded)
        # Who did not hear the server may not be the only one: the others get a lease's time to come back.
        if late or sent - self.heard > ledger.lease / 2:
            self.heard_since = sent
        self.heard = sent
        if sent - self.heard_since < ledger.lease:
            return
        others = [worker_id for worker_id in map(as_name, dead) if worker_id != ledger.worker_id]
        recovery.recover_each(ledger.broker, others, limit=MESSAGES_PER_BEAT)
        self.searcher.search(client, keys)

    def reconcile(self, recorded: int) -> None:
        """Put back what is recorded and unknown to the process, if two beats in a row see such messages."""
        unknown = recorded > self.ledger.held_in_redis()
        if unknown and self.unknown:
            self.ledger.reconcile()
        self.unknown = unknown

    def fence(self) -> None:
        """Drop what was not begun, let what runs finish, and end."""
        logger.error("Fenced: the lease expired and other workers got the messages; this worker ends")
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
        self.heartbeat: HeartbeatThread | None = None

    def start(self, consumer: Any) -> None:
        """Begin to beat with the first connection."""
        consumer.send_events_of_held_tasks()
        if self.heartbeat is None:
            self.heartbeat = HeartbeatThread(consumer, consumer.ledger)
            self.heartbeat.start()

    def register_with_event_loop(self, consumer: Any, hub: Any) -> None:
        """Go on with what the pool was writing and reading when the last connection was lost."""
        # An idle loop turns as well.
        hub.call_repeatedly(BEAT_SECONDS, consumer.event_loop.turn)
        consumer.pipes.see_ends()
        consumer.pipes.resume()

    def stop(self, consumer: Any) -> None:
        """Keep beating: running tasks need the lease."""

    def shutdown(self, consumer: Any) -> None:
        """Tell what became of tasks, in bounded time, and let the channel give back what is left."""
        consumer.finish()
        consumer.ledger.closing = True
        if self.heartbeat is not None:
            self.heartbeat.stopped.set()
