"""What a supervisor sees in the broker, in one round trip: lists, workers, other supervisors, wishes."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from celery_autoscaler.broker import Broker
from celery_autoscaler.keys import worker_name
from celery_autoscaler.policy import Override
from celery_autoscaler.settings import Group

# KEYS: lists.  Returns their lengths: one reply to read instead of one for each list.
LENGTHS = """
local lengths = {}
for i, key in ipairs(KEYS) do lengths[i] = redis.call('LLEN', key) end
return lengths
"""

# Messages of a list that are looked at for their ETA: all of a short one, of others those taken next.
PEEK = 100
# Ticks between two looks at the server itself.
SERVER_EVERY = 5
NO_ETA = (b'"eta": null', b'"eta":null')


@dataclass(frozen=True)
class WorkerSeen:
    """A worker, as its heartbeat shows it."""

    id: str
    alive: bool
    """Whether its lease lives."""
    host: str = ""
    group: str = ""
    pid: int = 0
    state: str = ""
    concurrency: int = 1
    active: int = 0
    reserved: int = 0
    scheduled: int = 0
    processed: int = 0
    busy_seconds: float = 0.0
    memory: int = 0
    failed: int = 0
    release: str = ""
    next_eta: float | None = None
    """Time of the first task that waits for its ETA, in seconds of the epoch."""
    taken: Mapping[str, int] = field(default_factory=dict)
    """Messages taken from each list."""
    tasks: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    """Tasks by name: how many have begun, and the seconds of work that they took."""
    running: Sequence[tuple[str, float | None]] = ()
    """Tasks that run: name, and since when."""

    @property
    def name(self) -> str:
        """Celery's name of the worker, ``group-n@host``."""
        return worker_name(self.id)

    @property
    def instance(self) -> str:
        """Its name on its host, ``group-n``."""
        return self.name.partition("@")[0]

    @classmethod
    def parse(cls, worker_id: str, alive: bool, heartbeat: Mapping[bytes, bytes]) -> "WorkerSeen":
        """Read a heartbeat; one of an older release may lack fields."""
        found = {name.decode(): value.decode() for name, value in heartbeat.items()}

        def number(name: str) -> int:
            return int(found.get(name) or 0)

        return cls(
            id=worker_id,
            alive=alive,
            host=found.get("host", ""),
            group=found.get("group", ""),
            pid=number("pid"),
            state=found.get("state", ""),
            concurrency=number("concurrency") or 1,
            active=number("active"),
            reserved=max(0, number("reserved")),
            scheduled=number("scheduled"),
            processed=number("processed"),
            failed=number("failed"),
            busy_seconds=float(found.get("busy_seconds") or 0),
            memory=number("memory"),
            release=found.get("release", ""),
            next_eta=float(found["next_eta"]) if found.get("next_eta") else None,
            taken=json.loads(found.get("taken") or "{}"),
            tasks=json.loads(found.get("tasks") or "{}"),
            running=[(name, since) for name, since in json.loads(found.get("running") or "[]")],
        )


@dataclass(frozen=True)
class PeerSeen:
    """A supervisor, as its heartbeat shows it."""

    host: str
    weight: float
    limits: Mapping[str, int | None]
    """For each group that it serves the most workers that it can run now, if it is short of something."""


@dataclass(frozen=True)
class ListSeen:
    """A list of a queue: one of its priority steps."""

    queue: str
    name: str
    length: int
    future: int = 0
    """Messages whose ETA has not come."""
    next_eta: float | None = None


@dataclass(frozen=True)
class Seen:
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


