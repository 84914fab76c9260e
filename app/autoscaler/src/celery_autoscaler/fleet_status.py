"""The state of the whole fleet, as its supervisors publish it."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from celery_autoscaler.broker import Broker
from celery_autoscaler.overrides import ALL

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

    @property
    def groups(self) -> dict[str, Mapping[str, Any]]:
        """The groups; what concerns the whole fleet, all supervisors see alike."""
        return {
            name: group
            for _, status in sorted(self.supervisors.items(), reverse=True)
            for name, group in status["groups"].items()
        }

    @property
    def workers(self) -> list[Mapping[str, Any]]:
        """The workers of all hosts, number 2 before number 10."""
        found = [worker for status in self.supervisors.values() for worker in status["workers"]]
        return sorted(found, key=lambda worker: in_order(worker["name"]))

    @property
    def verdict(self) -> tuple[str, str]:
        """Whether the system keeps up, in two words and in a sentence."""
        if not self.supervisors:
            return "no supervisor", "no supervisor is alive: workers that die are not replaced"
        groups = self.groups
        late = {name: group for name, group in groups.items() if group["age"] > group["promise"]}
        if late:
            name, group = max(late.items(), key=lambda item: float(item[1]["age"]) / item[1]["promise"])
            held = f"; held back: {group['held_back']}" if group["held_back"] else ""
            return "falling behind", (
                f"the oldest task of {name} waits for {group['age']:.0f} s, promised are "
                f"{group['promise']:g} s; {group['reason']}{held}"
            )
        paused = [name for name, group in groups.items() if group["limit"] == "paused"]
        if paused:
            return "paused", f"{', '.join(paused)}: {groups[paused[0]]['reason']}"
        oldest = max((float(group["age"]) for group in groups.values()), default=0.0)
        waiting = sum(int(group["waiting"]) for group in groups.values())
        return "keeping up", (
            f"{waiting} tasks wait, the oldest for {oldest:.1f} s"
            if waiting
            else "no task waits for a worker"
        )

    def as_dict(self) -> dict[str, Any]:
        """Return all of it for other programs."""
        word, why = self.verdict
        return {"verdict": word, "why": why, "groups": self.groups, "supervisors": dict(self.supervisors)}


def in_order(name: str) -> list[str | int]:
    """Return what sorts names by the numbers in them."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"([0-9]+)", name)]


def fleet_status(broker: Broker) -> FleetStatus:
    """Read what the living supervisors say."""
    keys, client = broker.keys, broker.client
    hosts = [member.decode() for member in client.zrange(keys.supervisors, 0, -1)]
    texts = {host: client.hget(keys.supervisor(host), "status") for host in hosts}
    return FleetStatus(
        supervisors={host: json.loads(text) for host, text in texts.items() if text},
        last_change=next((record for record in records(broker, RECENT) if record.here), None),
    )


def records(broker: Broker, count: int, group: str | None = None) -> Iterator[Record]:
    """Yield the last decisions, the newest first."""
    for _, entry in broker.client.xrevrange(broker.keys.decisions, count=count if group is None else None):
        fields = {name.decode(): value.decode() for name, value in entry.items()}
        if group is not None and fields["group"] not in (group, ALL):
            continue
        yield Record(
            at=float(fields["at"]),
            host=fields["host"],
            group=fields["group"],
            have=int(fields["have"]),
            want=int(fields["want"]),
            here=int(fields["here"]),
            reason=fields["reason"],
            held_back=fields["held_back"],
            emergency=fields["emergency"] == "1",
            seen=json.loads(fields["seen"]),
            by=fields.get("by", ""),
        )
        count -= 1
        if count == 0:
            return


def write(broker: Broker, entry: Mapping[str, Any]) -> None:
    """Write a decision down; the oldest are dropped."""
    broker.client.xadd(broker.keys.decisions, dict(entry), maxlen=DECISIONS, approximate=True)
