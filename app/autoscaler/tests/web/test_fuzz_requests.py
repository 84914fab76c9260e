"""Odd requests on the page of a real supervisor: each is answered or refused, and the supervisor goes on."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from hypothesis import strategies as st
from support.fuzzing import fuzz, keep
from support.odd_requests import Request, requests
from support.processes.services import free_port, wait_for
from support.processes.supervisors import SupervisedFleet, Supervisor

BATCHES = 40
BATCH = 10
# Seconds in which a request is answered, on a slow machine; a client that sends no whole head gets less.
PATIENCE = 30.0
# Clients that send nothing, and clients that send a byte at a time.
SLOW = 60
GROWTH = 100 * 2**20
STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9]) ")


@dataclass
class Fuzzed:
    """A supervisor that serves its page."""

    supervisor: Supervisor
    port: int

    def check(self, batch: list[Request]) -> None:
        """Send requests side by side; keep them in a file if one of them hurts."""
        try:
            with ThreadPoolExecutor(BATCH) as executor:
                answers = list(executor.map(self.ask, batch))
            for request, answer in zip(batch, answers, strict=True):
                # A request without a version is of HTTP 0.9: its answer has no head.
                if answer and (status := STATUS.match(answer)):
                    assert int(status[1]) < 500 or status[1] == b"503", (request.data[:500], answer[:500])
            assert self.healthy(), self.state()
            assert "Traceback" not in self.supervisor.output(), self.state()
        except Exception:
            print(f"the requests are in {keep('requests', [each.data.decode('latin-1') for each in batch])}")  # noqa: T201
            raise

    def connect(self) -> socket.socket:
        """Connect to the page."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def ask(self, request: Request) -> bytes:
        """Send a request and close our half; return what came back, its beginning at least.

        Raises:
            TimeoutError: The server neither answers nor hangs up.
        """
        answer = b""
        with self.connect() as connection, suppress(ConnectionError):
            connection.sendall(request.data)
            if request.leaves:
                return b""
            connection.shutdown(socket.SHUT_WR)
            # Events never end.
            while len(answer) < 16 and (data := connection.recv(65536)):
                answer += data
        return answer

    def healthy(self) -> bool:
        """Whether the supervisor says that it ticks."""
        return self.ask(Request(b"GET /healthz HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n", False))[9:12] == b"200"

    def state(self) -> str:
        """Say what the supervisor has said."""
        return f"{self.supervisor.process.poll()}: {self.supervisor.tail(40)}"


@pytest.fixture
def fuzzed(redis_url: str, tmp_path: Path) -> Iterator[Fuzzed]:
    """Return a supervisor without workers that serves its page."""
    port = free_port()
    with SupervisedFleet(tmp_path, redis_url, redis_url.replace("/0", "/1")) as fleet:
        supervisor = fleet.start(http=f"127.0.0.1:{port}", group={"min_workers": 0, "max_workers": 1})
        made = Fuzzed(supervisor, port)

        def answers() -> bool:
            with suppress(OSError):
                return made.healthy()
            return False

        wait_for(answers, made.state)
        yield made


def test_an_odd_request_costs_its_client_alone(fuzzed: Fuzzed) -> None:
    process = psutil.Process(fuzzed.supervisor.process.pid)
    before = process.memory_info().rss

    fuzz(fuzzed.check, st.lists(requests, min_size=BATCH, max_size=BATCH), BATCHES)

    assert process.memory_info().rss - before < GROWTH
    # A client that left is forgotten.
    wait_for(lambda: process.num_fds() < 60, lambda: f"{process.num_fds()} open files", PATIENCE)
    wait_for(lambda: process.num_threads() < 40, lambda: f"{process.num_threads()} threads", PATIENCE)


def test_slow_clients_keep_nobody_else_waiting(fuzzed: Fuzzed) -> None:
    process = psutil.Process(fuzzed.supervisor.process.pid)
    with ExitStack() as stack:
        slow = [stack.enter_context(fuzzed.connect()) for _ in range(SLOW)]
        for connection in slow[::2]:
            connection.sendall(b"GET /status HTTP/1.1\r\nX-Slow: ")
        begin = time.monotonic()
        for _ in range(20):
            for connection in slow[::4]:
                with suppress(OSError):
                    connection.sendall(b"x")
            assert fuzzed.healthy(), fuzzed.state()
            time.sleep(0.1)
        assert time.monotonic() - begin < PATIENCE

    wait_for(lambda: process.num_fds() < 60, lambda: f"{process.num_fds()} open files", PATIENCE)
    assert fuzzed.healthy(), fuzzed.state()
