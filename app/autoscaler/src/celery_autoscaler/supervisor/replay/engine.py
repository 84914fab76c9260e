"""Runs the control law over the tasks of a record, with the settings that were in force or with others.

The law, its estimates of run times, and the brake on starts are the real ones. Arrivals, run times, the
time of a start and what the hosts had room for are those of the record. Spans in which nothing can change are
passed in one step.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice, pairwise

from celery_autoscaler.protocol.ended import Ended
from celery_autoscaler.protocol.overrides import Override
from celery_autoscaler.protocol.reading import MOST_WORKERS
from celery_autoscaler.protocol.recording import SECONDS, Figures, Record
from celery_autoscaler.settings import Group
from celery_autoscaler.supervisor.policy.estimates import FAST_SECONDS, SLOW_SECONDS, merged
from celery_autoscaler.supervisor.policy.law import NOTHING, GroupPolicy, GroupSeen
from celery_autoscaler.supervisor.policy.limits import HostSeen, starting_load
from celery_autoscaler.supervisor.policy.run_times import RunTimes
from celery_autoscaler.supervisor.replay.demand import Demand
from celery_autoscaler.supervisor.replay.outcome import HOUR, PARTS_TOLD, Outcome
from celery_autoscaler.supervisor.replay.workers import Workers

# Seconds of a step while nothing waits and nothing is to be started or stopped.
QUIET_SECONDS = 10
# The same while nothing runs, nothing comes, and no worker is more than the minimum.
IDLE_SECONDS = 60
# Messages of the queue whose kind a supervisor sees, and parts of the queue whose age it knows.
PEEK, PARTS = 100, 4
# Seconds from the message that is one too many until a supervisor has seen it and has started a worker.
WAKE_SECONDS = 0.1
# What an average of the arrivals takes of the last second.
FAST, SLOW = 1 - math.exp(-1 / FAST_SECONDS), 1 - math.exp(-1 / SLOW_SECONDS)
# Settings of a group that can be tried.
CHANGES = ("target_wait", "min_workers", "max_workers", "concurrency")
Changes = Mapping[str, float]
# Seconds of target wait below which there is none.
LEAST_TARGET = 0.1
# Figures of a record that the law goes by.
GONE_BY = (
    *("target_wait", "min_workers", "max_workers", "concurrency", "tick", "startup", "starts_at_once"),
    *("useful_slots", "tried_slots", "room", "paused"),
)


@dataclass(frozen=True)
class Settings:
    """What the law is to go by at a time."""

    group: Group
    tick: int
    startup: float
    starts_at_once: int | None
    room: int | None
    useful_slots: int | None
    tried_slots: int
    paused: bool

    @classmethod
    def of(cls, figures: Figures, changes: Changes) -> "Settings":
        """Return what was in force when a record was made, but for some changes."""
        workers = min(int(changes.get("max_workers", figures.max_workers)), MOST_WORKERS)
        group = Group(
            name="replayed",
            target_wait=max(LEAST_TARGET, changes.get("target_wait", figures.target_wait / 1000)),
            min_workers=int(changes.get("min_workers", figures.min_workers)),
            max_workers=max(1, workers),
            concurrency=max(1, int(changes.get("concurrency", figures.concurrency))),
        )
        if group.min_workers > group.max_workers:
            group = replace(group, min_workers=group.max_workers)
        return cls(
            group=group,
            tick=max(1, round(figures.tick / 1000)),
            startup=figures.startup / 1000,
            starts_at_once=figures.starts_at_once or None,
            room=figures.room - 1 if figures.room else None,
            useful_slots=figures.useful_slots or None,
            tried_slots=figures.tried_slots,
            paused=bool(figures.paused),
        )


class Replay:
    """One run over a record."""

    def __init__(self, records: Sequence[Record], changes: Changes, seed: int = 1) -> None:
        self.records = records
        self.demand = Demand(records, seed)
        self._settings = _settings_of(records, changes)
        first = records[0].figures
        self.workers = Workers(self._settings[0].group.concurrency)
        self.law = GroupPolicy(first.stabilisation / 1000, first.queue_threshold)
        self._fast = self._slow = sum(records[0].arrivals) / SECONDS
        self._times = RunTimes()
        self._load_run_times()
        self._woken: float | None = None
        """When a supervisor sees that more waits than it assumed, if that is between two looks."""
        self._assumed = 0
        self._most_memory = 0.0
        for _ in range(min(first.ready + first.starting, MOST_WORKERS)):
            self.workers.start(0.0, 0.0)
        self.workers.started = 0

    def run(self) -> Outcome:
        """Run; return what would have been done."""
        workers, due = self.workers, 0
        for now, tasks in enumerate(self.demand.tasks()):
            settings = self._settings[now // SECONDS]
            if now >= due or self._woken is not None:
                due = now + self._look(now, settings)
            if tasks or workers.waiting or workers.starting:
                workers.open(now + 1.0)
                workers.advance(now + 1.0, tasks, settings.group.target_wait)
                if workers.waiting:
                    due = min(due, now + settings.tick)
                if len(workers.waiting) > self._assumed:
                    self._woken = max(float(now), workers.waiting[self._assumed][0]) + WAKE_SECONDS
            self._fast += FAST * (len(tasks) - self._fast)
            self._slow += SLOW * (len(tasks) - self._slow)
        return self._outcome()

    def _look(self, now: int, settings: Settings) -> int:
        """Look, decide and act; return the seconds until the next look."""
        workers = self.workers
        workers.end_drained(now)
        if workers.take_ends(now):
            self._times.update(now, {"fleet": workers.ended})
        seen = self._see(now, settings)
        self.law.pass_until(now - settings.tick)
        decision = self.law.decide(settings.group, seen, Override(paused=settings.paused))
        begin, self._woken = self._woken or float(now), None
        self._act(decision.want, begin, now, settings)
        rate = max(seen.arrival_fast, seen.arrival_slow)
        self._assumed = seen.backlog + math.ceil(rate * settings.tick)
        self._note_memory(now)
        if workers.waiting or workers.starting or decision.want != seen.ready + seen.starting:
            return settings.tick
        is_idle = not seen.busy and rate <= NOTHING and decision.want <= settings.group.min_workers
        return IDLE_SECONDS if is_idle else QUIET_SECONDS

    def _see(self, now: int, settings: Settings) -> GroupSeen:
        workers, waiting = self.workers, self.workers.waiting
        running = workers.running(now)
        target = settings.group.target_wait
        return GroupSeen(
            now=now,
            backlog=len(waiting),
            busy=len(running),
            busy_workers=len({number for number, _ in running}),
            long=sum(now - since > target for _, since in running),
            age=now - waiting[0][0] if waiting else 0.0,
            parts=merged(self._parts(now)) if waiting else (),
            longest=len(waiting),
            ready=len(workers.ready),
            starting=len(workers.starting),
            start_left=tuple(sorted(max(0.0, w.ready_at - now) for w in workers.starting.values())),
            starts_at_once=settings.starts_at_once,
            arrival_fast=self._fast,
            arrival_slow=self._slow,
            service_time=self._times.mean(now, self._next_kinds()),
            startup=settings.startup,
            useful_slots=settings.useful_slots,
            tried_slots=settings.tried_slots,
        )

    def _parts(self, now: int) -> list[tuple[float, int]]:
        """Return what waits in parts, the oldest first: age of the oldest, number."""
        count = len(self.workers.waiting)
        ends = [count * place // PARTS for place in range(PARTS + 1)]
        return [
            (now - self.workers.waiting[begin][0], end - begin)
            for begin, end in pairwise(ends)
            if end > begin
        ]

    def _next_kinds(self) -> Mapping[str, float]:
        """Return how many tasks of each kind wait, going by those that are taken next."""
        waiting = self.workers.waiting
        peeked = Counter(kind for _, _, kind in islice(waiting, PEEK))
        return {kind: count * len(waiting) / peeked.total() for kind, count in peeked.items()}

    def _act(self, want: int, begin: float, now: int, settings: Settings) -> None:
        """Start and stop workers, as far as the hosts had room for them."""
        workers = self.workers
        workers.concurrency = settings.group.concurrency
        missing = want - workers.counted
        if missing < 0:
            workers.drain(now, -missing)
            return
        missing = workers.keep(missing)
        if settings.room is not None:
            missing = min(missing, settings.room - workers.counted)
        if settings.starts_at_once is not None:
            begun = [worker.since for worker in workers.starting.values()]
            missing = min(missing, settings.starts_at_once - starting_load(now, begun, HostSeen()))
        for place in range(missing):
            # The more wait, the more are started.
            workers.start(begin + (now - begin) * place / missing, settings.startup)

    def _note_memory(self, now: int) -> None:
        """Note what the workers take, if each takes as much as those that were recorded then."""
        figures = self.records[now // SECONDS].figures
        there = figures.ready + figures.draining
        if there:
            count = len(self.workers.ready) + len(self.workers.draining)
            self._most_memory = max(self._most_memory, figures.memory / there * count)

    def _load_run_times(self) -> None:
        """Know at the beginning what the supervisor knew."""
        self._times.update(0.0, {"fleet": {}})
        if not self.records[0].figures.service_time:
            return
        known: dict[str, Ended] = {}
        for record in self.records:
            for kind, ended in record.ended.items():
                known[kind] = known.get(kind, Ended()).plus(ended)
        texts = {kind: json.dumps([ended.tasks, ended.seconds, 0.0]) for kind, ended in known.items()}
        self._times.load(0.0, texts)

    def _outcome(self) -> Outcome:
        workers, end = self.workers, float(len(self.records) * SECONDS)
        target = self._settings[-1].group.target_wait
        workers.close(end, target)
        tasks, waits = workers.at_once + len(workers.waits), sorted(workers.waits)
        return Outcome(
            tasks=tasks,
            waits=tuple(wait_at(part, workers.at_once, waits) for part in PARTS_TOLD),
            late=workers.late / tasks if tasks else 0.0,
            worker_hours=workers.seconds / HOUR,
            slot_hours=workers.seconds * workers.concurrency / HOUR,
            starts=workers.started,
            most_workers=workers.most,
            most_memory=round(self._most_memory),
        )


def wait_at(part: float, at_once: int, waits: Sequence[float]) -> float:
    """Return the wait that a part of the tasks does not exceed; ``at_once`` of them did not wait."""
    place = int(part * (at_once + len(waits))) - at_once
    return waits[min(place, len(waits) - 1)] if place >= 0 and waits else 0.0


def _settings_of(records: Sequence[Record], changes: Changes) -> list[Settings]:
    """Return for each record what is to be gone by; most are the same as the one before."""
    known: dict[Figures, Settings] = {}
    found = []
    for record in records:
        figures = Figures(**{name: getattr(record.figures, name) for name in GONE_BY})
        if figures not in known:
            known[figures] = Settings.of(figures, changes)
        found.append(known[figures])
    return found
