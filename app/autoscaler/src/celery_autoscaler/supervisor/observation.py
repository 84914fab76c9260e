"""What a supervisor sees in the broker, in one round trip: lists, workers, supervisors, what operators set.

What cannot be read is left out and named; it keeps nothing else from being seen.
"""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.exceptions import ResponseError

from celery_autoscaler.protocol import heartbeat
from celery_autoscaler.protocol.bounded_hash import bounded_hash, read_bounded
from celery_autoscaler.protocol.broker import Broker
from celery_autoscaler.protocol.identity import KIND as WORKER
from celery_autoscaler.protocol.identity import (
    group_of,
    host_of,
    read_worker_id,
    read_worker_name,
    worker_name,
)
from celery_autoscaler.protocol.keys import as_name
from celery_autoscaler.protocol.lease import Lease
from celery_autoscaler.protocol.overrides import ALL, Override
from celery_autoscaler.protocol.overrides import KIND as OVERRIDE
from celery_autoscaler.protocol.peers import KIND as SUPERVISOR
from celery_autoscaler.protocol.peers import PeerSeen
from celery_autoscaler.protocol.reading import Refusal, UnreadableError, read_text, shown
from celery_autoscaler.protocol.script import script
from celery_autoscaler.protocol.worker_seen import WorkerSeen
from celery_autoscaler.protocol.wrong_types import replies_of, set_aside
from celery_autoscaler.settings import Group
from celery_autoscaler.supervisor.clock import ClockOffset
from celery_autoscaler.supervisor.eta_sample import (
    BUDGET_BYTES,
    HEAD_BYTES,
    PEEK,
    SAMPLE,
    TAIL_BYTES,
    EtaSample,
    read_sample,
)
from celery_autoscaler.supervisor.server_room import ClientsSeen, read_clients, short_of

LENGTHS = script("protocol", "list_lengths")
# What cannot be read is called so.
CLAIM = "claim"

# Bytes that are read of what an operator has set for a while; ours are fewer.
MOST_OVERRIDE = 16_384


@dataclass(frozen=True)
class ListSeen:
    """A list of a queue: one of its priority steps."""

    queue: str
    name: str
    length: int
    future: int = 0
    """Messages whose ETA has not come."""
    next_eta: float | None = None
    etas: Sequence[float] = field(default=(), compare=False)
    """ETAs in a sample of its messages, in seconds of the epoch."""
    names: Mapping[str, int] = field(default_factory=dict, compare=False)
    """Names of the tasks in that sample that could run now."""
    sample: int = field(default=0, compare=False)
    """Messages of the sample."""

    def due_by(self, time: float) -> float:
        """Return about how many of its messages come due by a time of the epoch."""
        return sum(eta <= time for eta in self.etas) * self.length / max(1, self.sample)


@dataclass(frozen=True)
class FleetSeen:
    """What one look at the broker shows."""

    time: float
    """The server's, in seconds of the epoch."""
    lists: Sequence[ListSeen]
    dead_letters: Mapping[str, int]
    """For each queue its dead letters."""
    workers: Sequence[WorkerSeen]
    expired: Sequence[str]
    """Ids of the workers whose lease has run out."""
    draining: frozenset[str]
    """Names of the workers that shall take nothing new."""
    replaced: frozenset[str]
    """Ids of the workers in whose place others shall be started."""
    leaving: Mapping[str, str]
    """Hosts that shall run no workers → who wants that."""
    peers: Sequence[PeerSeen]
    overrides: Mapping[str, Override]
    claims: Mapping[str, Sequence[str]]
    """For each group the names of its workers that are starting."""
    short: str
    """What the server is short of, in words; nothing if it is not."""
    clients: ClientsSeen = field(default_factory=ClientsSeen)
    clock_offset: float = 0.0
    """Seconds by which the server's clock is ahead of this host's."""
    refusals: Sequence[Refusal] = ()
    """What could not be read."""
    set_aside: Sequence[Refusal] = ()
    """Keys of the fleet that held another type, and were renamed."""
    void_claims: Sequence[tuple[str, bytes]] = ()
    """Group and member of claims that cannot be those of a worker."""

    def workers_by_host(self, group: str) -> dict[str, int]:
        """Return how many workers of a group consume or start, by host; none of hosts that shall run none."""
        names = set(self.claims.get(group, ()))
        for worker in self.workers:
            if worker.alive and worker.group == group and worker.state in {"running", ""}:
                names.add(worker.name)
        counts: dict[str, int] = {}
        for name in names - self.draining:
            host = host_of(name)
            if host not in self.leaving:
                counts[host] = counts.get(host, 0) + 1
        return counts


