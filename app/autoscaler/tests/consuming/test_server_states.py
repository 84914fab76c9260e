"""A server that refuses commands for a while ends no worker and repeats no task."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

import pytest
from celery_autoscaler.protocol.server_state import is_refusal
from redis import Redis, RedisError, exceptions
from support.processes.counted_tasks import Fleet, NewFleet
from support.processes.refusing_servers import alone, full, replica
from support.processes.services import RedisServer, RedisServerFactory, wait_for

State = Callable[[RedisServer], AbstractContextManager[None]]
# Seconds for which the server refuses: longer than the tasks that run meanwhile.
REFUSES = 2.0
RUNS = 1.0


@pytest.fixture
def server(redis_server_factory: RedisServerFactory) -> RedisServer:
    """Return a broker of the test's own; tasks are counted on another server."""
    return redis_server_factory()


@contextmanager
def stale_replica(server: RedisServer) -> Iterator[None]:
    """MASTERDOWN: a replica without its primary, that serves nothing old."""
    with Redis.from_url(server.url) as client:
        client.config_set("replica-serve-stale-data", "no")
        with replica(server):
            yield
        client.config_set("replica-serve-stale-data", "yes")


@contextmanager
def busy(server: RedisServer) -> Iterator[None]:
    """BUSY: it runs a script without an end."""

    def run() -> None:
        with Redis.from_url(server.url) as own, suppress(RedisError):
            own.eval("while true do end", 0)

    with Redis.from_url(server.url) as client:
        client.config_set("lua-time-limit", 50)
        thread = threading.Thread(target=run)
        thread.start()
        yield
        client.script_kill()
        thread.join()


@contextmanager
def locked(server: RedisServer) -> Iterator[None]:
    """NOAUTH: it asks new connections for a password, and ends the others."""
    with Redis.from_url(server.url) as client:
        client.config_set("requirepass", "secret")
        client.client_kill_filter(_type="normal", skipme=True)
        yield
        client.config_set("requirepass", "")


STATES: list[State] = [replica, stale_replica, busy, full, alone, locked]


class UnixSocket:
    """A Unix socket that leads to a server."""

    def __init__(self, path: Path, server: RedisServer) -> None:
        self._server = (server.host, server.port)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self.url = f"redis+socket://{path}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accept no more connections."""
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):  # closed
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._server)
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture(params=["TCP", "a Unix socket"])
def connected(
    request: pytest.FixtureRequest, server: RedisServer, new_fleet: NewFleet, tmp_path: Path
) -> Iterator[Fleet]:
    """Return a fleet whose workers reach the server over this kind of connection."""
    fleet = new_fleet({"worker_prefetch_multiplier": 2}, broker_url=server.url)
    if request.param == "TCP":
        yield fleet
        return
    way = UnixSocket(tmp_path / "redis.sock", server)
    fleet.broker_url = way.url
    yield fleet
    way.close()


@pytest.mark.versions
def test_a_server_that_refuses_commands_ends_no_worker_and_repeats_no_task(
    server: RedisServer, connected: Fleet
) -> None:
    tasks = connected.tasks
    worker = connected.start(concurrency=1)

    for state in STATES:
        running = tasks.send(1, RUNS)
        tasks.wait_until_started(running)
        waiting = tasks.send(3)
        with state(server):
            tasks.wait_until_ended(running)
            time.sleep(REFUSES)
        outcome = tasks.settle(running + waiting)

        assert outcome.exactly_once, (state.__doc__, outcome)
        assert worker.process.poll() is None, state.__doc__
    assert tasks.left() == {}
    assert "Fenced" not in worker.output()


@pytest.mark.parametrize("state", [replica, full], ids=["read-only", "full"])
def test_a_worker_starts_and_stops_while_its_server_refuses_commands(
    server: RedisServer, new_fleet: NewFleet, state: State
) -> None:
    fleet = new_fleet(broker_url=server.url)
    ids = fleet.tasks.send(3)
    with state(server):
        worker = fleet.start(concurrency=1, ready=False)
        worker.wait_for_output("refuse|takes no writes|not allowed|read only|Trying again|full")
        time.sleep(REFUSES)
        assert worker.process.poll() is None
    assert fleet.tasks.settle(ids).exactly_once

    ids = fleet.tasks.send(1, RUNS)
    fleet.tasks.wait_until_started(ids)
    with state(server):
        assert worker.stop() == 0
    fleet.start(concurrency=1)
    # What ended while nobody could say so runs again, once the lease is over.
    wait_for(lambda: fleet.tasks.left() == {}, lambda: f"{fleet.tasks.left()}")
    assert not fleet.tasks.outcome(ids).lost


@pytest.mark.parametrize(
    "error",
    [
        exceptions.ReadOnlyError("You can't write against a read only replica."),
        exceptions.ResponseError("BUSY Redis is busy running a script."),
        exceptions.ResponseError("-READONLY You can't write against a read only replica."),
        exceptions.ResponseError("Command # 1 (SADD a b) of pipeline caused error: MISCONF Redis is"),
        exceptions.OutOfMemoryError("Command # 1 (LLEN celery) of pipeline caused error: not allowed"),
        exceptions.ExecAbortError("Transaction discarded because of: OOM command not allowed"),
        exceptions.ResponseError(
            "Error running script (call to f_1): @user_script:3: @user_script: 3: -READONLY You can't write"
        ),
    ],
)
def test_a_state_of_the_server_is_told_however_it_is_worded(error: Exception) -> None:
    assert is_refusal(error)


@pytest.mark.parametrize(
    "text",
    ["WRONGTYPE Operation against a key", "BUSYGROUP Consumer Group name already exists", "unknown OOM x"],
)
def test_an_error_of_the_command_is_no_state_of_the_server(text: str) -> None:
    assert not is_refusal(exceptions.ResponseError(text))
