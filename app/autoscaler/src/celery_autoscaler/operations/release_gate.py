"""Judge a release by its workers: do they all run it, and do its tasks fail more often than before?"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from celery_autoscaler.operations.known import known
from celery_autoscaler.operations.rollout import RolloutError, failed_starts, refuse_failing
from celery_autoscaler.protocol.broker import Broker
from celery_autoscaler.protocol.lease import leased_workers
from celery_autoscaler.protocol.text import missing
from celery_autoscaler.protocol.worker_seen import WorkerSeen
from celery_autoscaler.supervisor.fleet_status import fleet_status

# Seconds between two looks.
LOOK_SECONDS = 0.5
# Failures below which a rate says nothing.
FEW_FAILURES = 5
# Seconds in which the workers of a host must show themselves, and those in which the host must.
SHOWN_WITHIN_SECONDS = 60.0
HOST_WITHIN_SECONDS = 10.0


@dataclass(frozen=True)
class Tally:
    """Tasks that ended."""

    ended: int = 0
    failed: int = 0

    def __add__(self, other: "Tally") -> "Tally":
        return Tally(self.ended + other.ended, self.failed + other.failed)

    @property
    def rate(self) -> float:
        """The part of them that failed."""
        return self.failed / self.ended if self.ended else 0.0

    def __str__(self) -> str:
        return f"{self.failed} of {self.ended} tasks failed"


@dataclass(frozen=True)
class Verdict:
    """What is to be said of a release."""

    passed: bool
    reason: str


def workers(broker: Broker) -> list[WorkerSeen]:
    """Return the workers whose lease lives."""
    keys, client = broker.keys, broker.client
    ids = leased_workers(client, keys)
    with client.pipeline(transaction=False) as pipe:
        for worker_id in ids:
            pipe.hgetall(keys.worker(worker_id))
        found = zip(ids, pipe.execute(), strict=True)
    return [WorkerSeen.see(name, True, heartbeat)[0] for name, heartbeat in found if heartbeat]


def tally(found: Iterable[WorkerSeen]) -> Tally:
    """Return what workers have done since they started."""
    return sum((Tally(max(0, w.processed - w.active), w.failed) for w in found), Tally())


def is_worse(new: Tally, old: Tally, tolerance: float) -> bool:
    """Tell whether tasks fail more often than before: by more than a tolerance, in parts of one."""
    return new.failed >= FEW_FAILURES and new.rate > old.rate + tolerance


def evaluate_release(
    broker: Broker, release: str, host: str, *, before: Tally, tolerance: float, seconds: float
) -> Verdict:
    """Watch a release on a host, and say whether it may go on to the next.

    Args:
        broker: The broker.
        release: Its id, as heartbeats carry it.
        host: The host whose workers must all run it, as Celery names it.
        before: What tasks did under the release before.
        tolerance: By how much the part of failing tasks may rise.
        seconds: For how long to watch.
    """
    if unknown := unknown_host(broker, host):
        return Verdict(False, unknown)
    deadline = time.monotonic() + SHOWN_WITHIN_SECONDS
    while others := [w.name for w in workers(broker) if w.host == host and w.release != release]:
        if time.monotonic() > deadline:
            return Verdict(False, f"{', '.join(sorted(others))} on {host} do not run release {release}")
        time.sleep(LOOK_SECONDS)
    seen: dict[str, WorkerSeen] = {}
    deadline = time.monotonic() + seconds
    deaths = failed_starts(fleet_status(broker))
    while True:
        try:
            refuse_failing(fleet_status(broker), {w.id for w in workers(broker) if w.host == host}, deaths)
        except RolloutError as error:
            return Verdict(False, str(error))
        # Those that have ended since count as well.
        seen |= {w.id: w for w in workers(broker) if w.release == release}
        new = tally(seen.values())
        if is_worse(new, before, tolerance):
            return Verdict(False, f"{new} in release {release}, {before} before it; {worst(seen)}")
        if time.monotonic() > deadline:
            return Verdict(True, f"{new} in release {release}, {before} before it")
        time.sleep(LOOK_SECONDS)


def unknown_host(broker: Broker, host: str) -> str:
    """Return that there is no such host, in one line; nothing once it shows itself."""
    deadline = time.monotonic() + HOST_WITHIN_SECONDS
    while host not in (hosts := known(broker).hosts):
        if time.monotonic() > deadline:
            return missing("host", host, hosts)
        time.sleep(LOOK_SECONDS)
    return ""


def worst(seen: Mapping[str, WorkerSeen]) -> str:
    """Return the worker with the most failures, whose log says what they are."""
    most = max(seen.values(), key=lambda worker: worker.failed)
    return f"the log of {most.name} says why"
