"""The state of the whole fleet, as its supervisors publish it. Whatever stands in Redis, it can be read."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from redis.exceptions import ResponseError

from celery_autoscaler.protocol.broker import Broker
from celery_autoscaler.protocol.decision import DecisionRecord
from celery_autoscaler.protocol.identity import KIND as WORKER
from celery_autoscaler.protocol.identity import host_of, worker_name
from celery_autoscaler.protocol.lease import Lease
from celery_autoscaler.protocol.overrides import ALL
from celery_autoscaler.protocol.reading import Refusal, decoded
from celery_autoscaler.protocol.status import START_SLOTS, GroupStatus, SupervisorStatus, WorkerStatus
from celery_autoscaler.supervisor.verdict import Finding, findings

# Decisions among which the last change is looked for.
RECENT = 100
# Decisions that are kept.
DECISIONS = 10_000


@dataclass(frozen=True)
class FleetStatus:
    """What the living supervisors say."""

    supervisors: Mapping[str, SupervisorStatus]
    """By host."""
    last_change: DecisionRecord | None = None
    unwatched: Mapping[str, int] | None = None
    """Hosts with living workers and without a supervisor, and how many these are."""
    unreadable: Sequence[Refusal] = ()
    """What in Redis could not be read, and was passed over."""

    @property
    def groups(self) -> dict[str, GroupStatus]:
        """The groups; what concerns the whole fleet, all supervisors see alike."""
        found: dict[str, GroupStatus] = {}
        for _, status in sorted(self.supervisors.items()):
            for name, group in status.groups.items():
                known = found.setdefault(name, group)
                # What holds one host back is worth showing, although another one is free or starts some.
                if group.held_back and (not known.held_back or known.limit == START_SLOTS):
                    found[name] = replace(known, held_back=group.held_back, limit=group.limit)
        return found

    @property
    def workers(self) -> list[WorkerStatus]:
        """The workers of all hosts, number 2 before number 10."""
        found = [worker for status in self.supervisors.values() for worker in status.workers]
        return sorted(found, key=lambda worker: in_order(worker.name))

    @property
    def findings(self) -> list[Finding]:
        """What is to be said of the fleet, the worst first."""
        return findings(self.supervisors, self.groups, self.unwatched or {}, self.unreadable)

    @property
    def verdict(self) -> tuple[str, str]:
        """Whether the system keeps up, in two words and in a sentence."""
        first = self.findings[0]
        return first.word, first.why

    def as_dict(self) -> dict[str, Any]:
        """Return all of it for other programs."""
        found = self.findings
        return {
            "verdict": found[0].word,
            "why": found[0].why,
            "also": [vars(each) for each in found[1:]],
            "groups": {name: group.as_dict() for name, group in self.groups.items()},
            "supervisors": {host: status.as_dict() for host, status in self.supervisors.items()},
        }


def in_order(name: str) -> list[tuple[bool, int, str]]:
    """Return what sorts names by the numbers in them."""
    parts = re.split(r"([0-9]{1,18})", name)
    return [
        (not part[:1].isdecimal(), int(part) if part.isascii() and part.isdecimal() else 0, part)
        for part in parts
    ]


def fleet_status(broker: Broker) -> FleetStatus:
    """Read what the living supervisors say.

    Raises:
        redis.RedisError: The server does not answer.
    """
    keys, client = broker.keys, broker.client
    with client.pipeline(transaction=False) as pipe:
        pipe.time()
        pipe.zrange(keys.supervisors, 0, -1)
        pipe.zrange(keys.workers, 0, -1, withscores=True)
        (seconds, _), members, leases = pipe.execute(raise_on_error=False)
    unreadable = [
        Refusal("key", keys.without_prefix(key), str(found))
        for key, found in ((keys.supervisors, members), (keys.workers, leases))
        if isinstance(found, Exception)
    ]
    members = [] if isinstance(members, Exception) else members
    leases = [] if isinstance(leases, Exception) else leases
    hosts = [decoded(member) for member in members]
    with client.pipeline(transaction=False) as pipe:
        for host in hosts:
            pipe.hget(keys.supervisor(host), "status")
        statuses = pipe.execute(raise_on_error=False) if hosts else []
    supervisors = {}
    for host, status in zip(hosts, statuses, strict=True):
        # A supervisor that has just ended, or has published nothing yet.
        if status is None:
            continue
        if isinstance(status, Exception):
            unreadable.append(Refusal("status", host, str(status)))
            continue
        found, refused = SupervisorStatus.load(host, status)
        unreadable += refused
        if found is not None:
            supervisors[host] = found
    changes = [
        record for record in decisions(broker, RECENT, refused=unreadable) if record.here or record.children
    ]
    found_leases = (Lease.load(WORKER, member, end, seconds) for member, end in leases)
    living = Counter(
        host_of(worker_name(lease.name))
        for lease in found_leases
        if isinstance(lease, Lease) and lease.lives(seconds)
    )
    return FleetStatus(
        supervisors=supervisors,
        last_change=next(iter(changes), None),
        unwatched={host: count for host, count in living.items() if host not in hosts},
        unreadable=unreadable,
    )


def decisions(
    broker: Broker, count: int, group: str | None = None, *, refused: list[Refusal] | None = None
) -> Iterator[DecisionRecord]:
    """Yield the last decisions, the newest first.

    Args:
        broker: The broker.
        count: How many at most.
        group: The group that they are about; by default all.
        refused: Takes entries that cannot be read.

    Raises:
        redis.RedisError: The server does not answer.
    """
    refused = [] if refused is None else refused
    try:
        entries = broker.client.xrevrange(broker.keys.decisions, count=count if group is None else None)
    except ResponseError as error:
        refused.append(Refusal("key", broker.keys.without_prefix(broker.keys.decisions), str(error)))
        return
    for entry_id, entry in entries:
        record = DecisionRecord.load(entry_id, entry)
        if isinstance(record, Refusal):
            refused.append(record)
            continue
        if group is not None and record.group not in (group, ALL):
            continue
        yield record
        count -= 1
        if count == 0:
            return


def write(broker: Broker, record: DecisionRecord) -> None:
    """Write a decision down; the oldest are dropped."""
    broker.client.xadd(broker.keys.decisions, record.dump(), maxlen=DECISIONS, approximate=True)
