"""How a supervisor looks at the broker, tick after tick, and what it does while it cannot."""

import logging
import time
from dataclasses import replace

from celery_autoscaler.protocol.reading import Refusal
from celery_autoscaler.supervisor.clock import TOLERATED_SECONDS
from celery_autoscaler.supervisor.context import SUPERVISOR_LEASE_SECONDS, Context
from celery_autoscaler.supervisor.faults import described
from celery_autoscaler.supervisor.observation import FleetSeen, Observer
from celery_autoscaler.supervisor.policy.bounds import in_force

logger = logging.getLogger(__name__)

# Ticks before the first act.
FIRST_LOOKS = 2


class Lookout:
    """Looks at the broker, and knows since when it has done so without a gap."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.sees_since = time.monotonic()
        """Since when the broker has been seen without a gap."""
        # Supervisors that start together see each other before any of them acts.
        self.acts_from = self.sees_since + FIRST_LOOKS * context.settings.tick
        """When the supervisor may start and stop workers."""
        self._observer: Observer | None = None
        self._blind_since: float | None = None
        self._clock_is_off = False
        self._logged = ""

    @property
    def sees(self) -> FleetSeen | None:
        """What the last look showed; nothing while the supervisor is blind."""
        return self.context.seen if self._blind_since is None else None

    def forget_groups(self) -> None:
        """Look at the queues of other groups from the next look on."""
        self._observer = None

    def look(self, last_tick: float, uncounted: list[Refusal]) -> FleetSeen:
        """Look once, and take in what is seen beside the load.

        Args:
            last_tick: When the last tick ended, by a steady clock.
            uncounted: What could not be read of the counts of tasks.

        Raises:
            redis.RedisError: The server does not answer.
        """
        context = self.context
        if self._observer is None:
            self._observer = Observer(context.broker, [state.group for state in context.groups.values()])
        seen = context.seen = self._observer.look()
        now = time.monotonic()
        self._take_in(seen, uncounted)
        if self._blind_since is not None:
            logger.warning("Redis answers again after %.0f s", now - self._blind_since)
            self._blind_since = None
            # Workers that could not renew their lease get the time to do so.
            self.sees_since, self.acts_from = now, now + SUPERVISOR_LEASE_SECONDS
        elif now - last_tick > context.lease / 2:
            # Was frozen itself: what looks dead may only be waking up as well.
            self.sees_since = now
        return seen

    def _take_in(self, seen: FleetSeen, uncounted: list[Refusal]) -> None:
        context = self.context
        context.overrides, refused = in_force(
            seen.overrides, [state.group for state in context.groups.values()]
        )
        context.unreadable.update([*seen.refusals, *refused, *uncounted])
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
                context.host,
                abs(seen.clock_offset),
                "behind" if seen.clock_offset > 0 else "ahead of",
            )
        self._clock_is_off = is_off

    def log_once(self, text: str, error: Exception | None = None) -> None:
        """Log once what stays the same for many ticks: a warning, or an error with its traceback."""
        if text != self._logged:
            logger.log(logging.ERROR if error else logging.WARNING, "%s", text, exc_info=error)
        self._logged = text

    def hold(self, now: float, why: str) -> None:
        """Start and stop nothing while the broker or the launcher does not answer, and say so."""
        if self._blind_since is None:
            self._blind_since = now
            logger.warning("Blind, starts and stops nothing: %s", why)
        context = self.context
        context.status = replace(context.status, state="blind", why=why, tick=context.tick_status())

    def fail(self, now: float, error: Exception) -> None:
        """Hold because of a mistake of this program, and say where it is."""
        what = f"internal error, {described(error)}"
        self.log_once(what, error)
        self.hold(now, what)
