"""What a group did, what a replay makes of it, and what other settings would have done."""

from collections.abc import Sequence
from dataclasses import dataclass

from celery_autoscaler.protocol.recording import SECONDS, Record
from celery_autoscaler.supervisor.replay.engine import Changes, Replay
from celery_autoscaler.supervisor.replay.outcome import PARTS_TOLD, Outcome, measured

# By how much a replay may be off, in relation to what was measured, to be relied on.
RELIABLE = 0.15
# Seconds that a record tells apart: differences of the wait are compared with no less.
RESOLUTION_SECONDS = 1.0
P95 = PARTS_TOLD.index(0.95)


@dataclass(frozen=True)
class Comparison:
    """A measured time, its replay, and the same with other settings."""

    begin: float
    """In seconds of the epoch."""
    end: float
    recorded: float
    """Seconds of that which are recorded."""
    measured: Outcome
    replayed: Outcome
    tried: Outcome | None
    slowed: float
    """Part of the time in which more workers finished no more tasks."""
    future: bool
    """Whether tasks waited for their ETA: a supervisor knows them ahead, and a replay does not."""

    @property
    def wait_off(self) -> float:
        """How far the p95 wait of the replay is off."""
        real = self.measured.waits[P95]
        return (self.replayed.waits[P95] - real) / max(real, RESOLUTION_SECONDS)

    @property
    def hours_off(self) -> float:
        """How far the worker-hours of the replay are off."""
        real = self.measured.worker_hours
        return (self.replayed.worker_hours - real) / real if real else 0.0

    @property
    def is_reliable(self) -> bool:
        """Whether the replay reproduces what was measured."""
        return max(abs(self.wait_off), abs(self.hours_off)) <= RELIABLE


def compare(records: Sequence[Record], changes: Changes) -> Comparison:
    """Compare what was measured with its replay, and with the one of other settings.

    Args:
        records: In the order of time; at least one.
        changes: Settings of the group to try; none is also possible.
    """
    return Comparison(
        begin=float(records[0].slot * SECONDS),
        end=float((records[-1].slot + 1) * SECONDS),
        recorded=float(len(records) * SECONDS),
        measured=measured(records),
        replayed=Replay(records, {}).run(),
        tried=Replay(records, changes).run() if changes else None,
        slowed=sum(record.figures.useful_slots > 0 for record in records) / len(records),
        future=any(record.figures.future for record in records),
    )
