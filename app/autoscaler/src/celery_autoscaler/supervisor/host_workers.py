"""The workers of this host: seen from their start to their end, stopped, and rescued when they have died."""

import logging
import os
from pathlib import Path

import psutil

from celery_autoscaler.protocol import recovery
from celery_autoscaler.protocol.identity import group_of
from celery_autoscaler.protocol.masking import exception_type, mask
from celery_autoscaler.protocol.orphan_guard import SOFT_SHUTDOWN
from celery_autoscaler.protocol.orphans import Searcher
from celery_autoscaler.protocol.worker_seen import WorkerSeen
from celery_autoscaler.supervisor.context import Context
from celery_autoscaler.supervisor.launchers import SHOWN_WORDS, State, StopSignal
from celery_autoscaler.supervisor.local import (
    RETRY_SECONDS,
    SHORT_LIFE_SECONDS,
    LocalWorker,
)
from celery_autoscaler.supervisor.observation import FleetSeen
from celery_autoscaler.supervisor.tick import Tick

logger = logging.getLogger(__name__)

# Messages of dead workers that one tick gives back.
MESSAGES_PER_TICK = 10_000
# Time without a lease after which a worker that consumed is given up; a lease lasts 5 s.
SILENCE_SECONDS = 15.0
# A worker that is to drain must be seen to be marked so within this time.
UNMARKED_SECONDS = 3.0


