"""What a supervisor publishes: its heartbeat and status, decisions, the history of the page, the record."""

import logging
import os
from dataclasses import replace
from typing import Any

from redis.exceptions import ResponseError

from celery_autoscaler.protocol.decision import DecisionRecord
from celery_autoscaler.protocol.identity import host_of, instance_of
from celery_autoscaler.protocol.lease import Lease
from celery_autoscaler.protocol.overrides import Override
from celery_autoscaler.protocol.peers import PeerSeen
from celery_autoscaler.protocol.status import (
    START_SLOTS,
    VERSION,
    ClientsStatus,
    GroupStatus,
    RunningTask,
    SupervisorStatus,
    WorkerStatus,
)
from celery_autoscaler.protocol.wrong_types import is_wrong_type, replies_of, set_aside
from celery_autoscaler.supervisor import fleet_status
from celery_autoscaler.supervisor.context import Context
from celery_autoscaler.supervisor.group_state import GroupState
from celery_autoscaler.supervisor.history import RECORDS, Recorder
from celery_autoscaler.supervisor.local import LocalWorker
from celery_autoscaler.supervisor.observation import FleetSeen
from celery_autoscaler.supervisor.record_store import RecordStore

logger = logging.getLogger(__name__)

NOTHING_SET = Override()

# The claim of a starting worker ends after this time unless it is renewed.
CLAIM_LEASE_SECONDS = 15.0


