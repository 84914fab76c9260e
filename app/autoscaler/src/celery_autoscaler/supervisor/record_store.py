"""The records of all groups in Redis, for a week: what a replay needs. The first living supervisor writes."""

from collections.abc import Iterable, Sequence

from celery_autoscaler.protocol.bounded_hash import bounded_hash, read_bounded
from celery_autoscaler.protocol.broker import Broker
from celery_autoscaler.protocol.reading import UnreadableError
from celery_autoscaler.protocol.recording import BLOCKS, RECORDS, SECONDS, Figures, Record, dump, load
from celery_autoscaler.protocol.wrong_types import replies_of, set_aside
from celery_autoscaler.supervisor.context import Context
from celery_autoscaler.supervisor.group_state import GroupState
from celery_autoscaler.supervisor.observation import FleetSeen
from celery_autoscaler.supervisor.policy.estimates import WorkerCounters
from celery_autoscaler.supervisor.recorder import GroupRecorder, Look

# Seconds between two writings of the block that is not complete.
EVERY_SECONDS = 30.0
# Seconds for which blocks are kept.
KEPT_SECONDS = BLOCKS * RECORDS * SECONDS
# Blocks beyond which the key holds what is not the fleet's.
MOST_BLOCKS = 5 * BLOCKS
MIB = 2**20


class RecordStore:
    """Makes the records of each group, and writes them now and then."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._recorders: dict[str, GroupRecorder] = {}
        self._written = 0.0

    def update(self, seen: FleetSeen) -> None:
        """Take in a tick, and write what is due.

        Raises:
            redis.RedisError: The server does not answer.
        """
        groups = self.context.groups
        self._recorders = {name: self._recorders.get(name) or GroupRecorder() for name in groups}
        writes = bool(seen.peers) and min(peer.host for peer in seen.peers) == self.context.host
        is_due = seen.time - self._written >= EVERY_SECONDS
        if is_due:
            self._written = seen.time
        for name, recorder in self._recorders.items():
            if done := recorder.update(self._look(groups[name], seen)):
                if writes:
                    self._write(name, done)
                    self._forget(name, int(seen.time) // SECONDS)
            elif is_due and writes and recorder.block:
                self._write(name, recorder.block)

    def _look(self, state: GroupState, seen: FleetSeen) -> Look:
        group, found, settings = state.group, state.seen, self.context.settings
        workers = [w for w in seen.workers if w.alive and w.group == group.name]
        low, high = self.context.bounds(group)
        figures = Figures(
            target_wait=_thousandths(group.target_wait),
            min_workers=low,
            max_workers=high,
            concurrency=group.concurrency,
            stabilisation=_thousandths(settings.stabilisation),
            queue_threshold=settings.queue_threshold,
            tick=_thousandths(settings.tick),
            startup=_thousandths(found.startup),
            service_time=_thousandths(found.service_time or 0.0),
            starts_at_once=found.starts_at_once or 0,
            useful_slots=found.useful_slots or 0,
            tried_slots=found.tried_slots,
            room=_room(seen, group.name),
            hosts=len(seen.peers),
            want=state.decision.want,
            paused=int(state.decision.limit == "paused"),
            ready=found.ready,
            starting=found.starting,
            draining=state.draining,
            memory=sum(worker.memory for worker in workers) // MIB,
            age=_thousandths(found.age),
            future=found.future,
        )
        return Look(
            at=seen.time,
            figures=figures,
            waiting=found.backlog + found.held,
            counters={
                w.id: WorkerCounters(w.processed, w.reserved, w.busy_seconds, w.active, w.concurrency)
                for w in workers
                if w.state
            },
            workers=found.ready + found.starting + state.draining,
            starting=frozenset(state.starting_since),
            ended=dict(state.run_times.totals),
        )

    def _write(self, group: str, records: Sequence[Record]) -> None:
        client, keys = self.context.broker.client, self.context.broker.keys
        key = keys.record(group)
        with client.pipeline(transaction=False) as pipe:
            pipe.hset(key, str(records[0].slot), dump(records)).expire(key, KEPT_SECONDS)
            written, _ = replies_of(pipe)
        if isinstance(written, Exception):
            self.context.unreadable.keep(set_aside(client, keys, key))

    def _forget(self, group: str, now: int) -> None:
        """Delete blocks that are too old or too many, and what is none."""
        client, key = self.context.broker.client, self.context.broker.keys.record(group)
        if client.hlen(key) > MOST_BLOCKS:
            client.unlink(key)
            return
        if useless := outdated(client.hkeys(key), now):
            client.hdel(key, *useless)


def outdated(names: Iterable[bytes], now: int) -> list[bytes]:
    """Return the names of blocks that are not kept: too old, too many, or names of none."""
    oldest = now - BLOCKS * RECORDS
    slots = {name: int(name) for name in names if name.isdigit() and len(name) <= 12}
    kept = sorted((name for name, slot in slots.items() if oldest <= slot <= now), key=slots.__getitem__)
    return list({*names} - {*kept[-BLOCKS:]})


def read(broker: Broker, group: str) -> tuple[dict[str, bytes], int]:
    """Return the blocks of a group by their names, and how many fields are too large to be any.

    Raises:
        redis.RedisError: The server does not answer.
    """
    key = broker.keys.record(group)
    with broker.client.pipeline(transaction=False) as pipe:
        read_bounded(pipe, key)
        [reply] = replies_of(pipe)
    if isinstance(reply, Exception):
        return {}, 1
    found, refused = bounded_hash("record", key, reply)
    return {name.decode(errors="backslashreplace"): block for name, block in found.items()}, len(refused)


def records_of(blocks: Iterable[bytes]) -> tuple[list[Record], int]:
    """Return the records of blocks in the order of time, and how many blocks cannot be read."""
    found: dict[int, Record] = {}
    refused = 0
    for block in blocks:
        try:
            for record in load(block):
                found.setdefault(record.slot, record)
        except UnreadableError:
            refused += 1
    return [found[slot] for slot in sorted(found)], refused


def _room(seen: FleetSeen, group: str) -> int:
    """Return one more than the workers that the hosts can run, if each of them is short of something."""
    limits = [peer.limits.get(group) for peer in seen.peers]
    known = [limit for limit in limits if limit is not None]
    return 1 + sum(known) if known and len(known) == len(limits) else 0


def _thousandths(value: float) -> int:
    return round(1000 * value)
