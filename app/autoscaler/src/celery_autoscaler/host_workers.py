"""The workers of this host: seen from their start to their end, stopped, and rescued when they have died."""

import logging
import os

from celery_autoscaler import recovery
from celery_autoscaler.context import Context
from celery_autoscaler.launchers import Push, State
from celery_autoscaler.local import SHORT_LIFE, START_TIMEOUT, LocalWorker
from celery_autoscaler.observation import Seen, WorkerSeen
from celery_autoscaler.parent import SOFT_SHUTDOWN

logger = logging.getLogger(__name__)

# Messages of dead workers that one tick gives back.
RESCUE = 10_000


class HostWorkers:
    """Follows the workers of this host."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def see(self, now: float, states: dict[str, State], seen: Seen) -> None:
        """Bring what is known of this host's workers up to date."""
        alive = {
            worker.instance: worker
            for worker in seen.workers
            if worker.alive and worker.host == self.context.host
        }
        for name in states.keys() - self.context.local.keys():
            if states[name] is not State.FAILED:
                self._adopt(now, name)
        for name, worker in list(self.context.local.items()):
            state = states.get(name)
            if state is State.RUNNING or state is State.STOPPING:
                self._see_worker(now, worker, alive.get(name), state, seen)
            else:
                self._see_end(now, worker, seen, failed=state is State.FAILED)
        for name in [
            name for name, state in states.items() if state is State.FAILED and name not in self.context.local
        ]:
            self.context.launcher.bury(name)

    def _adopt(self, now: float, name: str) -> None:
        group = name.rpartition("-")[0]
        timeout = self.context.groups[group].group.drain_timeout if group in self.context.groups else 600.0
        self.context.local[name] = self.new(now, name, group, timeout)
        self.context.local[name].adopted = True
        logger.info("%s was there before: adopted", name)

    def new(self, now: float, name: str, group: str, drain_timeout: float) -> LocalWorker:
        """Return a worker that was started or first seen now; ``drain_timeout`` is in seconds."""
        soft_shutdown = float(self.context.app.conf.worker_soft_shutdown_timeout or SOFT_SHUTDOWN)
        return LocalWorker(name, group, now, drain_timeout=drain_timeout, soft_shutdown=soft_shutdown)

    def _see_worker(
        self, now: float, worker: LocalWorker, heartbeat: WorkerSeen | None, state: State, seen: Seen
    ) -> None:
        group = self.context.groups.get(worker.group)
        started_in = worker.look(now, heartbeat)
        worker.outdated = heartbeat is not None and heartbeat.id in seen.replaced
        if started_in is not None:
            self._unclaim(worker)
            if not worker.adopted and group is not None:
                group.startup.add(started_in)
                logger.info("%s consumes, %.1f s after its start", worker.name, started_in)
        if worker.ready_at is not None and not worker.lasted and now - worker.ready_at > SHORT_LIFE:
            worker.lasted = True
            if group is not None:
                group.backoff.lasted()
        if worker.stop_since is not None:
            return
        if state is State.STOPPING:
            worker.stop(now, "stopped by somebody else", worker.drain_timeout)
            worker.pushed[Push.TERM] = now
        elif f"{worker.name}@{self.context.host}" in seen.draining:
            worker.stop(now, "an operator wants it drained", worker.drain_timeout)
        elif group is None:
            self.stop(now, worker, "its group is gone")
        elif worker.ready_at is None and now - worker.since > START_TIMEOUT:
            why = f"it does not consume {START_TIMEOUT:g} s after its start"
            group.start_failed(now, f"{worker.name}: {why}")
            self.stop(now, worker, why, 0.0)

    def _see_end(self, now: float, worker: LocalWorker, seen: Seen, *, failed: bool) -> None:
        """Take in that a worker has ended."""
        del self.context.local[worker.name]
        group = self.context.groups.get(worker.group)
        asked = worker.stop_since is not None
        if failed and not asked:
            words = self.context.launcher.last_words(worker.name)
            death = f"{worker.name} died" + (f"; it printed last: {' / '.join(words)}" if words else "")
            logger.error("%s", death)
            self.context.counts.died[worker.group] = self.context.counts.died.get(worker.group, 0) + 1
            if group is not None and (worker.ready_at is None or now - worker.ready_at < SHORT_LIFE):
                group.start_failed(now, death)
        elif asked:
            seconds = now - (worker.stop_since or now)
            logger.info("%s has ended, %.1f s after it was told to", worker.name, seconds)
            self.context.counts.stopped[worker.group] = self.context.counts.stopped.get(worker.group, 0) + 1
        if failed:
            self.context.launcher.bury(worker.name)
        self._unclaim(worker)
        self._recover_ended(worker, seen)

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

    def send_due_signals(self, now: float) -> None:
        """Send the signals that are due to workers that stop."""
        for worker in self.context.local.values():
            how = worker.next_push(now)
            if how is not None:
                worker.push(now, how, self.context.launcher.push)

    def recycle(self, now: float) -> None:
        """Stop workers that live but take nothing although messages wait for them."""
        for worker in self.context.local.values():
            group = self.context.groups.get(worker.group)
            if group is not None and worker.is_catatonic(now, group.seen.backlog):
                logger.error(
                    "%s lives, has room, and takes none of %d messages", worker.name, group.seen.backlog
                )
                self.stop(now, worker, "it takes nothing although messages wait", 0.0)

    # --- Recovery --------------------------------------------------------------------------------------

    def _recover_ended(self, worker: LocalWorker, seen: Seen) -> None:
        """Give back at once what a worker of this host held, whose processes are seen to be gone."""
        name = f"{worker.name}@{self.context.host}"
        for found in seen.workers:
            if found.name == name and not process_exists(found.pid):
                self._give_back(found.id, certain=True)

    def recover(self, seen: Seen) -> None:
        """Give back what workers held whose lease has run out, wherever they were."""
        for worker_id in seen.expired:
            self._give_back(worker_id, certain=False)

    def _give_back(self, worker_id: str, *, certain: bool) -> None:
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