class HostWorkers:
    """Follows the workers of this host."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._searcher = Searcher()

    def see(self, tick: Tick) -> None:
        """Bring what is known of this host's workers up to date."""
        context, now, states = self.context, tick.now, tick.states
        alive = {w.instance: w for w in tick.fleet.workers if w.alive and w.host == context.host}
        for name in states.keys() - context.local.keys():
            if states[name] is not State.FAILED:
                self._adopt(now, name)
        for name, worker in list(context.local.items()):
            state = states.get(name)
            with context.faults.contained(f"worker {name}"):
                if state is State.RUNNING or state is State.STOPPING:
                    self._see_worker(tick, worker, alive.get(name), state)
                    self._give_up(tick, worker)
                else:
                    self._see_end(tick, worker, failed=state is State.FAILED)
        for name, state in states.items():
            if state is State.FAILED and name not in context.local:
                self._forget_failed(name)

    def _adopt(self, now: float, name: str) -> None:
        group = group_of(name)
        timeout = self.context.groups[group].group.drain_timeout if group in self.context.groups else 600.0
        self.context.local[name] = self.new(now, name, group, timeout)
        self.context.local[name].adopted = True
        logger.info("%s adopted: it was running before", name)

    def new(self, now: float, name: str, group: str, drain_timeout: float) -> LocalWorker:
        """Return a worker that was started or first seen now; ``drain_timeout`` is in seconds."""
        soft_shutdown = self.context.app.soft_shutdown or SOFT_SHUTDOWN
        return LocalWorker(name, group, now, drain_timeout=drain_timeout, soft_shutdown=soft_shutdown)

    def _see_worker(
        self, tick: Tick, worker: LocalWorker, heartbeat: WorkerSeen | None, state: State
    ) -> None:
        now = tick.now
        group = self.context.groups.get(worker.group)
        started_in = worker.look(now, heartbeat)
        replaced = heartbeat is not None and heartbeat.id in tick.fleet.replaced
        worker.outdated = replaced or (group is not None and not worker.is_of(group.group))
        if started_in is not None:
            self._unclaim(worker)
            if not worker.adopted and group is not None:
                group.startup.add(started_in)
                needed = cpu_seconds_needed(heartbeat.pid) if heartbeat is not None else None
                if needed is not None:
                    # That it was ready was seen up to a tick later.
                    group.start_weight.add(needed, started_in - self.context.settings.tick)
                logger.info("%s ready %.1f s after its start", worker.name, started_in)
        if worker.ready_at is not None and not worker.lasted and now - worker.ready_at > SHORT_LIFE_SECONDS:
            worker.lasted = True
            if group is not None:
                group.backoff.lasted()
        marked = f"{worker.name}@{self.context.host}" in tick.fleet.draining
        if worker.stop_since is not None:
            if not (marked or worker.signals) and now - worker.stop_since > UNMARKED_SECONDS:
                self._mark_again(worker)
            return
        if state is State.STOPPING:
            worker.stop(now, "stopped outside the supervisor", worker.drain_timeout)
            worker.signals[StopSignal.TERM] = now
        elif marked:
            worker.stop(now, "drained by an operator", worker.drain_timeout)
            worker.by_operator = True
        elif group is None:
            self.stop(now, worker, "its group was removed")

    def _mark_again(self, worker: LocalWorker) -> None:
        """Note that the mark of a worker that drains is gone: it takes messages again."""
        if worker.by_operator:
            worker.undo_stop()
        else:
            self.context.broker.client.sadd(
                self.context.broker.keys.drain, f"{worker.name}@{self.context.host}"
            )

    def _give_up(self, tick: Tick, worker: LocalWorker) -> None:
        """Stop a worker that never consumed, or whose lease has run out: others do its part."""
        now = tick.now
        group = self.context.groups.get(worker.group)
        if worker.stop_since is not None or group is None:
            return
        start_timeout = self.context.settings.start_timeout
        if worker.ready_at is None and now - worker.since > start_timeout:
            why = f"it did not consume within {start_timeout:g} s of its start (start_timeout)"
            group.start_failed(now, f"{worker.name}: {why}")
            self.stop(now, worker, why)
        elif (
            worker.silent_since is not None
            and now - max(worker.silent_since, tick.sees_since) > SILENCE_SECONDS
        ):
            # Alive it would end by itself when it hears that it is fenced.
            self.stop(now, worker, "it has had no lease for too long; other workers got its messages")

    def _see_end(self, tick: Tick, worker: LocalWorker, *, failed: bool) -> None:
        """Note that a worker has ended."""
        now = tick.now
        del self.context.local[worker.name]
        asked = worker.stop_since is not None
        if failed and not asked:
            self._see_death(now, worker)
        elif asked:
            seconds = now - (worker.stop_since or now)
            logger.info("%s stopped in %.1f s", worker.name, seconds)
            self.context.counts.stopped[worker.group] = self.context.counts.stopped.get(worker.group, 0) + 1
        if failed:
            self._forget_failed(worker.name)
        self._unclaim(worker)
        self._recover_ended(worker, tick.fleet)

    def _see_death(self, now: float, worker: LocalWorker) -> None:
        """Note that a worker ended without having been asked to."""
        launcher, counts = self.context.launcher, self.context.counts
        words = launcher.last_words(worker.name)
        last = [mask(line) for line in words[-SHOWN_WORDS:]]
        logger.error("%s died%s", worker.name, f"; last output: {' / '.join(last)}" if last else "")
        counts.died[worker.group] = counts.died.get(worker.group, 0) + 1
        group = self.context.groups.get(worker.group)
        if group is not None and (worker.ready_at is None or now - worker.ready_at < SHORT_LIFE_SECONDS):
            # Everybody who reads the status reads this: nothing that the worker has printed but a type.
            kind = exception_type(words)
            death = f"{worker.name} died{f' of {kind}' if kind else ''}"
            group.start_failed(now, f"{death}; see {launcher.where_to_look(worker.name)}")

    def _forget_failed(self, name: str) -> None:
        """Forget a worker that has failed."""
        with self.context.faults.contained(f"clearing {name}"):
            self.context.launcher.forget_failed(name)

    def _unclaim(self, worker: LocalWorker) -> None:
        keys = self.context.broker.keys
        name = f"{worker.name}@{self.context.host}"
        with self.context.broker.client.pipeline() as pipe:
            pipe.zrem(keys.claims(worker.group), name)
            if worker.name not in self.context.local:
                pipe.srem(keys.drain, name)
                if worker.outdated and worker.seen is not None:
                    pipe.srem(keys.replace, worker.seen.id)
            pipe.execute()

    def stop(
        self,
        now: float,
        worker: LocalWorker,
        why: str,
        drain_timeout: float | None = None,
        *,
        may_return: bool = False,
    ) -> None:
        """Begin to stop a worker: tell it to take nothing new."""
        timeout = worker.drain_timeout if drain_timeout is None else drain_timeout
        self.context.broker.client.sadd(self.context.broker.keys.drain, f"{worker.name}@{self.context.host}")
        worker.stop(now, why, timeout, may_return=may_return)

    def let_return(self, worker: LocalWorker) -> None:
        """Let a worker that drains take messages again."""
        self.context.broker.client.srem(self.context.broker.keys.drain, f"{worker.name}@{self.context.host}")
        worker.undo_stop()

    def send_due_signals(self, now: float) -> None:
        """Send the signals that are due to workers that stop."""
        for worker in self.context.local.values():
            if worker.outlasts_drain(now):
                self.let_return(worker)
            how = worker.next_signal(now)
            if how is not None:
                # One that cannot be stopped, such as for lack of a permission, keeps no other from its end.
                worker.retry_at = now + RETRY_SECONDS
                with self.context.faults.contained(f"stopping {worker.name}"):
                    worker.send_signal(now, how, self.context.launcher.send_signal)
                    worker.retry_at = 0.0

    def recycle(self, now: float) -> None:
        """Stop workers that live, hold nothing and take nothing although messages wait for them."""
        for worker in self.context.local.values():
            group = self.context.groups.get(worker.group)
            if group is None or worker.seen is None:
                continue
            waiting = group.waiting_in(worker.seen.queues)
            if worker.is_stalled(now, waiting):
                logger.error(
                    "%s stalled: it holds no task and fetches none of %d messages", worker.name, waiting
                )
                self.stop(now, worker, "it is stalled")

    # --- Recovery --------------------------------------------------------------------------------------

    def _recover_ended(self, worker: LocalWorker, seen: FleetSeen) -> None:
        """Give back at once what a worker of this host held, whose processes are seen to be gone."""
        name = f"{worker.name}@{self.context.host}"
        for found in seen.workers:
            if found.name == name and found.pid and not process_exists(found.pid):
                self._give_back(found.id, certain=True)

    def recover(self, seen: FleetSeen) -> None:
        """Give back what workers held whose lease has run out, wherever they were."""
        for worker_id in seen.expired:
            self._give_back(worker_id, certain=False)
        broker = self.context.broker
        with self.context.faults.contained("search for records without an owner"):
            self._searcher.search(broker.client, broker.keys)
        self.context.counts.orphans = self._searcher.found

    def _give_back(self, worker_id: str, *, certain: bool) -> None:
        with self.context.faults.contained(f"rescue of {worker_id}"):
            moved = recovery.recover(self.context.broker, worker_id, limit=MESSAGES_PER_TICK, certain=certain)
            self.context.counts.recovered += moved or 0


def cpu_seconds_needed(pid: int) -> float | None:
    """Return for how long a process and its children have used a CPU or waited for one; None if not known."""
    try:
        process = psutil.Process(pid)
        used = sum(process.cpu_times()[:4]) + sum(sum(one.cpu_times()[:2]) for one in process.children())
        # sched-stats of the kernel: nanoseconds on a CPU, then those of waiting for one.
        waited = int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    except (psutil.Error, OSError, IndexError, ValueError):
        return None
    return float(used) + waited


def process_exists(pid: int) -> bool:
    """Return whether there is a process of this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