class Observer:
    """Looks at the broker for a supervisor."""

    def __init__(self, broker: Broker, groups: Collection[Group]) -> None:
        self.broker = broker
        self._groups = [group.name for group in groups]
        queues = [queue for group in groups for queue in group.queues]
        self._lists = [(queue, name) for queue in queues for name in broker.lists(queue)]
        self._keys = [broker.keys.prefix + name for _, name in self._lists]
        self._dead = {queue: broker.keys.dead_letter(queue) for queue in queues}
        self._workers: list[str] = []
        self._hosts: list[str] = []
        self._peeked: dict[str, tuple[int, int, float | None]] = {}
        self._looks = 0
        self._short = ""

    def look(self) -> Seen:
        """Look once.

        Raises:
            redis.RedisError: The server does not answer.
        """
        keys, client = self.broker.keys, self.broker.client
        with_server = self._looks % SERVER_EVERY == 0
        self._looks += 1
        with client.pipeline(transaction=False) as pipe:
            pipe.time()
            # A registered script would be asked for first, in a round trip of its own.
            pipe.eval(LENGTHS, len(self._keys) + len(self._dead), *self._keys, *self._dead.values())
            pipe.zrange(keys.workers, 0, -1, withscores=True)
            pipe.zrange(keys.supervisors, 0, -1, withscores=True)
            pipe.smembers(keys.drain)
            pipe.smembers(keys.replace)
            pipe.hgetall(keys.leaving)
            pipe.hgetall(keys.overrides)
            for group in self._groups:
                pipe.zrange(keys.claims(group), 0, -1, withscores=True)
            for worker_id in self._workers:
                pipe.hgetall(keys.worker(worker_id))
            for host in self._hosts:
                pipe.hmget(keys.supervisor(host), "weight", "limits")
            if with_server:
                pipe.info("memory").info("clients")
            replies = iter(pipe.execute())
        seconds, microseconds = next(replies)
        now = seconds + microseconds / 1e6
        lengths, leases, peers, draining, replaced, leaving, overrides = (next(replies) for _ in range(7))
        claims = {group: next(replies) for group in self._groups}
        heartbeats = {worker_id: next(replies) for worker_id in self._workers}
        offers = {host: next(replies) for host in self._hosts}
        if with_server:
            self._short = short_of(next(replies), next(replies))
        ids = {member.decode(): score / 1000 > now for member, score in leases}
        hosts = [member.decode() for member, score in peers if score / 1000 > now]
        # Those who have come since the last look; there are rarely any.
        heartbeats |= self._more(keys.worker, ids.keys() - heartbeats.keys())
        offers |= {
            host: client.hmget(keys.supervisor(host), "weight", "limits") for host in set(hosts) - set(offers)
        }
        self._workers, self._hosts = list(ids), hosts
        return Seen(
            time=now,
            lists=self._future(lengths[: len(self._keys)], now),
            dead_letters=dict(zip(self._dead, lengths[len(self._keys) :], strict=True)),
            workers=[WorkerSeen.parse(name, alive, heartbeats[name]) for name, alive in ids.items()],
            expired=[name for name, alive in ids.items() if not alive],
            draining=frozenset(map(bytes.decode, draining)),
            replaced=frozenset(map(bytes.decode, replaced)),
            leaving={host.decode(): by.decode() for host, by in leaving.items()},
            peers=[peer for host in hosts if (peer := parse_peer(host, offers[host])) is not None],
            overrides={group.decode(): parse_override(value) for group, value in overrides.items()},
            claims={
                group: [member.decode() for member, score in members if score / 1000 > now]
                for group, members in claims.items()
            },
            short=self._short,
        )

    def _more(self, key: Any, ids: Iterable[str]) -> dict[str, Any]:
        return {worker_id: self.broker.client.hgetall(key(worker_id)) for worker_id in ids}

    def _future(self, lengths: Sequence[int], now: float) -> list[ListSeen]:
        """Tell messages for the future apart, in the lists that hold any message at all."""
        changed = [
            key
            for key, length in zip(self._keys, lengths, strict=True)
            if length and not self._is_known(key, length, now)
        ]
        with self.broker.client.pipeline(transaction=False) as pipe:
            for key in changed:
                pipe.lrange(key, -PEEK, -1)
            samples = dict(zip(changed, pipe.execute(), strict=True)) if changed else {}
        seen = []
        for (queue, name), key, length in zip(self._lists, self._keys, lengths, strict=True):
            if key in samples:
                future, first = future_messages(samples[key], now)
                if samples[key]:
                    future = round(future * length / len(samples[key]))
                self._peeked[key] = (length, future, first)
            _, future, first = self._peeked[key] if length else (0, 0, None)
            seen.append(ListSeen(queue, name, length, min(future, length), first))
        return seen

    def _is_known(self, key: str, length: int, now: float) -> bool:
        """Whether a list holds the same number of messages as before, none of whose time has come since."""
        known, _, first = self._peeked.get(key, (-1, 0, None))
        return known == length and (first is None or first > now)


def future_messages(messages: Iterable[bytes], now: float) -> tuple[int, float | None]:
    """Return how many messages have an ETA that has not come, and the first of these."""
    etas = []
    for message in messages:
        if any(mark in message for mark in NO_ETA):
            continue
        try:
            eta = datetime.fromisoformat(json.loads(message)["headers"]["eta"]).timestamp()
        except (ValueError, KeyError, TypeError):
            continue
        if eta > now:
            etas.append(eta)
    return len(etas), min(etas, default=None)


# Parts of the server's memory and clients above which no worker is started.
FULL = 0.9
# Clients that have to be left: a worker needs several.
CLIENTS_LEFT = 50


def short_of(memory: Mapping[str, Any], clients: Mapping[str, Any]) -> str:
    """Return what a server is short of, in words."""
    limit, used = int(memory.get("maxmemory") or 0), int(memory["used_memory"])
    if limit and used > FULL * limit:
        return f"Redis uses {100 * used / limit:.0f} % of its memory"
    # Servers before Redis 7 do not tell their limit here.
    most, connected = int(clients.get("maxclients") or 0), int(clients["connected_clients"])
    if most and connected > most - min(CLIENTS_LEFT, most // 10):
        return f"Redis has {connected} of at most {most} clients"
    return ""


def parse_peer(host: str, offer: Sequence[bytes | None]) -> PeerSeen | None:
    """Read what a supervisor offers; nothing if it has just left."""
    weight, limits = offer
    if weight is None or limits is None:
        return None
    return PeerSeen(host, float(weight), json.loads(limits))


def parse_override(value: bytes) -> Override:
    """Read what an operator has set."""
    found = json.loads(value)
    return Override(
        paused=bool(found.get("paused")),
        minimum=found.get("minimum"),
        maximum=found.get("maximum"),
        by=str(found.get("by", "")),
    )
