"""The state of the whole fleet, as its supervisors publish it. Whatever stands in Redis, it can be read."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from celery_autoscaler.protocol.broker import Broker
from celery_autoscaler.protocol.keys import worker_name
from celery_autoscaler.protocol.lenient import first_number, text
from celery_autoscaler.protocol.overrides import ALL
from celery_autoscaler.protocol.readers import UnreadableError, read_mapping
from celery_autoscaler.protocol.status_fields import read_status
from celery_autoscaler.supervisor.verdict import Finding, findings

# Decisions among which the last change is looked for.
RECENT = 100
# Decisions that are kept.
DECISIONS = 10_000
# A decision that moves no worker.
NOTHING_MOVED: dict[str, str | int] = {
    "host": "",
    "have": 0,
    "want": 0,
    "here": 0,
    "limit": "",
    "emergency": 0,
    "held_back": "",
    "seen": "{}",
    "by": "",
}


@dataclass(frozen=True)
class Record:
    """A decision as it was written down."""

    at: float
    """Seconds of the epoch."""
    host: str
    group: str
    have: int
    want: int
    here: int
    """Workers that the host started, or stopped (negative)."""
    reason: str
    held_back: str
    emergency: bool
    seen: Mapping[str, Any]
    by: str = ""
    """The operator whose wish it was; nobody for what a supervisor decided."""


@dataclass(frozen=True)
class FleetStatus:
    """What the living supervisors say."""

    supervisors: Mapping[str, Mapping[str, Any]]
    """By host."""
    last_change: Record | None = None
    unwatched: Mapping[str, int] | None = None
    """Hosts with living workers and without a supervisor, and how many these are."""
    unreadable: Sequence[str] = ()
    """What in Redis could not be read, and was passed over."""

    @property
    def groups(self) -> dict[str, Mapping[str, Any]]:
        """The groups; what concerns the whole fleet, all supervisors see alike."""
        found: dict[str, Mapping[str, Any]] = {}
        for _, status in sorted(self.supervisors.items()):
            for name, group in status.get("groups", {}).items():
                # What holds one host back is worth to be told although another one is not.
                if name not in found or (group.get("held_back") and not found[name].get("held_back")):
                    found[name] = {**group, **found.get(name, {}), "held_back": group.get("held_back", "")}
        return found

    @property
    def workers(self) -> list[Mapping[str, Any]]:
        """The workers of all hosts, number 2 before number 10."""
        found = [worker for status in self.supervisors.values() for worker in status.get("workers", ())]
        return sorted(found, key=lambda worker: in_order(worker["name"]))

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
            "groups": self.groups,
            "supervisors": dict(self.supervisors),
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
    unreadable = []
    for name, found in (("supervisors", members), ("workers", leases)):
        if isinstance(found, Exception):
            unreadable.append(f"fleet:{name} ({found})")
    members = [] if isinstance(members, Exception) else members
    leases = [] if isinstance(leases, Exception) else leases
    hosts = [text(member) for member in members]
    with client.pipeline(transaction=False) as pipe:
        for host in hosts:
            pipe.hget(keys.supervisor(host), "status")
        statuses = pipe.execute(raise_on_error=False) if hosts else []
    supervisors = {}
    for host, status in zip(hosts, statuses, strict=True):
        # A supervisor that has just ended, or has published nothing yet.
        if status is None:
            continue
        found, trouble = (
            (None, [f"the status of {host}"]) if isinstance(status, Exception) else read_status(host, status)
        )
        unreadable += trouble
        if found is not None:
            supervisors[host] = found
    skipped: list[str] = []
    changes = [record for record in records(broker, RECENT, skipped=skipped) if record.here]
    living = Counter(
        worker_name(text(member)).partition("@")[2] for member, end in leases if end / 1000 > seconds
    )
    return FleetStatus(
        supervisors=supervisors,
        last_change=next(iter(changes), None),
        unwatched={host: count for host, count in living.items() if host not in hosts},
        unreadable=[*unreadable, *skipped],
    )


def records(
    broker: Broker, count: int, group: str | None = None, *, skipped: list[str] | None = None
) -> Iterator[Record]:
    """Yield the last decisions, the newest first.

    Args:
        broker: The broker.
        count: How many at most.
        group: The group that they are about; by default all.
        skipped: Takes the names of entries that are none.

    Raises:
        redis.RedisError: The server does not answer.
    """
    skipped = [] if skipped is None else skipped
    try:
        entries = broker.client.xrevrange(broker.keys.decisions, count=count if group is None else None)
    except ResponseError as error:
        skipped.append(f"fleet:decisions ({error})")
        return
    for entry_id, entry in entries:
        record = read_record({text(name): value for name, value in (entry or {}).items()})
        if record is None:
            skipped.append(f"decision {text(entry_id)}")
            continue
        if group is not None and record.group not in (group, ALL):
            continue
        yield record
        count -= 1
        if count == 0:
            return


def read_record(fields: Mapping[str, bytes | str]) -> Record | None:
    """Return a decision from its fields; nothing if it does not say when it was made, and of what."""
    at = first_number(fields.get("at"), -1.0)
    # Dates of more than four digits cannot be shown.
    if not 0 <= at < 2.5e11 or not fields.get("group"):
        return None
    try:
        seen = read_mapping(text(fields.get("seen")) or "{}")
    except UnreadableError:
        seen = {}

    def whole(name: str) -> int:
        return int(first_number(fields.get(name)))

    return Record(
        at=at,
        host=text(fields.get("host")),
        group=text(fields["group"]),
        have=whole("have"),
        want=whole("want"),
        here=whole("here"),
        reason=text(fields.get("reason")),
        held_back=text(fields.get("held_back")),
        emergency=text(fields.get("emergency")) == "1",
        seen=seen,
        by=text(fields.get("by")),
    )


def write(broker: Broker, entry: Mapping[str, Any]) -> None:
    """Write a decision down; the oldest are dropped."""
    broker.client.xadd(broker.keys.decisions, dict(entry), maxlen=DECISIONS, approximate=True)