class Publisher:
    """Writes down what this supervisor sees and does."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.recorder = Recorder()
        self.records = RecordStore(context)

    def record(self, state: GroupState, here: int, seen: FleetSeen, *, children: int = 0) -> None:
        """Write a decision down when it is another one than before, or when it moved something here.

        What moves nothing here is written down by the first host; that an emergency began, each one says.

        Args:
            state: The group.
            here: Workers that this host started, or began to stop (negative), for it.
            seen: What the broker showed.
            children: Slots that its workers here add, or give up (negative).
        """
        decision, group = state.decision, state.group
        moves = [f"{here:+d}"] if here else []
        moves += [f"{children:+d} slots"] if children else []
        moved = bool(moves)
        # That those wanted start one after the other is worth a line with those that do.
        held = "" if state.limited_by == START_SLOTS and not moved else state.held_back
        kind = state.limited_by if held else decision.limit
        now = (decision.want, decision.slots, decision.limit, decision.emergency, kind, here)
        first = bool(seen.peers) and min(peer.host for peer in seen.peers) == self.context.host
        before, state.published = state.published, now
        if now == before and not moved:
            return
        began = decision.emergency and not (before and before[3])
        record = replace(
            self._record(state, here, decision.reason, kind, seen), held_back=held, children=children
        )
        if began:
            logger.warning("%s: %s", group.name, decision.reason)
        elif moved or held:
            logger.info(
                "%s %s%s: %s%s",
                group.name,
                record.numbers,
                f", here {', '.join(moves)}" if moved else "",
                decision.reason,
                f"; held back: {held}" if held else "",
            )
        if moved or held or (first and (record.is_change or not before or began)):
            self._write(record)

    def write(
        self, state: GroupState, here: int, reason: str, limit: str, seen: FleetSeen, *, children: int = 0
    ) -> None:
        """Write down what this host did for a group, and why.

        Args:
            state: The group.
            here: Workers that were started, or began to stop (negative).
            reason: Why, in words.
            limit: What kept the number from being another one, in a word.
            seen: What the broker showed.
            children: Slots that its workers here add, or give up (negative).
        """
        self._write(replace(self._record(state, here, reason, limit, seen), children=children))

    def _record(
        self, state: GroupState, here: int, reason: str, limit: str, seen: FleetSeen
    ) -> DecisionRecord:
        stretches = bool(state.group.max_concurrency)
        return DecisionRecord(
            at=seen.time,
            group=state.group.name,
            host=self.context.host,
            have=state.seen.ready + state.seen.starting,
            want=state.decision.want,
            here=here,
            have_slots=state.seen.slots if stretches else 0,
            want_slots=state.decision.slots if stretches else 0,
            reason=reason,
            limit=limit,
            emergency=state.decision.emergency,
            seen=vars(replace(state.seen, now=seen.time)),
        )

    def _write(self, record: DecisionRecord) -> None:
        try:
            fleet_status.write(self.context.broker, record)
        except ResponseError as error:
            if not is_wrong_type(error):
                raise
            self._set_aside(self.context.broker.keys.decisions)

    def publish(self, seen: FleetSeen) -> None:
        """Renew this supervisor's heartbeat, and write what is due beside it."""
        keys = self.context.broker.keys
        self.context.status = self._status(seen)
        key = keys.supervisor(self.context.host)
        limits = {name: state.limit for name, state in self.context.groups.items()}
        offer = PeerSeen(self.context.host, self.context.status.capacity or 1.0, limits)
        fields = offer.dump() | {"status": self.context.status.dump()}
        with self.context.broker.client.pipeline(transaction=False) as pipe:
            pipe.hset(key, mapping=fields)
            pipe.pexpire(key, int(self.context.lease * 1000))
            pipe.zadd(keys.supervisors, Lease(self.context.host, seen.time + self.context.lease).dump())
            self._renew_claims(pipe, seen)
            if record := self.recorder.record(self.context.host, seen, self.context.status.groups):
                pipe.xadd(keys.history, record, maxlen=RECORDS, approximate=True)
            written = [arguments[1] for arguments, _ in pipe.command_stack]
            replies = replies_of(pipe)
        wrong = {key for key, reply in zip(written, replies, strict=True) if isinstance(reply, Exception)}
        for key in wrong:
            self._set_aside(key)
        with self.context.faults.contained("record"):
            self.records.update(seen)

    def _set_aside(self, key: str) -> None:
        """Rename a key that holds another type than what is written to it; the next write finds none."""
        context = self.context
        context.unreadable.keep(set_aside(context.broker.client, context.broker.keys, key))

    def _renew_claims(self, pipe: Any, seen: FleetSeen) -> None:
        """Hold the claims of workers that still start; drop those that a former supervisor left."""
        keys = self.context.broker.keys
        end = int((seen.time + CLAIM_LEASE_SECONDS) * 1000)
        for group, names in seen.claims.items():
            for name in names:
                worker, host = instance_of(name), host_of(name)
                if host != self.context.host:
                    continue
                if worker in self.context.local and self.context.local[worker].ready_at is None:
                    pipe.zadd(keys.claims(group), {name: end}, xx=True)
                elif worker not in self.context.local:
                    pipe.zrem(keys.claims(group), name)
        for group, member in seen.void_claims:
            # It would keep a worker from its start forever.
            pipe.zrem(keys.claims(group), member)

    def _status(self, seen: FleetSeen) -> SupervisorStatus:
        """Return what is seen and done, for people and other programs."""
        context, host = self.context, self.context.host_seen
        paused = all(state.decision.limit == "paused" for state in context.groups.values())
        leaving = context.host in seen.leaving
        return SupervisorStatus(
            host=context.host,
            version=VERSION,
            at=seen.time,
            state="leaving" if leaving else "paused" if paused else "supervising",
            why=seen.leaving.get(context.host, ""),
            pid=os.getpid(),
            tick=context.tick_status(),
            peers=[peer.host for peer in seen.peers],
            redis=seen.short,
            capacity=context.settings.capacity or host.cpus,
            cpus=host.cpus,
            cpu=round(host.cpu, 1),
            memory=round(host.memory, 1),
            memory_limit=host.memory_limit,
            clock_offset=round(seen.clock_offset, 3),
            start_timeout=context.settings.start_timeout,
            clients=ClientsStatus(
                seen.clients.connected, seen.clients.most, round(context.clients_per_worker.value, 1)
            ),
            groups={name: self._group_status(state) for name, state in context.groups.items()},
            workers=[self._worker_status(worker, seen) for worker in context.local.values()],
            unreadable=context.unreadable.status(),
            problems=context.problems,
            faults=context.faults.status(),
            failures=context.task_counts.failures(),
            ended=context.task_counts.ended(),
        )

    def _group_status(self, state: GroupState) -> GroupStatus:
        group, seen = state.group, state.seen
        low, high = self.context.bounds(group)
        return GroupStatus(
            target_wait=group.target_wait,
            min_workers=low,
            max_workers=high,
            concurrency=group.concurrency,
            max_concurrency=group.max_concurrency,
            slots=seen.slots,
            want=state.decision.want,
            want_slots=state.decision.slots or state.decision.want * group.concurrency,
            reason=state.decision.reason,
            # What really keeps it from having more, or fewer.
            limit=state.limited_by or state.decision.limit,
            override=self.context.overrides.get(group.name, NOTHING_SET).bounds_words,
            emergency=state.decision.emergency,
            held_back=state.held_back,
            unserved=round(state.unserved(seen.now), 1),
            not_served=state.is_not_served(seen.now, self.context.settings.start_timeout),
            failed_starts=state.failed_starts,
            last_failure=state.last_failure,
            ready=seen.ready,
            starting=seen.starting,
            draining=state.draining,
            busy=seen.busy,
            held=seen.held,
            waiting=seen.backlog,
            future=seen.future,
            age=round(seen.age, 2),
            overdue=state.overdue,
            overdue_age=round(state.overdue_age, 2),
            arrivals=round(seen.arrival_slow, 2),
            service_time=seen.service_time and round(seen.service_time, 4),
            startup=round(seen.startup, 2),
            queues=state.queues,
        )

    def _worker_status(self, worker: LocalWorker, seen: FleetSeen) -> WorkerStatus:
        name = f"{worker.name}@{self.context.host}"
        # What the load says is said of the group.
        why = "" if worker.may_return else worker.stop_why
        heartbeat = worker.seen
        if heartbeat is None:
            return WorkerStatus(name, worker.group, worker.state, why, outdated=worker.outdated)
        return WorkerStatus(
            name=name,
            group=worker.group,
            state=worker.state,
            why=why,
            pid=heartbeat.pid,
            active=heartbeat.active,
            reserved=heartbeat.reserved,
            processed=heartbeat.processed,
            failed=heartbeat.failed,
            outdated=worker.outdated,
            memory=heartbeat.memory,
            release=heartbeat.release,
            running=[
                RunningTask(task, round(seen.time - begun, 1) if begun else 0.0)
                for task, begun in heartbeat.running
            ],
        )
