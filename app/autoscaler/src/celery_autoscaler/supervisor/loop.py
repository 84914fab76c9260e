"""The supervisor of a host: looks, decides and acts once a second.

A tick never waits for a worker: a start or a drain takes many ticks. Without the broker it holds: it starts
and stops nothing.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery import Celery
from redis.exceptions import OutOfMemoryError, RedisError

from celery_autoscaler.protocol.bounded_hash import bounded_hash, read_bounded
from celery_autoscaler.protocol.broker import Broker
from celery_autoscaler.protocol.heartbeat import read_worker_id
from celery_autoscaler.protocol.readers import Refusal, UnreadableError, shown
from celery_autoscaler.protocol.tallies import Tallies
from celery_autoscaler.protocol.wrong_types import replies_of, set_aside
from celery_autoscaler.settings import Settings
from celery_autoscaler.supervisor.clock import TOLERATED_SECONDS
from celery_autoscaler.supervisor.context import LEASE, Context, Counts
from celery_autoscaler.supervisor.faults import described
from celery_autoscaler.supervisor.group_state import GroupState, see_group
from celery_autoscaler.supervisor.host import Host
from celery_autoscaler.supervisor.host_counts import HostCounts
from celery_autoscaler.supervisor.host_workers import HostWorkers
from celery_autoscaler.supervisor.launchers import Launcher, LaunchError, State, StopSignal
from celery_autoscaler.supervisor.launchers.process import ProcessLauncher
from celery_autoscaler.supervisor.launchers.systemd import SystemdLauncher
from celery_autoscaler.supervisor.local import LocalWorker
from celery_autoscaler.supervisor.observation import Observer, Seen
from celery_autoscaler.supervisor.policy import law, limits
from celery_autoscaler.supervisor.policy.bounds import in_force
from celery_autoscaler.supervisor.publishing import Publisher
from celery_autoscaler.supervisor.run_time_store import RunTimeStore
from celery_autoscaler.supervisor.scaling import Scaling
from celery_autoscaler.supervisor.settings_check import check_settings, errors

logger = logging.getLogger(__name__)

# Ticks before the first act.
FIRST_LOOKS = 2
# Seconds between two looks at the counts of tasks.
COUNT_EVERY = 5.0
# Seconds between two looks while workers are stopped at the end.
CLOSING = 0.2


class Supervisor:
    """Keeps the workers of this host in step with the load of the fleet."""

    def __init__(self, app: Celery, app_name: str, settings: Settings) -> None:
        """Make the supervisor of an app that stands behind ``-A`` under a name."""
        self.context = Context(app, settings, make_launcher(app_name, settings))
        self.workers = HostWorkers(self.context)
        self.publisher = Publisher(self.context)
        self.scaling = Scaling(self.context, self.workers, self.publisher)
        self.last_tick = time.monotonic()
        self.on_tick: Callable[[], None] = _nothing
        self._run_times = RunTimeStore(self.context)
        self._host = Host()
        self._observer: Observer | None = None
        self._counted = -COUNT_EVERY
        self._gone: set[str] = set()
        self._blind_since: float | None = None
        self._said = ""
        self._clock_is_off = False
        self._uncounted: list[Refusal] = []
        self._sees_since = self.last_tick
        # Supervisors that start together see each other before any of them acts.
        self._acts_from = self.last_tick + FIRST_LOOKS * settings.tick
        self._stopping = threading.Event()
        self._reload: Settings | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.RLock()
        self._set_groups(settings)

    # --- What others read ------------------------------------------------------------------------------

    @property
    def app(self) -> Celery:
        """The user's app."""
        return self.context.app

    @property
    def host(self) -> str:
        """The name of this host."""
        return self.context.host

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self.context.settings

    @property
    def launcher(self) -> Launcher:
        """What starts and stops the workers of this host."""
        return self.context.launcher

    @property
    def broker(self) -> Broker:
        """The connection to the broker."""
        return self.context.broker

    @property
    def counts(self) -> Counts:
        """What has happened since the start, for the metrics."""
        return self.context.counts

    @property
    def task_counts(self) -> HostCounts:
        """The tasks of this host, counted by name and queue."""
        return self.context.task_counts

    @property
    def local(self) -> dict[str, LocalWorker]:
        """The workers of this host by name."""
        return self.context.local

    @property
    def groups(self) -> dict[str, GroupState]:
        """The worker groups by name."""
        return self.context.groups

    @property
    def seen(self) -> Seen | None:
        """What the last look at the broker showed."""
        return self.context.seen

    @property
    def host_seen(self) -> limits.HostSeen:
        """What the last look at the host showed."""
        return self.context.host_seen

    @property
    def status(self) -> dict[str, Any]:
        """What is seen and done, for people and other programs."""
        return self.context.status

    @property
    def tick_seconds(self) -> float:
        """Seconds that the last tick took."""
        return self.context.tick_seconds

    # --- Monitoring ------------------------------------------------------------------------------------

    def start_monitoring(self) -> None:
        """Begin to supervise, in a thread."""
        self._thread = threading.Thread(target=self.run, name="supervisor", daemon=True)
        self._thread.start()

    def stop_monitoring(self) -> None:
        """End supervising; wait until that is done."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()

    def run(self) -> None:
        """Supervise until :meth:`stop_monitoring` is called."""
        logger.info("Supervising %s on %s", ", ".join(self.groups), self.host)
        due = time.monotonic()
        while not self._stopping.is_set():
            if self._reload is not None:
                self._apply(self._reload)
            self.tick()
            with suppress(OSError):
                self.on_tick()
            due = max(due + self.settings.tick, time.monotonic())
            self._stopping.wait(due - time.monotonic())
        self._leave()

    def stop(self) -> None:
        """Ask :meth:`run` to end; may be called by a signal handler."""
        self._stopping.set()

    def reload(self, settings: Settings) -> None:
        """Use other settings from the next tick on; estimates and running workers are kept."""
        self._reload = settings

    def tick(self) -> None:
        """Look, decide and act once. Whatever that meets, the next tick comes."""
        begin = time.monotonic()
        try:
            with self._lock:
                self._tick(begin)
        except OutOfMemoryError as error:
            # It can still be seen what waits, and workers can still be told to end by a signal.
            self._say_once(f"Redis is full, holds: {error}")
        except (RedisError, LaunchError, OSError) as error:
            self._hold(begin, str(error))
        except Exception as error:  # noqa: BLE001  a mistake of ours: no reason to leave the workers alone
            self._fail(begin, error)
        self.last_tick = time.monotonic()
        self.context.tick_seconds = self.last_tick - begin

    def _tick(self, now: float) -> None:
        context, contained = self.context, self.context.faults.contained
        with contained("the host's CPU and memory"):
            context.host_seen = self._host.look()
        states = self.launcher.workers()
        seen = self._look()
        self.workers.see(now, states, seen, self._sees_since)
        if now - self._sees_since >= LEASE:
            self.workers.recover(seen)
        self.workers.send_due_signals(now)
        decided = [state for state in self.groups.values() if self._decide(now, state, seen)]
        if now >= self._acts_from:
            self.scaling.act(now, decided, seen)
            with contained("relieving the host"):
                self.scaling.relieve(now, seen)
            with contained("stalled workers"):
                self.workers.recycle(now)
        if now - self._counted >= COUNT_EVERY:
            self._counted = now
            with contained("counts of tasks"):
                self._count_tasks(seen)
            with contained("run times"):
                self._run_times.update(seen)
        context.faults.forget()
        self.publisher.publish(seen)

    def _decide(self, now: float, state: GroupState, seen: Seen) -> bool:
        """Decide for a group; return whether that could be done."""
        name = state.group.name
        with self.context.faults.contained(f"group {name}, decision"):
            context = self.context
            state.seen = see_group(now, state, seen, starved=context.brakes.is_starved(context.host_seen))
            state.decision = state.law.decide(state.group, state.seen, self.context.override(name))
            state.serve(self.context.bounds(state.group)[0])
            return True
        return False

    # --- Looking ---------------------------------------------------------------------------------------

    def _look(self) -> Seen:
        if self._observer is None:
            self._observer = Observer(self.broker, [state.group for state in self.groups.values()])
        seen = self.context.seen = self._observer.look()
        now = time.monotonic()
        self._take_in(seen)
        if self._blind_since is not None:
            logger.warning("Redis answers again after %.0f s", now - self._blind_since)
            self._blind_since = None
            # Workers that could not renew their lease get the time to do so.
            self._sees_since, self._acts_from = now, now + LEASE
        elif now - self.last_tick > LEASE / 2:
            # Was frozen itself: what looks dead may only be waking up as well.
            self._sees_since = now
        return seen

    def _take_in(self, seen: Seen) -> None:
        """Take in what a look shows beside the load."""
        context, groups = self.context, [state.group for state in self.groups.values()]
        context.overrides, refused = in_force(seen.overrides, groups)
        context.unreadable.update([*seen.refusals, *refused, *self._uncounted])
        for key in seen.set_aside:
            context.unreadable.keep(key)
        living = [worker for worker in seen.workers if worker.alive]
        context.clients_per_worker.update(
            seen.clients.connected,
            len(living),
            settled=len(living) == len(seen.workers) == sum(worker.state == "running" for worker in living)
            and not any(seen.claims.values()),
        )
        is_off = abs(seen.clock_offset) > TOLERATED_SECONDS
        if is_off and not self._clock_is_off:
            logger.warning(
                "The clock of %s is %.1f s %s that of Redis: tasks with an ETA start at the wrong time",
                self.host,
                abs(seen.clock_offset),
                "behind" if seen.clock_offset > 0 else "ahead of",
            )
        self._clock_is_off = is_off

    def _say_once(self, text: str) -> None:
        """Log what is the same for many ticks when it begins."""
        if text != self._said:
            logger.warning("%s", text)
        self._said = text

    def _hold(self, now: float, why: str) -> None:
        """Start and stop nothing while the broker or the launcher does not answer, and say so."""
        if self._blind_since is None:
            self._blind_since = now
            logger.warning("Blind, starts and stops nothing: %s", why)
        self.context.status = self.context.status | {
            "state": "blind",
            "why": why,
            "tick": self.publisher.tick_status(),
        }

    def _fail(self, now: float, error: Exception) -> None:
        """Hold because of a mistake of this program, and say where it is."""
        what = f"internal error, {described(error)}"
        if self._said != what:
            logger.error("%s", what, exc_info=error)
        self._said = what
        self._hold(now, what)

    def _count_tasks(self, seen: Seen) -> None:
        """Take in what the workers of this host have counted, and forget those that are gone."""
        key = self.broker.keys.task_counts(self.host)
        found: dict[str, Tallies] = {}
        with self.broker.client.pipeline(transaction=False) as pipe:
            read_bounded(pipe, key)
            [reply] = replies_of(pipe)
        if isinstance(reply, Exception):
            self.context.unreadable.keep(set_aside(self.broker.client, self.broker.keys, key))
            reply = ()
        told, self._uncounted = bounded_hash("task counts", key, reply)
        for member, text in told.items():
            try:
                found[read_worker_id(member)] = Tallies.load(text)
            except UnreadableError as error:
                self._uncounted.append(Refusal("task counts", shown(member), str(error)))
        self.task_counts.update(seen.time, found)
        self.context.pace.update(seen.time, self.task_counts.runtimes())
        gone = found.keys() - {worker.id for worker in seen.workers}
        # Gone at two looks: a worker tells its last counts before it goes; one that is fenced tells none.
        if silent := gone & self._gone:
            self.broker.client.hdel(key, *silent)
        self.task_counts.forget(self._gone - found.keys())
        self._gone = gone

    # --- Settings --------------------------------------------------------------------------------------

    def _set_groups(self, settings: Settings) -> None:
        self.context.settings = settings
        with self.context.faults.contained("check of the settings"):
            self.context.problems = errors(check_settings(self.app, settings))
        self.context.brakes.cpu_threshold = settings.cpu_threshold
        self.context.brakes.memory_threshold = settings.memory_threshold
        kept = self.groups
        self.context.groups = {}
        for name, group in settings.groups.items():
            state = kept.get(name) or GroupState(group, law.GroupPolicy(), quiet_since=time.monotonic())
            state.group = group
            state.law.stabilisation = settings.stabilisation
            state.law.queue_threshold = settings.queue_threshold
            self.groups[name] = state

    def _apply(self, settings: Settings) -> None:
        self._reload = None
        self._set_groups(settings)
        self._observer = None
        for worker in self.local.values():
            if worker.group in self.groups:
                worker.drain_timeout = self.groups[worker.group].group.drain_timeout
        logger.info("Settings reloaded: %s", ", ".join(self.groups))

    # --- By hand ---------------------------------------------------------------------------------------

    def start_worker(self, group: str) -> str | None:
        """Start a worker of a group; return its name, or nothing if the maximum is reached.

        Raises:
            KeyError: There is no such group.
            LaunchError: It cannot be started.
        """
        with self._lock:
            return self.scaling.start(time.monotonic(), self.groups[group]) or None

    def stop_worker(self, name: str) -> None:
        """Begin to stop a worker of this host, ``<group>-<n>``: it finishes what it holds.

        Raises:
            KeyError: There is no such worker.
        """
        with self._lock:
            self.workers.stop(time.monotonic(), self.local[name], "stopped by hand")

    def stop_all_workers(self) -> None:
        """Stop all workers of this host and wait until they have ended; each finishes what it runs."""
        with self._lock:
            now = time.monotonic()
            for worker in self.local.values():
                if not worker.pushed:
                    worker.stop(now, "all are stopped", worker.drain_timeout)
                    with self.context.faults.contained(f"stopping {worker.name}"):
                        worker.push(now, StopSignal.TERM, self.launcher.push)
        while self.local:
            time.sleep(CLOSING)
            with self._lock:
                self._see_ends()
                self.workers.send_due_signals(time.monotonic())
            self.last_tick = time.monotonic()
            self.on_tick()

    def _see_ends(self) -> None:
        """See which workers have ended, also while the broker does not answer."""
        states = self.launcher.workers()
        try:
            self.workers.see(time.monotonic(), states, self._look(), self._sees_since)
        except Exception as error:
            if not isinstance(error, RedisError):
                logger.exception("The end of workers cannot be seen in the broker")
            living = {name for name, state in states.items() if state is not State.FAILED}
            self.context.local = {name: worker for name, worker in self.local.items() if name in living}

    def get_worker_stats(self) -> dict[str, Any]:
        """Return the counts of this host's workers, the use of the host, and the lengths of the queues."""
        states = [worker.state for worker in self.local.values()]
        return {
            "total": len(states),
            "active": states.count("ready"),
            "starting": states.count("starting"),
            "draining": states.count("draining") + states.count("stopping"),
            "dead": sum(self.counts.died.values()),
            "cpu": self.host_seen.cpu,
            "memory": self.host_seen.memory,
            "queues": {
                queue: int(found["messages"])
                for state in self.groups.values()
                for queue, found in state.queues.items()
            },
        }

    def _leave(self) -> None:
        """End: workers that would not outlive the supervisor are stopped first."""
        if not self.launcher.outlived:
            self.stop_all_workers()
        with suppress(RedisError):
            keys = self.broker.keys
            # Without a supervisor nobody would end them, nor tell them that they are needed again.
            for worker in self.local.values():
                if worker.state == "draining" and worker.may_return:
                    self.broker.client.srem(keys.drain, f"{worker.name}@{self.host}")
            self.broker.client.zrem(keys.supervisors, self.host)
            self.broker.client.delete(keys.supervisor(self.host))
        self.launcher.close()
        logger.info("Supervisor stopped%s", "; its workers continue" if self.launcher.outlived else "")


def make_launcher(app_name: str, settings: Settings) -> Launcher:
    """Return the launcher that the settings ask for."""
    if settings.launcher == "systemd":
        return SystemdLauncher()
    return ProcessLauncher(app_name, settings.host)


def _nothing() -> None:
    pass
