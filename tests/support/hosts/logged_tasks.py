"""Tasks sent at a steady rate while Redis changes, each counted by the lines that the worker logs.

What a task writes to Redis may itself be lost. Used with `deployed_app`, which makes the test process a
client of the deployment.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from typing import Any
from uuid import uuid4

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from support.background import repeating
from support.hosts.deployed_app import send
from support.hosts.fleet_workers import waits
from support.processes.counted_tasks import Outcome
from support.processes.services import ServiceError, wait_for

WORKERS = "celery-worker@general-*.service"
RATE = 10.0  # tasks a second
PATIENCE = 30.0  # seconds in which no task ends, after which what is missing is lost


class Load:
    """Tasks sent at a steady rate, and what became of each attempt."""

    def __init__(self) -> None:
        self.trace = f"test-{uuid4()}"
        self._number = count(1)
        self.sent: dict[str, float] = {}
        """When each task was accepted, by its id."""
        self.refused = 0
        """How many were not; whether a server has them nobody knows."""

    def _send(self) -> None:
        try:
            (task_id,) = send(f"{self.trace}-{next(self._number)}", waits(0.05, trace_key=None))
        except (OperationalError, RedisError, OSError):
            self.refused += 1
        else:
            self.sent[task_id] = time.monotonic()

    def first_since(self, begin: float) -> str | None:
        """Return the first task that was accepted after this time."""
        return next((task_id for task_id, at in list(self.sent.items()) if at > begin), None)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Send until the block ends."""
        with repeating(self._send, RATE):
            wait_for(lambda: len(self.sent) > RATE, "nothing is accepted")
            yield

    def started(self, host: Any) -> Counter[str]:
        """Return how often a worker has logged that each task starts."""
        return self._logged(host, "STARTED")

    def ended(self, host: Any) -> Counter[str]:
        """Return how often one has logged that each was executed."""
        return self._logged(host, "SUCCESS")

    def _logged(self, host: Any, state: str) -> Counter[str]:
        lines = host.check_output(
            f"journalctl --no-pager --output=cat --unit='{WORKERS}'"
            f" --grep='{self.trace}.*state={state}' || true"
        )
        return Counter(re.findall(rf"id=({self.trace}\S+)", lines))

    def outcome(self, host: Any) -> Outcome:
        """Wait until the tasks have ended, or none has for a while; count them."""

        def missing() -> int:
            return len(set(self.sent) - set(self.ended(host)))

        def fewer(before: int) -> bool:
            return missing() < before

        with suppress(ServiceError):
            while before := missing():
                wait_for(partial(fewer, before), "no task ends", PATIENCE)
        return Outcome.of(self.sent, self.started(host), self.ended(host))
