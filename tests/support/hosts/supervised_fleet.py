"""A deployed fleet whose workers follow the load: who consumes where, what the supervisors say and do.

Used with `deployed_app`, which makes the test process a client of the deployment.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from support.background import sampling
from support.hosts.deployed_app import WITHIN, redis
from support.hosts.fleet_workers import enlisted, held, load, outcome
from support.processes.services import ServiceError, wait_for

logger = logging.getLogger(__name__)

SUPERVISOR = "celery-autoscaler.service"
SETTINGS = "/etc/celery/autoscaler.toml"
# What the inventory says: workers of the whole fleet, tasks that they run at a time.
MAXIMUM = 4
SLOTS = 2 * MAXIMUM
# Runs in the slice of the workers until it is stopped.
LOAD = "celery-test-load.service"


def consuming() -> dict[str, str]:
    """Return the workers that take messages: name → id."""
    found = {}
    for worker_id in enlisted():
        if redis().hget(f"fleet:worker:{worker_id}", "state") == "running":
            found[worker_id.rpartition(":")[0]] = worker_id
    return found


def by_host() -> Counter[str]:
    """Return how many workers take messages on each host."""
    return Counter(name.partition("@")[2] for name in consuming())


def decisions(since: float) -> list[dict[str, Any]]:
    """Return what was decided since a time of the hosts' clock, the oldest first."""
    entries: Any = redis().xrange("fleet:decisions", min=str(int(since * 1000)))
    return [fields for _, fields in entries]


def wait_for_workers(fits: Callable[[Counter[str]], bool], what: str, within: float = WITHIN) -> float:
    """Wait until the numbers of workers on the hosts fit; return after how many seconds they did."""
    begin = time.monotonic()
    try:
        wait_for(lambda: fits(by_host()), f"no {what}", within)
    except ServiceError as error:
        raise ServiceError(f"{error}, but {dict(by_host())}") from error
    took = time.monotonic() - begin
    logger.info("%s after %.1f s: %s", what, took, dict(by_host()))
    return took


@contextmanager
def full_load(trace: str) -> Iterator[list[str]]:
    """Send a little more than a fleet of `MAXIMUM` workers can do until the block ends."""
    with load(trace, rate=1.1 * SLOTS, seconds=1) as ids:
        yield ids


def all_once(trace: str, ids: list[str]) -> bool:
    """Wait until all tasks have ended; tell whether each ran once."""
    return outcome(trace, ids, within=2 * WITHIN).exactly_once


@contextmanager
def watched() -> Iterator[list[int]]:
    """Note how many workers take messages, again and again until the block ends."""
    numbers: list[int] = []
    with sampling(lambda: numbers.append(len(consuming()))):
        yield numbers


@dataclass
class SupervisedHost:
    """A worker host."""

    name: str
    host: Any

    def workers(self) -> dict[str, int]:
        """Return the running workers: instance of the unit → process id."""
        shown = self.host.check_output(
            "systemctl show --property=Id,MainPID,ActiveState 'celery-worker@*.service'"
        )
        units = [
            dict(line.split("=", 1) for line in block.splitlines()) for block in shown.split("\n\n") if block
        ]
        return {
            unit["Id"].removeprefix("celery-worker@").removesuffix(".service"): int(unit["MainPID"])
            for unit in units
            if unit["ActiveState"] == "active"
        }

    def living(self) -> int:
        """Return how many workers run, start or stop."""
        listed = self.host.check_output("systemctl list-units --output=json 'celery-worker@*.service'")
        return len(json.loads(listed))

    def property(self, unit: str, of: str) -> str:
        """Return what systemd knows about a unit."""
        return str(self.host.check_output(f"systemctl show --property={of} --value {unit}"))

    def supervisor(self) -> int:
        """Return the process id of the supervisor."""
        return int(self.property(SUPERVISOR, "MainPID"))

    def status(self) -> dict[str, Any]:
        """Return what the supervisor has published."""
        published: Any = redis().hget(f"fleet:supervisor:{self.name}", "status")
        status: dict[str, Any] = json.loads(published or "{}")
        return status

    def journal(self, since: float) -> str:
        """Return what the supervisor has said since a time of the host's clock."""
        since_then = f"--since=@{since:.6f} --output=cat"
        return str(self.host.check_output(f"journalctl --no-pager {since_then} --unit={SUPERVISOR}"))

    def wait_for_words(self, words: str, since: float, within: float = WITHIN) -> None:
        """Wait until the supervisor has said something."""
        wait_for(lambda: words in self.journal(since), f"{self.name} does not say '{words}'", within)

    @contextmanager
    def settings(self, **values: object) -> Iterator[None]:
        """Give the running supervisor other settings until the block ends."""
        edits = " ".join(f"-e 's/^{name} = .*/{name} = {json.dumps(new)}/'" for name, new in values.items())
        self._change_settings(f"cp --preserve {SETTINGS} /run/settings && sed -i {edits} {SETTINGS}")
        try:
            yield
        finally:
            self._change_settings(f"cp --preserve /run/settings {SETTINGS}")

    def _change_settings(self, command: str) -> None:
        since = time.time()
        self.host.check_output(f"{command} && systemctl reload {SUPERVISOR}")
        self.wait_for_words("Settings reloaded", since)

    @contextmanager
    def slice_limit(self, name: str, value: str, unlimited: str) -> Iterator[None]:
        """Limit supervisor and workers together until the block ends."""
        set_property = "systemctl set-property --runtime celery.slice"
        self.host.check_output(f"{set_property} {name}={value}")
        try:
            yield
        finally:
            self.host.check_output(f"{set_property} {name}={unlimited}")

    @contextmanager
    def load(self, program: str) -> Iterator[None]:
        """Run a Python program beside the workers until the block ends."""
        run = f"systemd-run --quiet --collect --unit={LOAD} --slice=celery.slice /usr/bin/python3 -c"
        self.host.check_output(f"{run} %s", program)
        try:
            yield
        finally:
            self.host.check_output(f"systemctl stop {LOAD}")

    def slice_memory(self) -> int:
        """Return the bytes that supervisor and workers use together, as the supervisor counts them."""
        count = (
            "import celery_autoscaler.supervisor.host as h; "
            "print(next(g.memory_used for g in h.own_cgroups('memory') if g.path.name == 'celery.slice'))"
        )
        python = "/opt/celery-fleet/supervisor/current/venv/bin/python"
        run = f"systemd-run --quiet --pipe --wait --collect --slice=celery.slice {python} -c"
        return int(self.host.check_output(f"{run} %s", count))


@contextmanager
def one_worker(*hosts: SupervisedHost) -> Iterator[None]:
    """Let the group `general` of these hosts have one worker, no other still ending, until the block ends."""
    scale = "celery-app celery-autoscaler -A tasks scale general"
    hosts[0].host.check_output(f"{scale} --max-workers 1")
    try:
        wait_for_workers(lambda numbers: numbers.total() == 1, "one worker")
        wait_for(lambda: sum(host.living() for host in hosts) == 1, "others do not end")
        yield
    finally:
        hosts[0].host.check_output(f"{scale} --reset")


def a_busy_worker(host_name: str = "", within: float = WITHIN) -> tuple[str, str]:
    """Wait for a worker that holds messages; return its name and its id."""

    def found() -> tuple[str, str] | None:
        for name, worker_id in consuming().items():
            if name.endswith(f"@{host_name}" if host_name else "") and held(worker_id):
                return name, worker_id
        return None

    return wait_for(found, "no worker holds messages", within)
