"""The supervisor of a host: looks, decides and acts once a second, and as soon as more waits than it assumed.

A tick never waits for a worker: a start or a drain takes many ticks. Without the broker it holds: it starts
and stops nothing.
"""

import logging
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from redis.exceptions import OutOfMemoryError, RedisError

from celery_autoscaler.protocol.broker import Broker
from celery_autoscaler.protocol.description import Description
from celery_autoscaler.protocol.status import SupervisorStatus
from celery_autoscaler.settings import Settings, SettingsError
from celery_autoscaler.supervisor.context import SUPERVISOR_LEASE_SECONDS, Context, Counts
from celery_autoscaler.supervisor.count_reader import CountReader
from celery_autoscaler.supervisor.group_state import GroupState, see_group
from celery_autoscaler.supervisor.host import Host
from celery_autoscaler.supervisor.host_counts import HostCounts
from celery_autoscaler.supervisor.host_workers import HostWorkers
from celery_autoscaler.supervisor.launchers import Launcher, LaunchError, State, StopSignal
from celery_autoscaler.supervisor.launchers.process import ProcessLauncher
from celery_autoscaler.supervisor.launchers.systemd import SystemdLauncher
from celery_autoscaler.supervisor.local import LocalWorker
from celery_autoscaler.supervisor.lookout import Lookout
from celery_autoscaler.supervisor.observation import FleetSeen
from celery_autoscaler.supervisor.policy import stretch
from celery_autoscaler.supervisor.policy.limits import HostSeen
from celery_autoscaler.supervisor.publishing import Publisher
from celery_autoscaler.supervisor.run_time_store import RunTimeStore
from celery_autoscaler.supervisor.scaling import Scaling
from celery_autoscaler.supervisor.tick import Tick
from celery_autoscaler.supervisor.wakeup import Wakeup

logger = logging.getLogger(__name__)

# Time between two looks at the counts of tasks.
COUNT_SECONDS = 5.0
# Time between two looks while workers are stopped at the end.
CLOSING_SECONDS = 0.2


