"""Tasks of a worker, counted in memory as they begin and end."""

from collections.abc import Callable
from threading import Lock
from typing import Any

from celery_autoscaler.protocol.ended import Ended
from celery_autoscaler.protocol.tallies import OTHERS, Kind, Tallies

# Names of tasks whose run times a worker reports with each heartbeat.
MOST_RUN_TIMES = 40


class TaskCounts:
    """Counts of a worker. Pools of threads end tasks in threads of their own."""

    def __init__(self) -> None:
        self._tallies = Tallies()
        self._run_times: dict[str, Ended] = {}
        self._lock = Lock()
        self._changes = 0
        self._told = 0

    def began(self, kind: Kind, wait: float) -> None:
        """Count how long a task has waited, in seconds."""
        with self._lock:
            self._tallies.of(kind).wait.observe(wait)
            self._changes += 1

    def ended(self, kind: Kind, outcome: str, runtime: float | None) -> None:
        """Count the end of a task, and the seconds it took unless it never began."""
        with self._lock:
            tally = self._tallies.of(kind)
            tally.outcomes[outcome] += 1
            if runtime is not None:
                tally.runtime.observe(runtime)
                name = (
                    kind[0] if kind[0] in self._run_times or len(self._run_times) < MOST_RUN_TIMES else OTHERS
                )
                one = Ended(1, runtime, runtime**2)
                self._run_times[name] = self._run_times.get(name, Ended()).plus(one)
            self._changes += 1

    def run_times(self) -> dict[str, Ended]:
        """Return, by the name of the task, those that have run to their end and the seconds they took."""
        with self._lock:
            return dict(self._run_times)

    def tell(self, send: Callable[[str], Any]) -> None:
        """Send the counts, if any has changed since they were last sent without an error."""
        with self._lock:
            changes = self._changes
            text = self._tallies.dump() if changes != self._told else ""
        if text:
            send(text)
            self._told = changes
