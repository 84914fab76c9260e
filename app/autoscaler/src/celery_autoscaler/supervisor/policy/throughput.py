"""Whether more slots finish more tasks. Pure: no I/O, no clock of its own.

A database or a service behind the tasks bears a limited number at a time; with more, each takes longer, and
together they finish no more, or fewer. The load alone does not show it: it looks as if ever more slots were
needed. So what some busy slots finish is compared with what fewer finished. Each task
counts as the seconds that tasks of its kind took then: neither a change of the arrivals nor another mix of
kinds touches that, for each busy slot then finishes as much as before.

When tasks are late and the last slots brought little, fewer are tried: if that costs throughput, tasks just
take longer today, and nothing is held back for a while. Otherwise the number with which most was done is
kept, and more are tried now and then.
"""

import math
from dataclasses import dataclass, field, replace

from celery_autoscaler.protocol.ended import Counted, Ended

# A window of measuring ends after these seconds and tasks, or after the latter seconds in any case.
SHORTEST_SECONDS, TASKS = 4.0, 80
LONGEST_SECONDS, FEW = 30.0, 8
# Busy slots within a window stay within this part of their number.
STEADY = 0.2
# Slots in relation to the next smaller number that is told apart.
LEVEL = 1.25
# Part of the seconds of work that must be of kinds that are known from both levels.
COMMON = 0.7
# How many times as long tasks must take to be slower, and standard deviations beyond chance.
SLOWER, SURE = 1.1, 2.5
# Part of the throughput that may be noise.
SMALL = 0.05
# Part of the gain that more slots promise, below which they are of no use.
USELESS = 0.25
# Part of the throughput that must be lost to act before tasks are late, once they have waited for a part of
# the target.
WORSE, PRESSED = 0.1, 0.3
# Seconds for which what a level did needs not be tried again.
RECENT_SECONDS = 300.0
# Seconds that a level's figures are remembered.
REMEMBERED_SECONDS = 3600.0
# Seconds that a trial may take, and after which a limit that is not in the way is forgotten.
TRIAL_SECONDS, UNASKED_SECONDS = 90.0, 900.0
# Seconds until more slots are tried again: at first, and at most.
FIRST_PAUSE_SECONDS, LAST_PAUSE_SECONDS = 15.0, 900.0


@dataclass(frozen=True)
class Useful:
    """How many slots are of use."""

    slots: int | None = None
    """None: any number, as far as is known."""
    tried: int = 0
    """The number of slots with which no more tasks were finished."""


@dataclass
class Level:
    """What was measured with about that number of busy slots; older windows weigh less."""

    busy: float
    at: float
    seconds: float = 0.0
    done: dict[str, Ended] = field(default_factory=dict)

    def add(self, at: float, busy: float, seconds: float, done: Counted) -> None:
        """Take in a window."""
        self.at, self.busy, self.seconds = at, (self.busy + busy) / 2, self.seconds / 2 + seconds
        kept = {kind: ended.times(0.5) for kind, ended in self.done.items()}
        for kind, ended in done.items():
            kept[kind] = kept.get(kind, Ended()).plus(ended)
        self.done = {kind: ended for kind, ended in kept.items() if ended.tasks > 0.1}


def gain(now: Level, then: Level) -> float | None:
    """Return the throughput now in relation to then; none if too little of both can be compared."""
    common = [kind for kind, ended in then.done.items() if ended.seconds > 0 and kind in now.done]
    for level in (now, then):
        compared = sum(level.done[kind].seconds for kind in common)
        if compared < COMMON * sum(ended.seconds for ended in level.done.values()):
            return None
        if sum(level.done[kind].tasks for kind in common) < FEW:
            return None
    before = sum(then.done[kind].seconds for kind in common)
    after = sum(now.done[kind].tasks * then.done[kind].seconds / then.done[kind].tasks for kind in common)
    return (after / now.seconds) / (before / then.seconds) if before > 0 else None


