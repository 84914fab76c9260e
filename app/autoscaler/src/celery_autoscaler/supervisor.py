"""The supervisor of a host: looks, decides and acts once a second.

A tick never waits for a worker: a start or a drain takes many ticks. Without the broker it holds: it starts
and stops nothing.
"""

import json
import logging
import os
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from typing import Any
from zlib import crc32

from celery import Celery
from redis.exceptions import OutOfMemoryError, RedisError

from celery_autoscaler import fleet_status, limits, policy, recovery, shares
from celery_autoscaler.broker import Broker, connect
from celery_autoscaler.crashes import Backoff
from celery_autoscaler.estimates import Age, Meter, Pace, StartUp, WorkerCounters
from celery_autoscaler.history import RECORDS, Recorder
from celery_autoscaler.host import Host
from celery_autoscaler.launchers import Launcher, LaunchError, Push, State
from celery_autoscaler.launchers.process import ProcessLauncher
from celery_autoscaler.launchers.systemd import SystemdLauncher
from celery_autoscaler.local import SHORT_LIFE, START_TIMEOUT, LocalWorker
from celery_autoscaler.observation import Observer, Seen, WorkerSeen
from celery_autoscaler.parent import SOFT_SHUTDOWN
from celery_autoscaler.settings import Group, Settings
from celery_autoscaler.task_counts import HostCounts, Tallies

logger = logging.getLogger(__name__)

# Seconds that a supervisor's heartbeat stands: then the others take over its share.
LEASE = 5.0
# Ticks before the first act.
FIRST_LOOKS = 2
# Seconds for which a host must have been short of something before the others take over a part of its share.
SHORT = 5.0
# Seconds that the claim of a starting worker stands unless it is renewed.
CLAIM_LEASE = 15.0
# Messages of dead workers that one tick gives back.
RESCUE = 10_000
# Seconds between two looks at the counts of tasks.
COUNT_EVERY = 5.0
# Seconds between two looks while workers are stopped at the end.
CLOSING = 0.2

# KEYS: the set of workers, the claims of the group.
# ARGV: group, name of the worker, the group's maximum, milliseconds for which the claim stands.
# Returns whether the worker may be started.
# Invariant: living workers and claims of a group are together never more than its maximum.
CLAIM = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now)
local names, count = {}, 0
local function add(name)
    if name and not names[name] then names[name] = true; count = count + 1 end
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')) do
    local name = string.match(id, '^(.*):')
    if name and string.match(name, '^(.*)%-%d+@') == ARGV[1] then add(name) end