@dataclass
class _Look:
    """What is noticed during one look."""

    now: float = 0.0
    refusals: list[Refusal] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    """Keys of the fleet that hold another type."""
    void_claims: list[tuple[str, bytes]] = field(default_factory=list)
    nameless: list[str] = field(default_factory=list)
    """Ids that are no worker's, whose lease has run out: messages may still be recorded under them."""

    def refuse(self, kind: str, name: Any, why: object) -> None:
        """Note that something could not be read."""
        self.refusals.append(Refusal(kind, name if isinstance(name, str) else shown(name), str(why)))

    def reply(self, key: str, reply: Any, default: Any) -> Any:
        """Return a reply, or the default if the key holds another type."""
        if not isinstance(reply, ResponseError):
            return reply
        self.wrong.append(key)
        return default

    def hash_of(self, kind: str, key: str, reply: Any) -> dict[bytes, bytes]:
        """Return a hash, without what is too large."""
        found, refused = bounded_hash(kind, key, reply)
        self.refusals += refused
        return found

    def texts(self, kind: str, members: Iterable[bytes]) -> Iterable[str]:
        """Yield the members that can be read."""
        for member in members:
            try:
                yield read_text(member)
            except UnreadableError as error:
                self.refuse(kind, member, error)

    def leases(
        self, kind: str, members: Iterable[tuple[bytes, float]], read: Callable[[Any], str] = read_text
    ) -> Iterable[Lease]:
        """Yield the leases that can be read."""
        for member, score in members:
            lease = Lease.load(kind, member, score, self.now, read)
            if isinstance(lease, Refusal):
                self.refusals.append(lease)
            else:
                yield lease


