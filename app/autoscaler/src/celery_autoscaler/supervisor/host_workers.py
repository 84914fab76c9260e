"""The workers of this host: seen from their start to their end, stopped, and rescued when they have died."""

import logging
import os

from celery_autoscaler.protocol import recovery
from celery_autoscaler.protocol.heartbeat import WorkerSeen
from celery_autoscaler.protocol.orphan_guard import SOFT_SHUTDOWN
from celery_autoscaler.protocol.orphans import Searcher
from celery_autoscaler.supervisor.context import Context
from celery_autoscaler.supervisor.launchers import SHOWN_WORDS, State, StopSignal
from celery_autoscaler.supervisor.local import RETRY, SHORT_LIFE, START_TIMEOUT, LocalWorker
from celery_autoscaler.supervisor.masking import exception_type, mask
from celery_autoscaler.supervisor.observation import Seen

logger = logging.getLogger(__name__)

# Messages of dead workers that one tick gives back.
RESCUE = 10_000
# Seconds without a lease after which a worker that consumed is given up; a lease lasts 5 s.
SILENCE = 15.0
# Seconds after which a worker that is to drain must be seen to be marked so.
UNMARKED = 3.0


class HostWorkers:
    """Follows the workers of this host."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._searcher = Searcher()

    def see(self, now: float, states: dict[str, State], seen: Seen, sees_since: float) -> None:
        """Bring what is known of this host's workers up to date.

        Args:
            now: Of a steady clock, in seconds.
            states: What the launcher knows.
            seen: What the broker shows.
            sees_since: Since when the supervisor sees the broker without a gap.
        """
        context = self.context
        alive = {w.instance: w for w in seen.workers if w.alive and w.host == context.host}
        for name in states.keys() - context.local.keys():
            if states[name] is not State.FAILED:
                self._adopt(now, name)
        for name, worker in list(context.local.items()):
            state = states.get(name)
            with context.faults.contained(f"worker {name}"):
                if state is State.RUNNING or state is State.STOPPING:
                    self._see_worker(now, worker, alive.get(name), state, seen)
                    self._give_up(now, worker, sees_since)
                else:
                    self._see_end(now, worker, seen, failed=state is State.FAILED)
        for name, state in states.items():
            if state is State.FAILED and name not in context.local:
                self._bury(name)

    def _adopt(self, now: float, name: str) -> None:
        group = name.rpartition("-")[0]
        timeout = self.context.groups[group].group.drain_timeout if group in self.context.groups else 600.0
        self.context.local[name] = self.new(now, name, group, timeout)
        self.context.local[name].adopted = True
        logger.info("%s adopted: it was running before", name)

    def new(self, now: float, name: str, group: str, drain_timeout: float) -> LocalWorker:
        """Return a worker that was started or first seen now; ``drain_timeout`` is in seconds."""
        soft_shutdown = float(self.context.app.conf.worker_soft_shutdown_timeout or SOFT_SHUTDOWN)
        return LocalWorker(name, group, now, drain_timeout=drain_timeout, soft_shutdown=soft_shutdown)

    def _see_worker(
        self, now: float, worker: LocalWorker, heartbeat: WorkerSeen | None, state: State, seen: Seen
    ) -> None:
        group = self.context.groups.get(worker.group)
        started_in = worker.look(now, heartbeat)
        replaced = heartbeat is not None and heartbeat.id in seen.replaced
        worker.outdated = replaced or (group is not None and not worker.is_of(group.group))
        if started_in is not None:
            self._unclaim(worker)
            if not worker.adopted and group is not None:
                group.startup.add(started_in)
                logger.info("%s ready %.1f s after its start", worker.name, started_in)
        if worker.ready_at is not None and not worker.lasted and now - worker.ready_at > SHORT_LIFE:
            worker.lasted = True
            if group is not None:
                group.backoff.lasted()
        marked = f"{worker.name}@{self.context.host}" in seen.draining
        if worker.stop_since is not None:
            if not (marked or worker.pushed) and now - worker.stop_since > UNMARKED:
                self._mark_again(worker)
            return
        if state is State.STOPPING:
            worker.stop(now, "stopped by somebody else", worker.drain_timeout)
            worker.pushed[StopSignal.TERM] = now
        elif marked:
            worker.stop(now, "an operator wants it drained", worker.drain_timeout)
            worker.by_operator = True
        elif group is None:
            self.stop(now, worker, "its group is gone")

    def _mark_again(self, worker: LocalWorker) -> None:
        """Take in that the mark of a worker that drains is gone: it takes messages again."""
        if worker.by_operator:
            worker.undo_stop()
        else:
            self.context.broker.client.sadd(
                self.context.broker.keys.drain, f"{worker.name}@{self.context.host}"
            )

    def _give_up(self, now: float, worker: LocalWorker, sees_since: float) -> None:
        """Stop a worker that never consumed, or whose lease has run out: others do its part."""
        group = self.context.groups.get(worker.group)
        if worker.stop_since is not None or group is None:
            return
        if worker.ready_at is None and now - worker.since > START_TIMEOUT:
            why = f"it does not consume {START_TIMEOUT:g} s after its start"
            group.start_failed(now, f"{worker.name}: {why}")
            self.stop(now, worker, why)
        elif worker.silent_since is not None and now - max(worker.silent_since, sees_since) > SILENCE:
            # Alive it would end by itself when it hears that it is fenced.
            self.stop(now, worker, "it has had no lease for long, its messages were given to others")

    def _see_end(self, now: float, worker: LocalWorker, seen: Seen, *, failed: bool) -> None:
        """Take in that a worker has ended."""
        del self.context.local[worker.name]
        asked = worker.stop_since is not None
        if failed and not asked:
            self._see_death(now, worker)
        elif asked:
            seconds = now - (worker.stop_since or now)
            logger.info("%s stopped in %.1f s", worker.name, seconds)
            self.context.counts.stopped[worker.group] = self.context.counts.stopped.get(worker.group, 0) + 1
        if failed:
            self._bury(worker.name)
        self._unclaim(worker)
        self._recover_ended(worker, seen)

    def _see_death(self, now: float, worker: LocalWorker) -> None:
        """Take in that a worker ended without having been asked to."""
        launcher, counts = self.context.launcher, self.context.counts
        words = launcher.last_words(worker.name)
        last = [mask(line) for line in words[-SHOWN_WORDS:]]
        logger.error("%s died%s", worker.name, f"; last output: {' / '.join(last)}" if last else "")
        counts.died[worker.group] = counts.died.get(worker.group, 0) + 1
        group = self.context.groups.get(worker.group)
        if group is not None and (worker.ready_at is None or now - worker.ready_at < SHORT_LIFE):
            # Everybody who reads the status reads this: nothing that the worker has printed but a type.
            kind = exception_type(words)
            death = f"{worker.name} died{f' of {kind}' if kind else ''}"
            group.start_failed(now, f"{death}; see {launcher.where_to_look(worker.name)}")

    def _bury(self, name: str) -> None:
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
            how = worker.next_push(now)
            if how is not None:
                # One that cannot be stopped, such as for want of a right, keeps no other from its end.
                worker.retry_at = now + RETRY
                with self.context.faults.contained(f"stopping {worker.name}"):
                    worker.push(now, how, self.context.launcher.push)
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
                    "%s stalled: it holds nothing and takes none of %d messages", worker.name, waiting
                )
                self.stop(now, worker, "it is stalled")

    # --- Recovery --------------------------------------------------------------------------------------

    def _recover_ended(self, worker: LocalWorker, seen: Seen) -> None:
        """Give back at once what a worker of this host held, whose processes are seen to be gone."""
        name = f"{worker.name}@{self.context.host}"
        for found in seen.workers:
            if found.name == name and found.pid and not process_exists(found.pid):
                self._give_back(found.id, certain=True)

    def recover(self, seen: Seen) -> None:
        """Give back what workers held whose lease has run out, wherever they were."""
        for worker_id in seen.expired:
            self._give_back(worker_id, certain=False)
        broker = self.context.broker
        with self.context.faults.contained("search for records of nobody"):
            self._searcher.search(broker.client, broker.keys)
        self.context.counts.orphans = self._searcher.found

    def _give_back(self, worker_id: str, *, certain: bool) -> None:
        with self.context.faults.contained(f"rescue of {worker_id}"):
            moved = recovery.recover(
                self.context.broker.client,
                self.context.broker.keys,
                worker_id,
                separator=self.context.broker.separator,
                limit=RESCUE,
                certain=certain,
            )
            self.context.counts.recovered += moved or 0


def process_exists(pid: int) -> bool:
    """Return whether there is a process of this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
