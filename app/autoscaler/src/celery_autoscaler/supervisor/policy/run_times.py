"""How long tasks take, by name, from the exact run times that workers count. Pure: no I/O, no clock.

Remembered by name and for long: a job that comes once an hour is known when it comes again.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from celery_autoscaler.protocol.ended import Counted, Ended

# Seconds after which a run time has lost most of its weight to others of the same name.
MEMORY_SECONDS = 120.0
# Tasks of a name that never lose their weight until others of that name come.
LASTING_TASKS = 10.0
# Names that are remembered; the rarest go first.
NAMES = 200
# Seconds for which a name is remembered: a week.
REMEMBERED_SECONDS = 7 * 86_400.0


@dataclass
class RunTime:
    """The run time of the tasks of a name."""

    tasks: float = 0.0
    """How many it was measured with, those long ago weighing less."""
    seconds: float = 0.0
    at: float = 0.0
    """When the last of them had ended."""
    lately: float = 0.0
    """Tasks that have ended lately; these fade with time alone."""

    @property
    def mean(self) -> float:
        """Seconds a task."""
        return self.seconds / self.tasks

    def update(self, now: float, tasks: float, seconds: float) -> None:
        """Take in tasks that have ended since the last update."""
        fade = math.exp(-max(0.0, now - self.at) / MEMORY_SECONDS)
        kept = max(fade, min(1.0, LASTING_TASKS / self.tasks)) if self.tasks > 0 else 0.0
        self.tasks, self.seconds = self.tasks * kept + tasks, self.seconds * kept + seconds
        self.lately = self.lately * fade + tasks
        self.at = now


class RunTimes:
    """The run times of a group's tasks."""

    def __init__(self) -> None:
        self.totals: dict[str, Ended] = {}
        """Name → tasks that were seen to end; these only grow."""
        self._known: dict[str, RunTime] = {}
        self._counted: dict[str, dict[str, Ended]] | None = None

    def update(self, now: float, workers: Mapping[str, Counted]) -> None:
        """Take in a look.

        Args:
            now: When it was; by a clock that also counts what is loaded and saved.
            workers: Of each living worker, by its id, what it has counted since it started.
        """
        grown: dict[str, Ended] = {}
        known = self._counted or {}
        for worker, counted in workers.items():
            before = known.get(worker, {})
            for name, ended in counted.items():
                new = ended.minus(before.get(name, Ended()))
                if new.tasks > 0 and new.seconds >= 0 and all(map(math.isfinite, new)):
                    grown[name] = grown.get(name, Ended()).plus(new)
        for name, new in grown.items():
            run_time = self._known.setdefault(name, RunTime(at=now))
            run_time.update(now, new.tasks, new.seconds)
            if self._counted is None:
                # What workers did before the first look tells how long tasks take, not what comes lately.
                run_time.lately = min(run_time.lately, LASTING_TASKS)
                continue
            self.totals[name] = self.totals.get(name, Ended()).plus(new)
        self._counted = {worker: dict(counted) for worker, counted in workers.items()}
        self._forget(now)

    def mean(self, now: float, waiting: Mapping[str, float]) -> float | None:
        """Return the mean over the tasks that wait and those that have ended lately; none if none is known.

        Args:
            now: The time.
            waiting: Of the tasks that wait, how many have which name.
        """
        weights = {
            name: max(0.0, waiting.get(name, 0.0))
            + known.lately * math.exp(-max(0.0, now - known.at) / MEMORY_SECONDS)
            for name, known in self._known.items()
        }
        total = sum(weights.values())
        if total < 0.01:
            # Nothing has come for long: as they were in all that is remembered.
            weights = {name: known.tasks for name, known in self._known.items()}
            total = sum(weights.values())
        if total <= 0:
            return None
        return sum(weights[name] * known.mean for name, known in self._known.items()) / total

    def by_name(self) -> dict[str, float]:
        """Return the mean run time of each name."""
        return {name: known.mean for name, known in self._known.items()}

    def dump(self, names: Iterable[str]) -> dict[str, str]:
        """Return what is known of some names, as text: name → tasks, seconds, when."""
        return {
            name: json.dumps([round(known.tasks, 3), round(known.seconds, 6), round(known.at, 3)])
            for name in names
            if (known := self._known.get(name)) is not None
        }

    def load(self, now: float, remembered: Mapping[str, str | bytes]) -> list[str]:
        """Take in what was remembered of names that nothing is known of.

        Whatever stands there, nothing is raised: a record that cannot be right is left out.

        Returns:
            Names whose record is no longer of use: too old, or no record at all.
        """
        useless = []
        for name, text in remembered.items():
            record = parse(text)
            if record is None or not now - REMEMBERED_SECONDS <= record.at <= now + MEMORY_SECONDS:
                useless.append(name)
            elif name not in self._known:
                self._known[name] = record
        self._forget(now)
        return useless

    def changed_since(self, at: float) -> list[str]:
        """Return the names of which tasks have ended since a time."""
        return [name for name, known in self._known.items() if known.at > at]

    def _forget(self, now: float) -> None:
        if len(self._known) > NAMES:
            ordered = sorted(self._known, key=lambda name: self._known[name].at, reverse=True)
            self._known = {name: self._known[name] for name in ordered[:NAMES]}
            self.totals = {name: total for name, total in self.totals.items() if name in self._known}
        self._known = {
            name: known for name, known in self._known.items() if known.at > now - REMEMBERED_SECONDS
        }


def parse(text: str | bytes) -> RunTime | None:
    """Read the record of a name; nothing if it is none."""
    try:
        tasks, seconds, at = (float(value) for value in json.loads(text))
    except (ValueError, TypeError, OverflowError, RecursionError):
        return None
    if not all(map(math.isfinite, (tasks, seconds, at))) or tasks <= 0 or seconds < 0:
        return None
    return RunTime(tasks, seconds, at)