end
for _, name in ipairs(redis.call('ZRANGE', KEYS[2], 0, -1)) do add(name) end
if names[ARGV[2]] or count >= tonumber(ARGV[3]) then return 0 end
redis.call('ZADD', KEYS[2], now + ARGV[4], ARGV[2])
return 1
"""


@dataclass(frozen=True)
class StepSeen:
    """A list of a queue, one of its priority steps, as the last tick saw it."""

    queue: str
    name: str
    length: int
    future: int
    age: float
    departed: int
    """Messages that were seen to leave it."""


@dataclass
class GroupState:
    """What a supervisor remembers of a group, and what it last saw and decided."""

    group: Group
    law: policy.GroupPolicy
    meter: Meter = field(default_factory=Meter)
    startup: StartUp = field(default_factory=StartUp)
    backoff: Backoff = field(default_factory=Backoff)
    ages: dict[str, Age] = field(default_factory=dict)
    seen: policy.Seen = field(default_factory=lambda: policy.Seen(now=0.0))
    decision: policy.Decision = field(default_factory=lambda: policy.Decision(0, "nothing was seen yet"))
    draining: int = 0
    held_back: str = ""
    """What keeps this host from running as many workers as it should."""
    limit: int | None = None
    short_since: float | None = None
    quiet_since: float = 0.0
    """Since when this host has started and stopped none."""
    leaving_since: float | None = None
    """Since when this host shall run none."""
    queues: dict[str, dict[str, float]] = field(default_factory=dict)
    steps: list[StepSeen] = field(default_factory=list)
    """The lists of its queues that hold messages, or held any before."""
    replacement: str = ""
    """The worker that was started in the place of an outdated one of this host."""
    failed_starts: int = 0
    last_failure: str = ""
    """How the last start that failed did."""
    published: tuple[Any, ...] = ()

    def start_failed(self, now: float, how: str) -> None:
        """Take in that a worker of this host ended soon after its start, or never consumed."""
        self.backoff.failed(now)
        self.failed_starts += 1
        self.last_failure = how


@dataclass
class Counts:
    """What has happened since the supervisor started, for the metrics."""

    started: dict[str, int] = field(default_factory=dict)
    stopped: dict[str, int] = field(default_factory=dict)
    died: dict[str, int] = field(default_factory=dict)
    recovered: int = 0


class Supervisor:
    """Keeps the workers of this host in step with the load of the fleet."""

    def __init__(self, app: Celery, app_name: str, settings: Settings) -> None:
        """Make the supervisor of an app that stands behind ``-A`` under a name."""
        self.app = app
        self.app_name = app_name
        self.settings = settings
        self.host = settings.host
        self.launcher = self._make_launcher()
        self.counts = Counts()
        self.task_counts = HostCounts()
        self._pace = Pace()
        self._counted = -COUNT_EVERY
        self._gone: set[str] = set()
        self.local: dict[str, LocalWorker] = {}
        self.groups: dict[str, GroupState] = {}
        self.seen: Seen | None = None
        self.host_seen = limits.HostSeen()
        self.last_tick = time.monotonic()
        self.tick_seconds = 0.0
        self.status: dict[str, Any] = {"host": self.host, "state": "starting"}
        self.on_tick: Callable[[], None] = _nothing
        self._host = Host()
        self._brakes = limits.Brakes(settings.cpu_threshold, settings.memory_threshold)
        self._broker: Broker | None = None
        self._observer: Observer | None = None
        self._blind_since: float | None = None
        self._recorder = Recorder()
        self._said = ""
        self._sees_since = self.last_tick
        # Supervisors that start together see each other before any of them acts.
        self._acts_from = self.last_tick + FIRST_LOOKS * settings.tick
        self._stopping = threading.Event()
        self._reload: Settings | None = None
        self._thread: threading.Thread | None = None
        self._lock = threading.RLock()
        self._set_groups(settings)

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
        """Look, decide and act once."""
        begin = time.monotonic()
        try:
            with self._lock:
                self._tick(begin)
        except OutOfMemoryError as error:
            # It can still be seen what waits, and workers can still be told to end by a signal.
            self._say_once(f"Redis is full, holds: {error}")
        except (RedisError, LaunchError) as error:
            self._hold(begin, str(error))
        self.last_tick = time.monotonic()
        self.tick_seconds = self.last_tick - begin

    def _tick(self, now: float) -> None:
        self.host_seen = self._host.look()
        states = self.launcher.workers()
        seen = self.seen = self._look()
        self._see_workers(now, states, seen)
        if now - self._sees_since >= LEASE:
            self._recover(seen)
        self._end_workers(now)
        for state in self.groups.values():
            self._decide(now, state, seen)
        if now >= self._acts_from:
            for state in self.groups.values():
                self._act(now, state, seen)
            self._relieve(now)
            self._recycle(now)
        if now - self._counted >= COUNT_EVERY:
            self._counted = now
            self._count_tasks(seen)
        self._publish(seen)

    # --- Looking ---------------------------------------------------------------------------------------

    def _look(self) -> Seen:
        if self._observer is None:
            self._broker = connect(self.app)
            self._observer = Observer(self._broker, [state.group for state in self.groups.values()])
        seen = self._observer.look()
        now = time.monotonic()
        if self._blind_since is not None:
            logger.warning("Sees again after %.0f s", now - self._blind_since)
            self._blind_since = None
            # Workers that could not renew their lease get the time to do so.
            self._sees_since, self._acts_from = now, now + LEASE
        elif now - self.last_tick > LEASE / 2:
            # Was frozen itself: what looks dead may only be waking up as well.
            self._sees_since = now
        return seen

    def _say_once(self, text: str) -> None:
        """Log what is the same for many ticks when it begins."""
        if text != self._said:
            logger.warning("%s", text)
        self._said = text

    def _hold(self, now: float, why: str) -> None:
        """Start and stop nothing while the broker or the launcher does not answer, and say so."""
        if self._blind_since is None:
            self._blind_since = now
            logger.warning("Blind, holds: %s", why)
        self.status = self.status | {"state": "blind", "why": why, "tick": self._tick_status()}

    @property
    def broker(self) -> Broker:
        """The connection to the broker."""
        if self._broker is None:
            self._broker = connect(self.app)
        return self._broker

    def _see_workers(self, now: float, states: dict[str, State], seen: Seen) -> None:
        """Bring what is known of this host's workers up to date."""
        alive = {
            worker.instance: worker for worker in seen.workers if worker.alive and worker.host == self.host
        }
        for name in states.keys() - self.local.keys():
            if states[name] is not State.FAILED:
                self._adopt(now, name)
        for name, worker in list(self.local.items()):
            state = states.get(name)
            if state is State.RUNNING or state is State.STOPPING:
                self._see_worker(now, worker, alive.get(name), state, seen)
            else:
                self._see_end(now, worker, seen, failed=state is State.FAILED)
        for name in [
            name for name, state in states.items() if state is State.FAILED and name not in self.local
        ]:
            self.launcher.bury(name)

    def _adopt(self, now: float, name: str) -> None:
        group = name.rpartition("-")[0]
        timeout = self.groups[group].group.drain_timeout if group in self.groups else 600.0
        self.local[name] = self._local_worker(now, name, group, timeout)
        self.local[name].adopted = True
        logger.info("%s was there before: adopted", name)

    def _local_worker(self, now: float, name: str, group: str, drain_timeout: float) -> LocalWorker:
        soft_shutdown = float(self.app.conf.worker_soft_shutdown_timeout or SOFT_SHUTDOWN)
        return LocalWorker(name, group, now, drain_timeout=drain_timeout, soft_shutdown=soft_shutdown)

    def _see_worker(
        self, now: float, worker: LocalWorker, heartbeat: WorkerSeen | None, state: State, seen: Seen
    ) -> None:
        group = self.groups.get(worker.group)
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
        elif f"{worker.name}@{self.host}" in seen.draining:
            worker.stop(now, "an operator wants it drained", worker.drain_timeout)
        elif group is None:
            self._stop(now, worker, "its group is gone")
        elif worker.ready_at is None and now - worker.since > START_TIMEOUT:
            why = f"it does not consume {START_TIMEOUT:g} s after its start"
            group.start_failed(now, f"{worker.name}: {why}")
            self._stop(now, worker, why, 0.0)

    def _see_end(self, now: float, worker: LocalWorker, seen: Seen, *, failed: bool) -> None:
        """Take in that a worker has ended."""
        del self.local[worker.name]
        group = self.groups.get(worker.group)
        asked = worker.stop_since is not None
        if failed and not asked:
            words = self.launcher.last_words(worker.name)
            death = f"{worker.name} died" + (f"; it printed last: {' / '.join(words)}" if words else "")
            logger.error("%s", death)
            self.counts.died[worker.group] = self.counts.died.get(worker.group, 0) + 1
            if group is not None and (worker.ready_at is None or now - worker.ready_at < SHORT_LIFE):
                group.start_failed(now, death)
        elif asked:
            seconds = now - (worker.stop_since or now)
            logger.info("%s has ended, %.1f s after it was told to", worker.name, seconds)
            self.counts.stopped[worker.group] = self.counts.stopped.get(worker.group, 0) + 1
        if failed:
            self.launcher.bury(worker.name)
        self._unclaim(worker)
        self._recover_ended(worker, seen)

    def _unclaim(self, worker: LocalWorker) -> None:
        keys = self.broker.keys
        name = f"{worker.name}@{self.host}"
        with self.broker.client.pipeline() as pipe:
            pipe.zrem(keys.claims(worker.group), name)
            if worker.name not in self.local:
                pipe.srem(keys.drain, name)
                if worker.outdated and worker.seen is not None:
                    pipe.srem(keys.replace, worker.seen.id)
            pipe.execute()

    def _count_tasks(self, seen: Seen) -> None:
        """Take in what the workers of this host have counted, and forget those that are gone."""
        key = self.broker.keys.task_counts(self.host)
        found = {name.decode(): text for name, text in self.broker.client.hgetall(key).items()}
        self.task_counts.update(seen.time, {name: Tallies.load(text) for name, text in found.items()})
        self._pace.update(seen.time, self.task_counts.runtimes())
        gone = found.keys() - {worker.id for worker in seen.workers}
        # Gone at two looks: a worker tells its last counts before it goes; one that is fenced tells none.
        if silent := gone & self._gone:
            self.broker.client.hdel(key, *silent)
        self.task_counts.forget(self._gone - found.keys())
        self._gone = gone

    # --- Recovery --------------------------------------------------------------------------------------

    def _recover_ended(self, worker: LocalWorker, seen: Seen) -> None:
        """Give back at once what a worker of this host held, whose processes are seen to be gone."""
        name = f"{worker.name}@{self.host}"
        for found in seen.workers:
            if found.name == name and not process_exists(found.pid):
                self._give_back(found.id, certain=True)

    def _recover(self, seen: Seen) -> None:
        """Give back what workers held whose lease has run out, wherever they were."""
        for worker_id in seen.expired:
            self._give_back(worker_id, certain=False)

    def _give_back(self, worker_id: str, *, certain: bool) -> None:
        moved = recovery.recover(
            self.broker.client,
            self.broker.keys,
            worker_id,
            separator=self.broker.separator,
            limit=RESCUE,
            certain=certain,
        )
        self.counts.recovered += moved or 0

    # --- Deciding --------------------------------------------------------------------------------------

    def _decide(self, now: float, state: GroupState, seen: Seen) -> None:
        group = state.group
        workers = [w for w in seen.workers if w.alive and w.group == group.name]
        state.seen = self._see_group(now, state, workers, seen)
        state.decision = state.law.decide(group, state.seen, self._override(group.name))

    def _override(self, group: str) -> policy.Override:
        """Return what operators have set for a group; what is set for all pauses it too."""
        overrides = self.seen.overrides if self.seen else {}
        own, every = overrides.get(group, policy.Override()), overrides.get("*", policy.Override())
        return replace(own, paused=True, by=every.by) if every.paused else own

    def _see_group(self, now: float, state: GroupState, workers: list[WorkerSeen], seen: Seen) -> policy.Seen:
        group = state.group
        lists = [item for item in seen.lists if item.queue in group.queues]
        here = [w for w in workers if w.name not in seen.draining]
        ready = [w for w in here if w.state == "running"]
        state.draining = len(workers) - len(here) + sum(w.state in {"draining", "drained"} for w in here)
        # Claimed and without a lease yet, or with one and without a heartbeat.
        starting = {*seen.claims.get(group.name, ()), *(w.name for w in here if not w.state)}
        starting -= {w.name for w in workers if w.state}
        state.meter.update(
            now,
            sum(item.length for item in lists),
            {
                w.id: WorkerCounters(
                    w.processed, w.reserved + w.scheduled, w.busy_seconds, w.active, w.concurrency
                )
                for w in workers
                if w.state
            },
        )
        taken: dict[str, int] = {}
        for worker in workers:
            for name, count in worker.taken.items():
                taken[name] = taken.get(name, 0) + count
        state.queues = {
            queue: {
                "messages": 0,
                "future": 0,
                "age": 0.0,
                "taken": 0,
                "dead_letters": seen.dead_letters[queue],
            }
            for queue in group.queues
        }
        steps = []
        for item in lists:
            known = state.ages.setdefault(item.name, Age())
            age = known.update(now, item.length, taken.get(item.name, 0))
            waits = age if item.length > item.future else 0.0
            if item.length or known.departed:
                steps.append(StepSeen(item.queue, item.name, item.length, item.future, waits, known.departed))
            queue = state.queues[item.queue]
            queue["age"] = max(queue["age"], waits)
            queue["messages"] += item.length
            queue["future"] += item.future
            queue["taken"] += taken.get(item.name, 0)
        # Read by the page's thread: never changed, only replaced.
        state.steps = steps
        waiting = {queue: int(found["messages"] - found["future"]) for queue, found in state.queues.items()}
        longest = max(waiting, key=lambda queue: waiting[queue])
        etas = [
            eta for eta in [*(i.next_eta for i in lists), *(w.next_eta for w in workers)] if eta is not None
        ]
        return policy.Seen(
            now=now,
            backlog=sum(waiting.values()),
            future=int(sum(found["future"] for found in state.queues.values())),
            held=sum(w.reserved for w in workers),
            busy=sum(w.active for w in workers),
            next_eta=min(etas) - seen.time if etas else None,
            age=max(found["age"] for found in state.queues.values()),
            longest=waiting[longest],
            longest_queue=longest,
            ready=len(ready),
            starting=len(starting),
            arrival_fast=state.meter.fast.value,
            arrival_slow=state.meter.slow.value,
            service_time=state.meter.service_time,
            startup=state.startup.seconds,
        )

    # --- Acting ----------------------------------------------------------------------------------------

    def _act(self, now: float, state: GroupState, seen: Seen) -> None:
        """Start or stop as many workers of a group as are this host's part."""
        group, decision = state.group, state.decision
        if self.host in seen.leaving:
            self._leave_to_others(now, state, seen)
            return
        state.leaving_since = None
        if decision.limit == "paused":
            state.held_back, state.limit = "", None
            return
        low, high = self._override(group.name).bounds(group)
        shortage = self._shortage(now, state, seen, self.host_seen)
        most = high
        few = max(low, min(1, decision.want)) - state.seen.ready - state.seen.starting
        if shortage and few > 0:
            # Others' busy CPU must not keep a group below its minimum, or tasks waiting for nobody.
            calm = replace(self.host_seen, cpu=0.0, cpu_pressure=0.0)
            shortage, most = self._shortage(now, state, seen, calm), few
        state.held_back = shortage
        extra = self._replace(now, state, seen)
        mine = self._count(group.name, "starting", "ready") - extra
        if not shortage:
            state.short_since, state.limit = None, None
        elif state.short_since is None:
            state.short_since = now
        elif now - state.short_since >= SHORT:
            # Others take over what this host cannot run.
            state.limit = mine
        offers = [
            shares.Offer(
                peer.host, peer.weight, peer.limits[group.name], crc32(f"{group.name}@{peer.host}".encode())
            )
            for peer in seen.peers
            if group.name in peer.limits and peer.host not in seen.leaving
        ]
        delta = shares.moves(
            decision.want,
            high,
            self._by_host(group.name, seen) | {self.host: mine},
            offers,
            rebalance=now - state.quiet_since > self.settings.stabilisation,
        ).get(self.host, 0)
        why = decision.reason
        if delta > 0:
            self._grow(now, state, min(delta, most), shortage)
        elif delta < 0 and not state.seen.starting:
            self._shrink(now, state, -delta, why)
        self._record(state, delta, why, seen)

    def _leave_to_others(self, now: float, state: GroupState, seen: Seen) -> None:
        """Stop this host's workers of a group, once those of other hosts suffice or no more of them come."""
        state.held_back, state.limit = "", 0
        if state.leaving_since is None:
            state.leaving_since = now
        mine = self._count(state.group.name, "starting", "ready")
        others = self._by_host(state.group.name, seen)
        ready = sum(
            w.alive and w.group == state.group.name and w.state == "running" and w.host in others
            for w in seen.workers
            if w.name not in seen.draining
        )
        why = f"{seen.leaving[self.host]} wants no workers on {self.host}"
        if ready >= state.decision.want:
            self._shrink(now, state, mine, why, may_return=False)
        elif ready == sum(others.values()) and now - max(state.quiet_since, state.leaving_since) > LEASE:
            self._shrink(now, state, 1, why, may_return=False)

    def _replace(self, now: float, state: GroupState, seen: Seen) -> int:
        """Replace the outdated workers of a group on this host, one after the other.

        Another one is started first, one more than the group's maximum if need be; the outdated one drains
        once that consumes. Busy CPUs do not matter: in the end there are as many workers as before.

        Returns:
            How many workers there are in excess until an outdated one drains: 1 or 0.
        """
        mine = [w for w in self.local.values() if w.group == state.group.name]
        outdated = [w for w in mine if w.outdated and w.state == "ready"]
        new = self.local.get(state.replacement)
        if not outdated or new is None or new.state not in {"starting", "ready"}:
            state.replacement = ""
        if not outdated:
            return 0
        if not state.replacement:
            calm = replace(self.host_seen, cpu=0.0, cpu_pressure=0.0)
            shortage = self._shortage(now, state, seen, calm)
            if shortage:
                state.held_back = shortage
            elif not self._count(state.group.name, "starting"):
                state.replacement = self._start(now, state, extra=1)
            return int(bool(state.replacement))
        if state.replacement in self.local and self.local[state.replacement].state == "ready":
            times = self._service_times(state)
            candidates = {w.name: w.candidate(seen.time, times) for w in outdated}
            [victim] = shares.victims(1, candidates)
            self._stop(now, self.local[victim], f"{state.replacement} takes its place")
            state.replacement = ""
            return 0
        return 1

    def _relieve(self, now: float) -> None:
        """Give up one worker while the host is short of memory, or of CPUs to no avail."""
        why = self._brakes.for_a_stop(now, self.host_seen, slowing=self._pace.is_slowing)
        spare = [
            state
            for state in self.groups.values()
            if self._count(state.group.name, "ready")
            and state.seen.ready + state.seen.starting > state.group.min_workers
        ]
        if why and spare:
            most = max(spare, key=lambda state: self._count(state.group.name, "ready"))
            self._shrink(now, most, 1, why, may_return=False)

    def _by_host(self, group: str, seen: Seen) -> dict[str, int]:
        """Return how many workers of a group consume or start, by host; none of hosts that shall run none."""
        names = set(seen.claims[group])
        for worker in seen.workers:
            if worker.alive and worker.group == group and worker.state in {"running", ""}:
                names.add(worker.name)
        counts: dict[str, int] = {}
        for name in names - seen.draining:
            host = name.partition("@")[2]
            if host not in seen.leaving:
                counts[host] = counts.get(host, 0) + 1
        return counts

    def _shortage(self, now: float, state: GroupState, seen: Seen, host: limits.HostSeen) -> str:
        """Return what keeps this host from starting a worker of a group, in words."""
        starting = self._count(None, "starting")
        memory = [w.memory for w in seen.workers if w.alive and w.group == state.group.name and w.memory]
        return (
            seen.short
            or self._brakes.against_starts(
                host,
                slowing=self._pace.is_slowing,
                worker_memory=max(memory, default=0),
                starting=starting,
            )
            or state.backoff.explain(now)
        )

    def _count(self, group: str | None, *states: str) -> int:
        """Return how many workers of this host are in one of some states."""
        return sum(w.state in states and group in (None, w.group) for w in self.local.values())

    def _grow(self, now: float, state: GroupState, count: int, shortage: str) -> None:
        """Let draining workers take messages again, and start others."""
        keys, client = self.broker.keys, self.broker.client
        draining = [w for w in self.local.values() if w.group == state.group.name and w.state == "draining"]
        again = [w for w in draining if w.may_return and not w.outdated][:count]
        for worker in again:
            client.srem(keys.drain, f"{worker.name}@{self.host}")
            worker.undo_stop()
            state.quiet_since = now
        if shortage:
            return
        count -= len(again)
        if not state.decision.emergency:
            at_once = limits.Brakes.starts_at_once(self.host_seen)
            count = min(count, at_once - self._count(None, "starting"))
        count = min(count, state.backoff.allowed(now, self._count(state.group.name, "starting")))
        while count > 0 and self._start(now, state):
            count -= 1

    def _start(self, now: float, state: GroupState, extra: int = 0) -> str:
        """Start a worker, if the fleet's maximum and so many more allow another one; return its name."""
        group, keys, client = state.group, self.broker.keys, self.broker.client
        name = self._free_name(group.name)
        full_name = f"{name}@{self.host}"
        _, high = self._override(group.name).bounds(group)
        claimed = client.register_script(CLAIM)(
            keys=[keys.workers, keys.claims(group.name)],
            args=[group.name, full_name, high + extra, int(CLAIM_LEASE * 1000)],
        )
        if not claimed:
            return ""
        client.srem(keys.drain, full_name)
        try:
            self.launcher.start(group, name)
        except LaunchError as error:
            client.zrem(keys.claims(group.name), full_name)
            state.start_failed(now, f"{name} cannot be started: {error}")
            logger.error("%s", state.last_failure)  # noqa: TRY400  one line says it all
            return ""
        self.local[name] = self._local_worker(now, name, group.name, group.drain_timeout)
        self.counts.started[group.name] = self.counts.started.get(group.name, 0) + 1
        state.quiet_since = now
        logger.info("%s starts", name)
        return name

    def _free_name(self, group: str) -> str:
        """Return the first name of a group that nothing on this host has, dead or alive."""
        taken = set(self.local)
        if self.seen is not None:
            taken |= {
                worker.instance for worker in self.seen.workers if worker.name.endswith(f"@{self.host}")
            }
        number = 1
        while f"{group}-{number}" in taken:
            number += 1
        return f"{group}-{number}"

    def _shrink(
        self, now: float, state: GroupState, count: int, why: str, *, may_return: bool = True
    ) -> None:
        """Begin to stop the workers of a group that cost the least to stop."""
        epoch = self.seen.time if self.seen else 0.0
        times = self._service_times(state)
        candidates = {
            worker.name: worker.candidate(epoch, times)
            for worker in self.local.values()
            if worker.group == state.group.name and worker.state == "ready"
        }
        for name in shares.victims(count, candidates):
            outdated = self.local[name].outdated
            self._stop(now, self.local[name], why, may_return=may_return and not outdated)
        state.quiet_since = now

    def _service_times(self, state: GroupState) -> dict[str, float]:
        """Return the mean seconds of work of the tasks of a group by name, and of all under no name."""
        work: defaultdict[str, list[tuple[int, float]]] = defaultdict(list)
        for worker in self.seen.workers if self.seen else ():
            if worker.group == state.group.name:
                for name, done in worker.tasks.items():
                    work[name].append(done)
        times = {
            name: sum(seconds for _, seconds in done) / max(1, sum(begun for begun, _ in done))
            for name, done in work.items()
        }
        return times | {"": state.meter.service_time or 0.0}

    def _stop(
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
        self.broker.client.sadd(self.broker.keys.drain, f"{worker.name}@{self.host}")
        worker.stop(now, why, timeout, may_return=may_return)

    def _end_workers(self, now: float) -> None:
        """Send the signals that are due to workers that stop."""
        for worker in self.local.values():
            how = worker.next_push(now)
            if how is not None:
                worker.push(now, how, self.launcher.push)

    def _recycle(self, now: float) -> None:
        """Stop workers that live but take nothing although messages wait for them."""
        for worker in self.local.values():
            group = self.groups.get(worker.group)
            if group is not None and worker.is_catatonic(now, group.seen.backlog):
                logger.error(
                    "%s lives, has room, and takes none of %d messages", worker.name, group.seen.backlog
                )
                self._stop(now, worker, "it takes nothing although messages wait", 0.0)

    # --- Telling ---------------------------------------------------------------------------------------

    def _record(self, state: GroupState, delta: int, why: str, seen: Seen) -> None:
        """Write a decision down when it is another one than before, or when it moves something here.

        What moves nothing here is written down by the first host; that an emergency began, each one says.
        """
        decision, group = state.decision, state.group
        have = state.seen.ready + state.seen.starting
        is_held = delta > 0 or (state.limit is not None and decision.want > have)
        held = state.held_back if is_held else ""
        now = (decision.want, decision.limit, decision.emergency, held.partition(" ")[0], delta)
        first = bool(seen.peers) and min(peer.host for peer in seen.peers) == self.host
        before, state.published = state.published, now
        if now == before:
            return
        began = decision.emergency and not (before and before[2])
        if began:
            logger.warning("%s: %s", group.name, decision.reason)
        elif delta or held:
            logger.info(
                "%s %d → %d%s: %s%s",
                group.name,
                have,
                decision.want,
                f", here {delta:+d}" if delta else "",
                why,
                f"; held back: {held}" if held else "",
            )
        if not (delta or held or (first and (decision.want != have or not before or began))):
            return
        entry = {
            "at": f"{seen.time:.3f}",
            "host": self.host,
            "group": group.name,
            "have": have,
            "want": decision.want,
            "here": delta,
            "reason": why,
            "limit": decision.limit,
            "emergency": int(decision.emergency),
            "held_back": held,
            "seen": json.dumps(asdict(replace(state.seen, now=seen.time))),
        }
        fleet_status.write(self.broker, entry)

    def _publish(self, seen: Seen) -> None:
        """Renew this supervisor's heartbeat."""
        keys = self.broker.keys
        self.status = self._status(seen)
        key = keys.supervisor(self.host)
        fields = {
            "weight": self.status["capacity"],
            "limits": json.dumps({name: state.limit for name, state in self.groups.items()}),
            "status": json.dumps(self.status),
        }
        with self.broker.client.pipeline(transaction=False) as pipe:
            pipe.hset(key, mapping=fields)
            pipe.pexpire(key, int(LEASE * 1000))
            pipe.zadd(keys.supervisors, {self.host: int((seen.time + LEASE) * 1000)})
            self._renew_claims(pipe, seen)
            if record := self._recorder.record(self.host, seen, self.status["groups"]):
                pipe.xadd(keys.history, record, maxlen=RECORDS, approximate=True)
            pipe.execute()

    def _renew_claims(self, pipe: Any, seen: Seen) -> None:
        """Hold the claims of workers that still start; drop those that a former supervisor left."""
        keys = self.broker.keys
        end = int((seen.time + CLAIM_LEASE) * 1000)
        for group, names in seen.claims.items():
            for name in names:
                worker, _, host = name.partition("@")
                if host != self.host:
                    continue
                if worker in self.local and self.local[worker].ready_at is None:
                    pipe.zadd(keys.claims(group), {name: end}, xx=True)
                elif worker not in self.local:
                    pipe.zrem(keys.claims(group), name)

    def _status(self, seen: Seen) -> dict[str, Any]:
        """Return what is seen and done, for people and other programs."""
        host = self.host_seen
        paused = all(state.decision.limit == "paused" for state in self.groups.values())
        return {
            "host": self.host,
            "at": seen.time,
            "state": "leaving" if self.host in seen.leaving else "paused" if paused else "supervising",
            "why": seen.leaving.get(self.host, ""),
            "pid": os.getpid(),
            "tick": self._tick_status(),
            "peers": [peer.host for peer in seen.peers],
            "redis": seen.short,
            "capacity": self.settings.capacity or host.cpus,
            "cpus": host.cpus,
            "cpu": round(host.cpu, 1),
            "memory": round(host.memory, 1),
            "memory_limit": host.memory_limit,
            "groups": {name: self._group_status(state) for name, state in self.groups.items()},
            "workers": [self._worker_status(worker, seen) for worker in self.local.values()],
            # Tasks by name: how many have failed in the last hour on this host.
            "failures": self.task_counts.failures(),
        }

    def _tick_status(self) -> dict[str, float]:
        return {"every": self.settings.tick, "took": round(self.tick_seconds, 4)}

    def _group_status(self, state: GroupState) -> dict[str, Any]:
        group, seen = state.group, state.seen
        low, high = self._override(group.name).bounds(group)
        return {
            "promise": group.promise,
            "minimum": low,
            "maximum": high,
            "concurrency": group.concurrency,
            "want": state.decision.want,
            "reason": state.decision.reason,
            "limit": state.decision.limit,
            "emergency": state.decision.emergency,
            "held_back": state.held_back,
            "failed_starts": state.failed_starts,
            "last_failure": state.last_failure,
            "ready": seen.ready,
            "starting": seen.starting,
            "draining": state.draining,
            "busy": seen.busy,
            "held": seen.held,
            "waiting": seen.backlog,
            "future": seen.future,
            "age": round(seen.age, 2),
            "arrivals": round(seen.arrival_slow, 2),
            "service_time": seen.service_time and round(seen.service_time, 4),
            "startup": round(seen.startup, 2),
            "queues": state.queues,
        }

    def _worker_status(self, worker: LocalWorker, seen: Seen) -> dict[str, Any]:
        heartbeat = worker.seen
        return {
            "name": f"{worker.name}@{self.host}",
            "group": worker.group,
            "state": worker.state,
            # What the load says is said of the group.
            "why": "" if worker.may_return else worker.stop_why,
            "pid": heartbeat.pid if heartbeat else 0,
            "active": heartbeat.active if heartbeat else 0,
            "reserved": heartbeat.reserved if heartbeat else 0,
            "processed": heartbeat.processed if heartbeat else 0,
            "failed": heartbeat.failed if heartbeat else 0,
            "outdated": worker.outdated,
            "memory": heartbeat.memory if heartbeat else 0,
            "release": heartbeat.release if heartbeat else "",
            "running": [
                {"task": task, "seconds": round(seen.time - begun, 1) if begun else 0.0}
                for task, begun in (heartbeat.running if heartbeat else ())
            ],
        }

    # --- Settings --------------------------------------------------------------------------------------

    def _make_launcher(self) -> Launcher:
        if self.settings.launcher == "systemd":
            return SystemdLauncher()
        return ProcessLauncher(self.app_name, self.host)

    def _set_groups(self, settings: Settings) -> None:
        self.settings = settings
        self._brakes.cpu_threshold = settings.cpu_threshold
        self._brakes.memory_threshold = settings.memory_threshold
        kept = self.groups
        self.groups = {}
        for name, group in settings.groups.items():
            state = kept.get(name) or GroupState(group, policy.GroupPolicy(), quiet_since=time.monotonic())
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
        logger.info("Settings read again: %s", ", ".join(self.groups))

    # --- By hand ---------------------------------------------------------------------------------------

    def start_worker(self, group: str) -> str | None:
        """Start a worker of a group; return its name, or nothing if the maximum is reached.

        Raises:
            KeyError: There is no such group.
            LaunchError: It cannot be started.
        """
        with self._lock:
            return self._start(time.monotonic(), self.groups[group]) or None

    def stop_worker(self, name: str) -> None:
        """Begin to stop a worker of this host, ``<group>-<n>``: it finishes what it holds.

        Raises:
            KeyError: There is no such worker.
        """
        with self._lock:
            self._stop(time.monotonic(), self.local[name], "stopped by hand")

    def stop_all_workers(self) -> None:
        """Stop all workers of this host and wait until they have ended; each finishes what it runs."""
        with self._lock:
            now = time.monotonic()
            for worker in self.local.values():
                if not worker.pushed:
                    worker.stop(now, "all are stopped", worker.drain_timeout)
                    worker.push(now, Push.TERM, self.launcher.push)
        while self.local:
            time.sleep(CLOSING)
            with self._lock:
                self._see_ends()
                self._end_workers(time.monotonic())
            self.last_tick = time.monotonic()
            self.on_tick()

    def _see_ends(self) -> None:
        """See which workers have ended, also while the broker does not answer."""
        states = self.launcher.workers()
        try:
            self._see_workers(time.monotonic(), states, self._look())
        except RedisError:
            living = {name for name, state in states.items() if state is not State.FAILED}
            self.local = {name: worker for name, worker in self.local.items() if name in living}

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
        logger.info("The supervisor has ended%s", "; the workers go on" if self.launcher.outlived else "")


def process_exists(pid: int) -> bool:
    """Return whether there is a process of this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _nothing() -> None:
    pass
