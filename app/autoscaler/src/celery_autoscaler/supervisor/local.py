"""The workers of this host: what they do between their start and their end, and how they are stopped."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from celery_autoscaler.protocol.orphan_guard import SOFT_SHUTDOWN
from celery_autoscaler.protocol.worker_seen import WorkerSeen
from celery_autoscaler.settings import Group
from celery_autoscaler.supervisor.launchers import StopSignal
from celery_autoscaler.supervisor.policy.shares import Candidate

logger = logging.getLogger(__name__)

# Times between the signals of a stop: from SIGTERM to SIGQUIT once the drain timeout is over, from SIGTERM to
# SIGQUIT for a worker that has nothing left to do and hangs, from the end of the soft shutdown to SIGKILL.
TERM_TO_QUIT_SECONDS = 1.0
HANGING_SECONDS = 20.0
GIVING_BACK_SECONDS = 10.0
# A worker that holds nothing may take nothing for this time while messages wait for it.
STALLED_SECONDS = 15.0
# A signal that was refused is tried again after this time.
RETRY_SECONDS = 10.0
# A worker that ends sooner after its start has failed to start.
SHORT_LIFE_SECONDS = 30.0


@dataclass
class LocalWorker:
    """One worker of this host."""

    name: str
    """``<group>-<n>``."""
    group: str
    since: float
    """When it was started, or first seen."""
    adopted: bool = False
    """Whether it was there before this supervisor."""
    ready_at: float | None = None
    lasted: bool = False
    outdated: bool = False
    """Whether another one shall be started in its place."""
    seen: WorkerSeen | None = None
    """Its last heartbeat, while its lease lives."""
    stop_since: float | None = None
    stop_why: str = ""
    may_return: bool = False
    """Whether it is stopped only for lack of work."""
    spare: bool = False
    """Whether it was idle, and stopped for no other reason; nothing that it runs is worth interrupting."""
    by_operator: bool = False
    """Whether drained by an operator, and may take that back."""
    drain_timeout: float = 600.0
    soft_shutdown: float = SOFT_SHUTDOWN
    """Seconds that running tasks have after SIGQUIT."""
    signals: dict[StopSignal, float] = field(default_factory=dict)
    """When each signal of a stop was sent."""
    launched: Group | None = None
    """The settings of its group when it was started; nothing if it was there before this supervisor."""
    last_active: int = 0
    """Tasks that it ran when it was last heard of."""
    silent_since: float | None = None
    """Since when it has no lease, after it consumed."""
    retry_at: float = 0.0
    """Until when no signal is tried again, after one was refused."""
    _progress: tuple[int, int] = (0, 0)
    _progress_at: float = 0.0

    @property
    def state(self) -> str:
        """What it does: starting, ready, draining or stopping."""
        if self.signals:
            return "stopping"
        if self.stop_since is not None:
            return "draining"
        return "starting" if self.ready_at is None else "ready"

    def look(self, now: float, seen: WorkerSeen | None) -> float | None:
        """Take in its heartbeat; return how long its start took, the first time that it consumes."""
        self.seen = seen
        if seen is not None:
            self.last_active, self.silent_since = seen.active, None
        elif self.silent_since is None and self.ready_at is not None:
            self.silent_since = now
        if seen is None or seen.state != "running" or self.ready_at is not None:
            return None
        self.ready_at = self._progress_at = now
        return now - self.since

    def is_stalled(self, now: float, waiting: int) -> bool:
        """Whether it holds nothing at all and takes nothing although messages wait in its queues.

        One that holds messages may be kept from taking more by a rate limit, ETAs, its prefetch or a long
        task; whether its event loop turns, its lease says.
        """
        if self.seen is None or self.state != "ready" or self.seen.state != "running":
            return False
        progress = (self.seen.processed, sum(self.seen.taken.values()))
        if progress != self._progress or not waiting or not self.seen.holds_nothing:
            self._progress, self._progress_at = progress, now
        return now - self._progress_at > STALLED_SECONDS

    def is_of(self, group: Group) -> bool:
        """Whether it was started with what a group's settings say of its workers, as far as is known."""
        if self.launched is None:
            return True
        return worker_settings(self.launched) == worker_settings(group)

    def candidate(self, now_epoch: float, service_times: Mapping[str, float]) -> Candidate:
        """Return what it would cost to stop it."""
        if self.seen is None:
            return Candidate(outdated=self.outdated, busy=0, remaining=0.0)
        typical = service_times.get("", 0.0)
        left = [
            max(0.0, service_times.get(task, typical) - (now_epoch - (begun or now_epoch)))
            for task, begun in self.seen.running
        ]
        waiting = self.seen.reserved * typical / self.seen.concurrency
        return Candidate(
            outdated=self.outdated,
            busy=self.seen.active + self.seen.reserved,
            remaining=max(left, default=0.0) + waiting,
        )

    def stop(self, now: float, why: str, drain_timeout: float, *, may_return: bool = False) -> None:
        """Begin to stop it: from now on it takes nothing new."""
        self.stop_since, self.stop_why, self.drain_timeout = now, why, drain_timeout
        self.may_return = may_return
        # A change of the load is reported for the group.
        logger.info("%s drains%s", self.name, "" if may_return else f": {why}")

    def undo_stop(self) -> None:
        """Let it take messages again."""
        logger.info("%s is needed again: drain cancelled", self.name)
        self.stop_since, self.stop_why, self.by_operator, self.spare = None, "", False, False

    def outlasts_drain(self, now: float) -> bool:
        """Whether it was to be stopped only for lack of work, and runs a task beyond the time to drain."""
        late = self.stop_since is not None and now - self.stop_since >= self.drain_timeout
        return self.spare and late and not self.signals and self.seen is not None and self.seen.active > 0

    def next_signal(self, now: float) -> StopSignal | None:
        """Return the signal that is due in a stop, if one is."""
        if self.stop_since is None or now < self.retry_at:
            return None
        drained = self.seen is None or self.seen.state in {"drained", "fenced"}
        late = now - self.stop_since >= self.drain_timeout
        if StopSignal.TERM not in self.signals:
            return StopSignal.TERM if drained or late or self.ready_at is None else None
        since_term = now - self.signals[StopSignal.TERM]
        if StopSignal.QUIT not in self.signals:
            runs = self.seen.active if self.seen else self.last_active
            hangs = since_term >= HANGING_SECONDS and not runs
            return StopSignal.QUIT if hangs or (late and since_term >= TERM_TO_QUIT_SECONDS) else None
        given_back = now - self.signals[StopSignal.QUIT] >= self.soft_shutdown + GIVING_BACK_SECONDS
        if given_back and now - self.signals.get(StopSignal.KILL, 0.0) >= 1.0:
            return StopSignal.KILL
        return None

    def send_signal(self, now: float, how: StopSignal, send: Callable[[str, StopSignal], None]) -> None:
        """Send a signal and say so."""
        send(self.name, how)
        self.signals[how] = now
        held = f"running {self.seen.active}, reserved {self.seen.reserved}" if self.seen else "no lease"
        logger.info("%s after %.1f s: %s; %s", self.name, now - (self.stop_since or now), held, how.value)


def worker_settings(group: Group) -> tuple[Any, ...]:
    """Return the settings of a group that its workers are started with."""
    concurrency = group.concurrency, group.max_concurrency
    return frozenset(group.queues), group.pool, concurrency, dict(group.options)
