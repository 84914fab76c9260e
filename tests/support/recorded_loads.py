"""Loads of the simulation, recorded as a supervisor records them; the truth is known beside the record."""

from __future__ import annotations

from itertools import groupby

from celery_autoscaler.protocol.recording import RECORDS, Figures, Record, dump, load
from celery_autoscaler.supervisor.policy.estimates import WorkerCounters
from celery_autoscaler.supervisor.recorder import GroupRecorder, Look

from support.scaling_traces import Load, our_law
from support.simulated_fleet import SimulatedGroup, Simulation
from support.simulated_load import Trace, repeatable

# A supervisor that wakes as soon as too much waits is like one that looks that often.
TICK = 0.2
BEGIN = 1_700_000_400.0
# MiB of each worker.
MEMORY = 50


class RecordedGroup(SimulatedGroup):
    """A simulated group that is recorded at each look, with heartbeats that come once a second."""

    def look(self, now: float) -> None:
        """See what there is, decide, and record it."""
        super().look(now)
        if not hasattr(self, "recorder"):
            self.recorder, self.records = GroupRecorder(), list[Record]()
            self.beats: dict[str, WorkerCounters] = {}
        living = {str(n): w for n, w in self.workers.items() if w.ready_at <= now}
        self.beats = {
            n: self.beats[n]
            if n in self.beats and round(now / TICK) % 5
            else w.counters(now, self.group.concurrency)
            for n, w in living.items()
        }
        self.records += self.recorder.update(
            Look(
                at=BEGIN + now,
                figures=self._figures(),
                waiting=self.seen.backlog,
                counters=self.beats,
                workers=len(self.workers),
                starting=frozenset(str(n) for n, w in self.workers.items() if w.ready_at > now),
                ended=dict(self._run_times.totals),
            )
        )

    def _figures(self) -> Figures:
        seen, group = self.seen, self.group
        return Figures(
            target_wait=round(1000 * group.target_wait),
            min_workers=group.min_workers,
            max_workers=group.max_workers,
            concurrency=group.concurrency,
            stabilisation=60_000,
            queue_threshold=1000,
            tick=1000,
            startup=round(1000 * seen.startup),
            service_time=round(1000 * (seen.service_time or 0.0)),
            starts_at_once=seen.starts_at_once or 0,
            useful_slots=seen.useful_slots or 0,
            tried_slots=seen.tried_slots,
            hosts=1,
            want=self.decision.want,
            ready=seen.ready,
            starting=seen.starting,
            draining=len(self.workers) - seen.ready - seen.starting,
            memory=MEMORY * len(self.workers),
            age=round(1000 * seen.age),
        )


def recorded(load_met: Load, seed: int) -> tuple[Trace, list[bytes]]:
    """Let our law meet a load; return what happened, and the blocks that were recorded of it."""
    group = RecordedGroup(
        load_met.group,
        our_law(),
        load_met.tasks(repeatable(seed)),
        startup=load_met.startup,
        speed=load_met.speed,
    )
    [trace] = Simulation([group], load_met.hosts, tick=TICK).run(load_met.seconds)
    records = [*group.records, *group.recorder.block]
    return trace, [dump(list(some)) for _, some in groupby(records, lambda record: record.slot // RECORDS)]


def records_of(blocks: list[bytes]) -> list[Record]:
    """Return the records of blocks."""
    return [record for block in blocks for record in load(block)]