def is_slower(now: Level, then: Level) -> bool:
    """Whether tasks take longer now than those of their kind did then, beyond what may be chance."""
    longer, chance = 0.0, 0.0
    for kind, ended in now.done.items():
        before = then.done.get(kind)
        if before is not None:
            longer += ended.seconds - SLOWER * ended.tasks * before.seconds / before.tasks
            chance += ended.tasks * ended.variance + ended.tasks**2 * before.variance / before.tasks
    return longer > 0 and longer > SURE * math.sqrt(chance)


def level_number(busy: float) -> int:
    """Return the number of the level of a number of busy slots."""
    return round(math.log(busy, LEVEL))


@dataclass
class Window:
    """A span of time in which about the same number of slots is busy."""

    begin: float
    at: float
    busy: int
    before: Counted
    """The totals at its begin."""
    settled: bool = False
    """Whether the tasks that end began with that number."""
    slot_seconds: float = 0.0

    def holds(self, busy: int) -> bool:
        """Whether about as many slots are busy as before."""
        mean = self.slot_seconds / (self.at - self.begin) if self.at - self.begin > 1 else float(self.busy)
        return abs(busy - mean) <= max(3.0, STEADY * mean)

    def ended(self, totals: Counted) -> dict[str, Ended]:
        """Return what has ended since its begin."""
        done = {kind: ended.minus(self.before.get(kind, Ended())) for kind, ended in totals.items()}
        return {kind: ended for kind, ended in done.items() if ended.tasks > 0}


@dataclass(frozen=True)
class Trial:
    """Another number of slots that is tried."""

    begin: float
    slots: int
    before: Level
    """What was measured before."""

    def is_reached(self, level: Level) -> bool:
        """Whether a level is nearer to the number tried than to the one before."""
        return abs(level.busy - self.slots) <= abs(level.busy - self.before.busy)