class Supervisor:
    """Keeps the workers of this host in step with the load of the fleet."""

    def __init__(self, app: Description, settings: Settings) -> None:
        """Make the supervisor of an app."""
        self.context = Context(app, settings, make_launcher(app, settings))
        self.workers = HostWorkers(self.context)
        self.publisher = Publisher(self.context)
        self.scaling = Scaling(self.context, self.workers, self.publisher)
        self.last_tick = time.monotonic()
        self.on_tick: Callable[[], None] = _nothing
        self._lookout = Lookout(self.context)
        self._wakeup = Wakeup(self.context)
        self._counts = CountReader(self.context)
        self._run_times = RunTimeStore(self.context)
        self._host = Host()
        self._counted = -COUNT_SECONDS
        self._stopping = threading.Event()
        self._reload: tuple[Description, Settings] | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.RLock()
        self.context.use(settings)

    # --- What others read ------------------------------------------------------------------------------

    @property
    def app(self) -> Description:
        """The app as its environment describes it."""
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
    def seen(self) -> FleetSeen | None:
        """What the last look at the broker showed."""
        return self.context.seen

    @property
    def host_seen(self) -> HostSeen:
        """What the last look at the host showed."""
        return self.context.host_seen

    @property
    def status(self) -> SupervisorStatus:
        """What is seen and done, for people and other programs."""
        return self.context.status

    # --- Monitoring ------------------------------------------------------------------------------------

    def start_monitoring(self) -> None:
        """Begin to supervise, in a thread."""
        self._thread = threading.Thread(target=self.run, name="supervisor", daemon=True)
        self._thread.start()

    def stop_monitoring(self) -> None:
        """End supervising; wait until that is done."""
        self.stop()
        if self._thread is not None:
            self._thread.join()

    def run(self) -> None:
        """Supervise until :meth:`stop_monitoring` is called."""
        logger.info("Supervising %s on %s", ", ".join(self.groups), self.host)
        due = time.monotonic()
        while not self._stopping.is_set():
            if self._reload is not None:
                self._apply(*self._reload)
            self.tick()
            with suppress(OSError):
                self.on_tick()
            due = max(due + self.settings.tick, time.monotonic())
            self._await_tick(due)
        self._wakeup.close()
        self._leave()

    def _await_tick(self, due: float) -> None:
        """Wait for the next tick; decide before it when more messages come than the last decision assumed."""
        self._wakeup.expect(self._lookout.sees)
        while not self._stopping.is_set() and (left := due - time.monotonic()) > 0:
            if self._wakeup.wait(left):
                self.attempt(self._decide_now)
                self._wakeup.expect(self._lookout.sees)

    def stop(self) -> None:
        """Ask :meth:`run` to end; may be called by a signal handler."""
        self._stopping.set()
        self._wakeup.ring()

    def reload(self, app: Description, settings: Settings) -> None:
        """Use another description of the app and other settings from the next tick on.

        Estimates and running workers are kept.

        Raises:
            SettingsError: The app has another broker.
        """
        if not app.same_broker(self.app):
            raise SettingsError("the app has another broker now: restart the supervisor")
        self._reload = (app, settings)

    def tick(self) -> None:
        """Look, decide and act once. Whatever that meets, the next tick comes."""
        begin = time.monotonic()
        self.attempt(self._tick)
        self.context.tick_seconds = time.monotonic() - begin

    def attempt(self, step: Callable[[float], None]) -> None:
        """Take a step that begins now. Whatever that meets, nothing is raised."""
        begin = time.monotonic()
        try:
            with self._lock:
                step(begin)
        except OutOfMemoryError as error:
            # It can still be seen what waits, and a signal can still end workers.
            self._lookout.log_once(f"Redis is full, holds: {error}")
        except (RedisError, LaunchError, OSError) as error:
            self._lookout.hold(begin, str(error))
        except Exception as error:  # noqa: BLE001  a mistake of ours: no reason to leave the workers alone
            self._lookout.fail(begin, error)
        self.last_tick = time.monotonic()

    def _tick(self, now: float) -> None:
        context, contained = self.context, self.context.faults.contained
        with contained("the host's CPU and memory"):
            context.host_seen = self._host.look()
        tick = self._look(now, self.launcher.workers())
        self.workers.see(tick)
        if now - tick.sees_since >= SUPERVISOR_LEASE_SECONDS:
            self.workers.recover(tick.fleet)
        self.workers.send_due_signals(now)
        decided = [state for state in self.groups.values() if self._decide(tick, state)]
        if now >= self._lookout.acts_from:
            self.scaling.act(tick, decided)
            with contained("relief of the host"):
                self.scaling.relieve(tick)
            with contained("stalled workers"):
                self.workers.recycle(now)
        if now - self._counted >= COUNT_SECONDS:
            self._counted = now
            with contained("counts of tasks"):
                self._counts.update(tick.fleet)
            with contained("run times"):
                self._run_times.update(tick.fleet)
        context.faults.forget()
        self.publisher.publish(tick.fleet)

    def _decide_now(self, now: float) -> None:
        """Start workers between two ticks. Everything else waits for the next one."""
        tick = self._look(now, self.launcher.workers())
        self.workers.see(tick)
        decided = [state for state in self.groups.values() if self._decide(tick, state, between=True)]
        if now >= self._lookout.acts_from:
            self.scaling.act(tick, decided, only_start=True)

    def _look(self, now: float, states: dict[str, State]) -> Tick:
        """Look at the broker; return what is known then."""
        fleet = self._lookout.look(self.last_tick, self._counts.refused)
        return Tick(now, fleet, self.host_seen, states, self._lookout.sees_since)

    def _decide(self, tick: Tick, state: GroupState, *, between: bool = False) -> bool:
        """Decide for a group, maybe between two ticks; return whether that could be done."""
        name, context = state.group.name, self.context
        with context.faults.contained(f"group {name}, decision"):
            starved = context.host_limits.is_starved(tick.host)
            state.seen = see_group(tick.now, state, tick.fleet, starved=starved, between=between)
            law = state.law.between_ticks(tick.now) if between else state.law
            state.decision = stretch.decide(law, state.group, state.seen, context.override(name))
            state.serve(context.bounds(state.group)[0])
            return True
        return False

    def _apply(self, app: Description, settings: Settings) -> None:
        self._reload = None
        self.context.app = app
        self.context.use(settings)
        self._lookout.forget_groups()
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
            return self.scaling.starter.start(time.monotonic(), self.groups[group]) or None

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
                if not worker.signals:
                    worker.stop(now, "all are stopped", worker.drain_timeout)
                    with self.context.faults.contained(f"stopping {worker.name}"):
                        worker.send_signal(now, StopSignal.TERM, self.launcher.send_signal)
        while self.local:
            time.sleep(CLOSING_SECONDS)
            with self._lock:
                self._see_ends()
                self.workers.send_due_signals(time.monotonic())
            self.last_tick = time.monotonic()
            self.on_tick()

    def _see_ends(self) -> None:
        """See which workers have ended, also while the broker does not answer."""
        states = self.launcher.workers()
        try:
            self.workers.see(self._look(time.monotonic(), states))
        except Exception as error:
            if not isinstance(error, RedisError):
                logger.exception("Cannot read from the broker which workers have ended")
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
                queue: found.messages
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
            # Without a supervisor they would neither end nor learn that they are needed again.
            for worker in self.local.values():
                if worker.state == "draining" and worker.may_return:
                    self.broker.client.srem(keys.drain, f"{worker.name}@{self.host}")
            self.broker.client.zrem(keys.supervisors, self.host)
            self.broker.client.delete(keys.supervisor(self.host))
        self.launcher.close()
        logger.info("Supervisor stopped%s", "; its workers continue" if self.launcher.outlived else "")


def make_launcher(app: Description, settings: Settings) -> Launcher:
    """Return the launcher that the settings ask for."""
    if settings.launcher == "systemd":
        return SystemdLauncher()
    return ProcessLauncher(app, settings.host)


def _nothing() -> None:
    pass
