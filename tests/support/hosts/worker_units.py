"""Fixtures that stop and start the workers of the host under test: general-1, general-2, cpu-1, io-1."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

ALL = ("general-1", "general-2", "cpu-1", "io-1")


class Workers:
    """The workers of a host, by the names of their units' instances; no name means all."""

    def __init__(self, host: Any) -> None:
        self._host = host

    def stop(self, *names: str) -> None:
        """Stop workers and wait until they have ended."""
        self._host.check_output(f"systemctl stop {_units(names)}")

    def start(self, *names: str) -> None:
        """Start workers and wait until they consume."""
        self._host.check_output(f"systemctl start {_units(names)}")

    def restart(self, *names: str) -> None:
        """Stop workers and start them again."""
        self._host.check_output(f"systemctl restart {_units(names)}")

    def kill_child(self, name: str) -> None:
        """Kill the processes in which a worker executes tasks, as the kernel does when memory is short."""
        self._host.check_output(f"pkill -KILL --parent {self.property(name, 'MainPID')}")

    def property(self, name: str, of: str) -> str:
        """Return what systemd knows about a worker."""
        return str(self._host.check_output(f"systemctl show --property={of} --value {_units((name,))}"))

    def journal(self, name: str, since: float) -> str:
        """Return what a worker has printed since a time of the host's clock."""
        since_then = f"--since=@{since:.6f} --output=cat"
        return str(self._host.check_output(f"journalctl --no-pager {since_then} --unit={_units((name,))}"))


def _units(names: tuple[str, ...]) -> str:
    return " ".join(f"celery-worker@{name}.service" for name in names or ALL)


@pytest.fixture(scope="module")
def workers(host: Any) -> Iterator[Workers]:
    """Return the workers; all of them run before the first and after the last test of a module."""
    workers = Workers(host)
    workers.start()
    yield workers
    workers.start()


@pytest.fixture
def one_worker(workers: Workers) -> Iterator[Workers]:
    """Return the workers with general-1 as the only one for its queues: it executes one task at a time."""
    workers.stop("general-2")
    yield workers
    workers.start("general-1", "general-2")


@pytest.fixture
def no_worker(workers: Workers) -> Iterator[Workers]:
    """Return the workers, none of which runs."""
    workers.stop()
    yield workers
    workers.start()
