"""Fixtures that change what a deployed beat sends, through RedBeat's entries in Redis."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, Protocol
from uuid import uuid4

import pytest
from celery.schedules import schedule
from redbeat import RedBeatSchedulerEntry
from tasks import app
from tasks.queues import redis_keys

from support.hosts.deployed_app import redis, waiting
from support.processes.services import wait_for

KEY = "redbeat:"
LOCK = "redbeat::lock"


def stored_entry(name: str) -> Any:
    """Return an entry of the schedule as it stands in Redis."""
    return RedBeatSchedulerEntry.from_key(f"{KEY}{name}", app=app)


def wait_for_messages(key: str, count: int, within: float = 60.0) -> list[float]:
    """Wait until a number of messages are in a Redis list; return the seconds from each to the next.

    A message does not say when it was sent, but when it expires, a fixed time later.
    """
    wait_for(lambda: redis().llen(key) >= count, f"fewer than {count} messages in {key!r}", within)
    times = [datetime.fromisoformat(message["expires"]).timestamp() for message in waiting()[key]]
    return [later - earlier for earlier, later in pairwise(times)]


class Shorten(Protocol):
    """Give a configured entry of the schedule another interval, in seconds, until the block ends."""

    def __call__(self, name: str, seconds: float) -> AbstractContextManager[None]:
        """Return the block."""


@pytest.fixture
def shortened() -> Shorten:
    """Return a function that shortens the interval of an entry."""

    @contextmanager
    def shorten(name: str, seconds: float) -> Iterator[None]:
        configured = stored_entry(name).schedule
        _reschedule(name, schedule(timedelta(seconds=seconds)))
        try:
            yield
        finally:
            _reschedule(name, configured)

    return shorten


def _reschedule(name: str, when: Any) -> None:
    entry = stored_entry(name)
    entry.schedule = when
    entry.save()


class Scratch:
    """An entry of the test's own, whose messages nobody consumes."""

    def __init__(self, period: float) -> None:
        self.period = period
        self._key = redis_keys("io_intensive")[9]
        redis().delete(self._key)
        self._entry = RedBeatSchedulerEntry(
            f"test-{uuid4()}",
            "tasks.default.echo",
            schedule(timedelta(seconds=period)),
            options={"queue": "io_intensive", "priority": 9, "expires": 3600},
            app=app,
        )
        self._entry.save()
        self._entry.reschedule(datetime.now(UTC) - timedelta(seconds=period))  # due at once

    def remove(self) -> None:
        """Remove the entry and what was sent."""
        self._entry.delete()
        redis().delete(self._key)

    def intervals(self, more: int = 0, within: float = 60.0) -> list[float]:
        """Wait until more messages were sent; return the seconds from each to the next, of all."""
        return wait_for_messages(self._key, int(redis().llen(self._key)) + more, within)


@pytest.fixture
def scratch(request: pytest.FixtureRequest) -> Iterator[Scratch]:
    """Return an entry that is due every two seconds, or as often as the test's parameter says."""
    entry = Scratch(period=getattr(request, "param", 2.0))
    yield entry
    entry.remove()
