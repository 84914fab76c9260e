"""What a launched worker says to systemd, and when."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery
from celery_autoscaler.protocol.systemd import notify
from support.processes.launched_workers import LaunchedWorkerFactory
from support.processes.services import wait_for


class Manager:
    """The end of the socket at which systemd would listen."""

    def __init__(self, address: Path) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(address))
        self.socket.settimeout(30)

    def next_message(self) -> list[str]:
        """Return the assignments of the next message."""
        return self.socket.recv(4096).decode().split("\n")


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(tmp_path / "notify")
    yield manager
    manager.socket.close()


def test_a_worker_is_ready_when_it_consumes(
    redis_url: str, launched_worker: LaunchedWorkerFactory, manager: Manager
) -> None:
    launched_worker("worker", "-Q", "first,second", "-c", "1", notify_socket=manager.address)

    assert manager.next_message() == ["READY=1", "STATUS=consuming first, second"]
    inspect = Celery(broker=redis_url).control.inspect(timeout=1, limit=1)
    # A worker listens to remote control a moment after it consumes.
    ((queues,),) = [wait_for(inspect.active_queues, "no worker answers").values()]
    assert sorted(queue["name"] for queue in queues) == ["first", "second"]


def test_a_worker_says_that_it_stops(launched_worker: LaunchedWorkerFactory, manager: Manager) -> None:
    worker = launched_worker("worker", "-c", "1", notify_socket=manager.address)
    manager.next_message()

    status = worker.stop()

    assert manager.next_message()[0] == "STOPPING=1"
    assert status == 0


def test_beat_is_ready_when_it_has_begun(launched_worker: LaunchedWorkerFactory, manager: Manager) -> None:
    launched_worker("beat", notify_socket=manager.address)

    assert manager.next_message()[0] == "READY=1"


def test_a_worker_with_beat_is_ready_when_it_consumes(
    launched_worker: LaunchedWorkerFactory, manager: Manager
) -> None:
    launched_worker("worker", "-B", "-c", "1", notify_socket=manager.address)

    assert manager.next_message() == ["READY=1", "STATUS=consuming celery"]


def test_a_worker_without_systemd_is_plain_celery(
    redis_url: str, launched_worker: LaunchedWorkerFactory
) -> None:
    launched_worker("worker", "-c", "1")
    app = Celery(broker=redis_url, backend=redis_url)

    assert app.send_task("celery.accumulate", args=(1, 2)).get(timeout=30) == [1, 2]


def test_an_abstract_socket_is_reached(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = f"celery-fleet-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as unix:
        unix.bind(f"\0{name}")
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")

        assert notify("READY=1", "STATUS=here")
        assert unix.recv(100) == b"READY=1\nSTATUS=here"


def test_nobody_is_told_outside_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)

    assert not notify("READY=1")


def test_a_worker_loads_neither_the_supervisor_nor_a_shell() -> None:
    # Whatever it loads, every start waits for and every worker keeps in memory.
    program = (
        "import sys\nfrom celery_autoscaler import launch\nsys.argv = ['celery', '--version']\n"
        "try: launch.main()\nexcept SystemExit: print(*sys.modules, sep='\\n')"
    )

    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)

    modules = set(loaded.stdout.splitlines())
    assert "celery.bin.worker" in modules
    for name in ("celery_autoscaler.supervisor.loop", "rich", "prometheus_client", "click_repl", "pygments"):
        assert name not in modules