class Throughput:
    """Watches the throughput of a group, and says how many slots are of use."""

    def __init__(self) -> None:
        self.useful = Useful()
        self._levels: dict[int, Level] = {}
        self._window: Window | None = None
        self._trial: Trial | None = None
        self._upwards = True
        """Whether more were tried last."""
        self._doubted = False
        """Whether fewer were tried before without effect."""
        self._pause = FIRST_PAUSE_SECONDS
        self._until = -math.inf
        """Until when nothing is tried."""
        self._asked = -math.inf
        """When the limit was last in the way."""

    def update(
        self,
        now: float,
        totals: Counted,
        *,
        busy: int,
        waiting: int,
        lateness: float,
        starved: bool = False,
    ) -> Useful:
        """Take in a look; return how many slots are of use.

        Args:
            now: When it was.
            totals: Kind of task → those that have ended so far.
            busy: Tasks that run.
            waiting: Tasks that wait for a slot.
            lateness: Age of the oldest of them in relation to the target wait.
            starved: Whether a host is short of CPU, maybe for the sake of others: how long tasks take then
                shows nothing of the service behind them.
        """
        if starved:
            self._window = None
            if self._trial is not None:
                self._give_up(now)
            return self.useful
        level = self._measure(now, totals, busy)
        limit = self.useful.slots
        if limit is not None and waiting and busy >= limit * (1 - STEADY):
            self._asked = now
        if limit is not None and now - self._asked > UNASKED_SECONDS:
            self._set_free()
        elif self._trial is not None and now - self._trial.begin > TRIAL_SECONDS:
            self._give_up(now)
        elif level is None or not waiting:
            return self.useful
        elif self._trial is not None:
            self._judge(now, level, self._trial)
        elif limit is None:
            if now >= self._until:
                self._suspect(now, level, lateness)
        elif now >= self._until and level.busy >= limit * (1 - STEADY):
            # In turns: the service may bear more by now, or too many may have been kept.
            self._upwards = not self._upwards
            more = max(limit + 1, round(limit * LEVEL))
            self._try(now, more if self._upwards else round(level.busy / LEVEL), level)
        return self.useful

    # --- Measuring -------------------------------------------------------------------------------------

    def _measure(self, now: float, totals: Counted, busy: int) -> Level | None:
        """Return the level that was just measured, when a window ends."""
        window = self._window
        if window is None or not window.holds(busy):
            self._window = Window(now, now, busy, dict(totals))
            return None
        window.slot_seconds += busy * (now - window.at)
        window.at = now
        done = window.ended(totals)
        tasks, seconds = sum(ended.tasks for ended in done.values()), now - window.begin
        if not window.settled:
            # What began with another number has ended once tasks have ended for as long as one takes.
            if tasks and seconds >= sum(ended.seconds for ended in done.values()) / tasks:
                self._window = Window(now, now, busy, dict(totals), settled=True)
            return None
        if (seconds < SHORTEST_SECONDS or tasks < TASKS) and (seconds < LONGEST_SECONDS or tasks < FEW):
            return None
        self._window = Window(now, now, busy, dict(totals), settled=True)
        mean = window.slot_seconds / seconds
        if mean < 0.5:
            return None
        level = self._levels.setdefault(level_number(mean), Level(mean, now))
        level.add(now, mean, seconds, done)
        self._levels = {
            key: known for key, known in self._levels.items() if now - known.at <= REMEMBERED_SECONDS
        }
        return replace(level)

    # --- Trying ----------------------------------------------------------------------------------------

    def _suspect(self, now: float, level: Level, lateness: float) -> None:
        """Try fewer slots if those beyond another level brought little, or made it worse."""
        useless, best, best_gain = False, None, 1 - WORSE
        for known in self._levels.values():
            ratio, brought = level.busy / known.busy, gain(level, known)
            if ratio < LEVEL or brought is None or not is_slower(level, known):
                continue
            useless |= brought < 1 + USELESS * (ratio - 1)
            if brought < best_gain:
                best, best_gain = known, brought
        if best is not None and lateness > PRESSED:
            self._try(now, round(best.busy), level)
        elif (useless or self._doubted) and lateness > 1:
            self._try(now, round(level.busy / 2), level)

    def _try(self, now: float, slots: int, before: Level) -> None:
        """Let a number of slots be of use, until it is known what they do."""
        slots = max(1, slots)
        known = self._levels.get(level_number(slots))
        is_known = known is not None and now - known.at < RECENT_SECONDS and known.busy != before.busy
        brought = gain(known, before) if known is not None and is_known else None
        if before.busy * (1 - STEADY / 2) <= slots <= before.busy or (brought is not None and brought < 1):
            # That was measured just now, and did less.
            self._hold(now, before)
            return
        self._trial = Trial(now, slots, before)
        tried = self.useful.tried if slots > before.busy else max(self.useful.tried, round(before.busy))
        self.useful, self._asked = Useful(slots, tried), now

    def _judge(self, now: float, level: Level, trial: Trial) -> None:
        """Go on from what a trial has shown."""
        brought = gain(level, trial.before) if trial.is_reached(level) else None
        if brought is None:
            return
        ratio = level.busy / trial.before.busy
        if ratio > 1:
            if brought >= 1 + USELESS * (ratio - 1):
                self._pause = FIRST_PAUSE_SECONDS
                self._try(now, max(trial.slots + 1, round(trial.slots * LEVEL)), level)
            else:
                self._slow_down()
                self._hold(now, trial.before)
        elif brought > 1:
            # Fewer do as much or more: what about still fewer?
            self._try(now, max(1, round(level.busy / LEVEL)), level)
        elif trial.before.busy < self.useful.tried * (1 - STEADY / 2) or brought >= 1 - (1 - ratio) / 2:
            self._hold(now, level if brought >= 1 - SMALL else trial.before)
        else:
            # Each slot counts: tasks of these kinds just take longer than before.
            self._levels.clear()
            self._doubted = True
            self._give_up(now)

    def _hold(self, now: float, level: Level) -> None:
        """Keep to what did best."""
        self._trial = None
        self._until = now + self._pause
        self.useful = Useful(max(1, round(level.busy)), max(self.useful.tried, round(level.busy)))

    def _give_up(self, now: float) -> None:
        """Set no limit, and try none for a while."""
        self._set_free()
        self._until = now + self._pause
        self._slow_down()

    def _slow_down(self) -> None:
        """Try less often."""
        self._pause = min(2 * self._pause, LAST_PAUSE_SECONDS)

    def _set_free(self) -> None:
        self._trial, self.useful = None, Useful()