class Observer:
    """Looks at the broker for a supervisor."""

    def __init__(self, broker: Broker, groups: Collection[Group]) -> None:
        self.broker = broker
        self._groups = [group.name for group in groups]
        queues = [queue for group in groups for queue in group.queues]
        self._lists = [(queue, name) for queue in queues for name in broker.lists(queue)]
        self._keys = [broker.keys.prefix + name for _, name in self._lists]
        self._dead = {queue: broker.keys.dead_letter(queue) for queue in queues}
        self._timed = [
            key(group)
            for group in (ALL, *self._groups)
            for key in (broker.keys.timed_pause, broker.keys.timed_bounds)
        ]
        self._workers: list[str] = []
        self._hosts: list[str] = []
        self._read: dict[str, tuple[Any, WorkerSeen, list[Refusal]]] = {}
        self._peeked: dict[str, tuple[int, EtaSample]] = {}
        self._peeked_at: dict[str, int] = {}
        self._looks = 0
        self._clock = ClockOffset()

    def look(self) -> FleetSeen:
        """Look once.

        Raises:
            redis.RedisError: The server does not answer.
        """
        keys, look = self.broker.keys, _Look()
        self._looks += 1
        whole: dict[str, Any] = {
            keys.workers: (),
            keys.supervisors: (),
            keys.drain: (),
            keys.replace: (),
            keys.leaving: (),
            keys.overrides: (),
        }
        with self.broker.client.pipeline(transaction=False) as pipe:
            pipe.time()
            # A registered script would be asked for first, in a round trip of its own.
            pipe.eval(LENGTHS, len(self._keys) + len(self._dead), *self._keys, *self._dead.values())
            pipe.zrange(keys.workers, 0, -1, withscores=True)
            pipe.zrange(keys.supervisors, 0, -1, withscores=True)
            pipe.smembers(keys.drain)
            pipe.smembers(keys.replace)
            read_bounded(pipe, keys.leaving)
            read_bounded(pipe, keys.overrides)
            for group in self._groups:
                pipe.zrange(keys.claims(group), 0, -1, withscores=True)
            for worker_id in self._workers:
                pipe.hgetall(keys.worker(worker_id))
            for host in self._hosts:
                pipe.hmget(keys.supervisor(host), "weight", "limits")
            for key in self._timed:
                pipe.getrange(key, 0, MOST_OVERRIDE)
            pipe.info("memory").info("clients")
            asked = time.time()
            replies = iter(replies_of(pipe))
            answered = time.time()
        seconds, microseconds = next(replies)
        look.now = seconds + microseconds / 1e6
        self._clock.update(asked, look.now, answered)
        lengths = next(replies)
        leases, peers, draining, replaced, leaving, overrides = (
            look.reply(key, next(replies), default) for key, default in whole.items()
        )
        leaving = look.hash_of("leaving host", keys.leaving, leaving)
        overrides = look.hash_of(OVERRIDE, keys.overrides, overrides)
        claims = {group: look.reply(keys.claims(group), next(replies), ()) for group in self._groups}
        heartbeats = {worker_id: next(replies) for worker_id in self._workers}
        offers = {host: next(replies) for host in self._hosts}
        timed = [look.reply(key, next(replies), b"") for key in self._timed]
        memory, clients = next(replies), next(replies)
        ids = {lease.name: lease.lives(look.now) for lease in look.leases(WORKER, leases, read_worker_id)}
        known = {name.encode() for name in ids}
        look.nameless = [
            as_name(member) for member, end in leases if member not in known and end / 1000 < look.now
        ]
        hosts = [lease.name for lease in look.leases(SUPERVISOR, peers) if lease.lives(look.now)]
        self._look_at_new(heartbeats, ids, offers, hosts)
        self._workers, self._hosts = list(ids), hosts
        self._read = {name: read for name, read in self._read.items() if name in ids}
        offered = self._peers(look, hosts, offers)
        return FleetSeen(
            time=look.now,
            lists=self._lists_seen(look, lengths[: len(self._keys)]),
            dead_letters=self._dead_letters(look, lengths[len(self._keys) :]),
            workers=[self._worker(look, name, alive, heartbeats[name]) for name, alive in ids.items()],
            expired=[*(name for name, alive in ids.items() if not alive), *look.nameless],
            draining=frozenset(look.texts("worker to drain", draining)),
            replaced=frozenset(look.texts("worker to replace", replaced)),
            leaving={
                host: leaving[host.encode()].decode(errors="replace")
                for host in look.texts("leaving host", leaving)
            },
            peers=offered,
            overrides=self._overrides(look, overrides, timed, offered),
            claims={group: self._claims(look, group, members) for group, members in claims.items()},
            short=short_of(memory, clients),
            clients=read_clients(clients),
            clock_offset=self._clock.seconds,
            refusals=look.refusals,
            set_aside=[set_aside(self.broker.client, keys, key) for key in look.wrong],
            void_claims=look.void_claims,
        )

    def _look_at_new(
        self, heartbeats: dict[str, Any], ids: Collection[str], offers: dict[str, Any], hosts: Sequence[str]
    ) -> None:
        """Ask for workers and supervisors that have come since the last look; there are rarely any."""
        new_ids = [name for name in ids if name not in heartbeats]
        new_hosts = [host for host in hosts if host not in offers]
        if not (new_ids or new_hosts):
            return
        keys = self.broker.keys
        with self.broker.client.pipeline(transaction=False) as pipe:
            for name in new_ids:
                pipe.hgetall(keys.worker(name))
            for host in new_hosts:
                pipe.hmget(keys.supervisor(host), "weight", "limits")
            replies = replies_of(pipe)
        heartbeats |= dict(zip(new_ids, replies, strict=False))
        offers |= dict(zip(new_hosts, replies[len(new_ids) :], strict=True))

    def _worker(self, look: _Look, worker_id: str, alive: bool, found: Any) -> WorkerSeen:
        if isinstance(found, ResponseError):
            look.refuse(WORKER, worker_id, found)
            name = worker_name(worker_id)
            return WorkerSeen(
                id=worker_id, alive=alive, host=host_of(name), group=group_of(name), state=heartbeat.UNKNOWN
            )
        # An idle worker reports the same again and again.
        before = self._read.get(worker_id)
        if before is None or before[0] != found or before[1].alive != alive:
            before = self._read[worker_id] = (found, *WorkerSeen.see(worker_id, alive, found))
        _, seen, refused = before
        look.refusals += refused
        return seen

    def _peers(self, look: _Look, hosts: Sequence[str], offers: Mapping[str, Any]) -> list[PeerSeen]:
        peers = []
        for host in hosts:
            offer = offers[host]
            if isinstance(offer, ResponseError):
                look.wrong.append(self.broker.keys.supervisor(host))
                continue
            found = PeerSeen.load(host, offer)
            if isinstance(found, Refusal):
                look.refusals.append(found)
            elif found is not None:
                peers.append(found)
        return peers

    def _overrides(
        self, look: _Look, found: Mapping[bytes, bytes], timed: Sequence[Any], peers: Sequence[PeerSeen]
    ) -> dict[str, Override]:
        groups = {ALL, *self._groups, *(group for peer in peers for group in peer.limits)}
        overrides = {}
        for group in look.texts(OVERRIDE, found):
            read = Override.load(group, found[group.encode()], look.now)
            if isinstance(read, Refusal):
                look.refusals.append(read)
            elif group not in groups:
                look.refuse(OVERRIDE, group, f"there is no such group; there are: {', '.join(self._groups)}")
            else:
                overrides[group] = read
        for number, group in enumerate((ALL, *self._groups)):
            parts = [self._timed_part(look, group, part) for part in timed[2 * number : 2 * number + 2]]
            overrides[group] = overrides.get(group, Override()).with_parts(*parts)
        return {group: override for group, override in overrides.items() if not override.is_empty}

    @staticmethod
    def _timed_part(look: _Look, group: str, value: Any) -> Override | None:
        """Read what is set for a while."""
        read = Override.load(group, value, look.now) if value else None
        if isinstance(read, Refusal):
            look.refusals.append(read)
            return None
        return read

    @staticmethod
    def _claims(look: _Look, group: str, members: Iterable[tuple[bytes, float]]) -> list[str]:
        """Return the names of the workers that are starting."""
        names = []
        for member, score in members:
            claim = Lease.load(CLAIM, member, score, look.now, read_worker_name)
            if isinstance(claim, Refusal):
                look.refuse(CLAIM, f"{group}: {claim.name}", claim.why)
                look.void_claims.append((group, member))
            elif claim.lives(look.now):
                names.append(claim.name)
        return names

    def _dead_letters(self, look: _Look, lengths: Sequence[int]) -> dict[str, int]:
        found = {}
        for (queue, key), length in zip(self._dead.items(), lengths, strict=True):
            if length < 0:
                look.refuse("list", key, "it holds another type")
            found[queue] = max(0, length)
        return found

    def _lists_seen(self, look: _Look, lengths: Sequence[int]) -> list[ListSeen]:
        """Tell messages for the future apart, in the lists that hold any message at all."""
        self._peek(look.now, dict(zip(self._keys, lengths, strict=True)))
        seen = []
        for (queue, name), key, length in zip(self._lists, self._keys, lengths, strict=True):
            if length < 0:
                look.refuse("list", name, "it holds another type")
            if length <= 0:
                seen.append(ListSeen(queue, name, 0))
                continue
            _, sample = self._peeked.get(key, (0, EtaSample()))
            if sample.unreadable:
                number = f"{sample.unreadable} of {sample.messages} messages looked at are no tasks"
                look.refuse("message", name, f"{number}: {sample.why}")
            future = round(sample.future * length / sample.messages) if sample.messages else 0
            future = min(future, length)
            seen.append(
                ListSeen(
                    queue, name, length, future, sample.next_eta, sample.etas, sample.names, sample.messages
                )
            )
        return seen

    def _peek(self, now: float, lengths: Mapping[str, int]) -> None:
        """Look at the messages of lists that have changed, those first that were not looked at for long."""
        changed = [
            key for key, length in lengths.items() if length > 0 and not self._is_known(key, length, now)
        ]
        if not changed:
            return
        changed.sort(key=lambda key: self._peeked_at.get(key, 0))
        samples = self.broker.client.eval(
            SAMPLE, len(changed), *changed, PEEK, HEAD_BYTES, TAIL_BYTES, BUDGET_BYTES
        )
        for key, messages in zip(changed, samples, strict=True):
            # None where the budget was used up: its turn comes at the next look.
            if messages:
                self._peeked[key] = lengths[key], read_sample(messages, now)
                self._peeked_at[key] = self._looks

    def _is_known(self, key: str, length: int, now: float) -> bool:
        """Whether a list holds the same number of messages as before, none of whose time has come since."""
        known, sample = self._peeked.get(key, (-1, EtaSample()))
        return known == length and (sample.next_eta is None or sample.next_eta > now)
