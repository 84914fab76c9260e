"""The page's server is bounded: in clients, in the time of each, and in what it reads from any."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from celery_autoscaler.web import server as http_server
from celery_autoscaler.web.requests import BODY_BYTES, HEAD_BYTES, HEADERS, RequestError, read_head
from celery_autoscaler.web.server import Server, listen
from hypothesis import given
from hypothesis import strategies as st
from support.processes.services import wait_for

HOST = "Host: 127.0.0.1"
ENOUGH = 30.0  # seconds


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer with the method, the path and the length of the body; misbehave where that is asked for."""
    path = environ["PATH_INFO"]
    if path == "/fail":
        raise KeyError("\x1b[31mno such thing")
    if path == "/much":
        start_response("200 OK", [])
        return [b"x" * 2**16] * 10_000
    text = f"{environ['REQUEST_METHOD']} {path} {len(environ['wsgi.input'].read())}".encode()
    start_response("200 OK", [("Content-Length", str(len(text)))])
    return [text]


@pytest.fixture
def server() -> Iterator[Server]:
    """Return a server of that application."""
    made = Server(listen("127.0.0.1:0"), application)
    made.start()
    yield made
    made.shutdown()
    made.server_close()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have clients little time."""
    for name in ("HEAD_SECONDS", "BODY_SECONDS", "SEND_SECONDS"):
        monkeypatch.setattr(http_server, name, 0.5)


def connect(server: Server) -> socket.socket:
    """Return a connection."""
    return socket.create_connection(server.server_address, timeout=ENOUGH)


def exchange(server: Server, request: bytes) -> bytes:
    """Send something; return all that comes back."""
    with closing(connect(server)) as connection:
        connection.sendall(request)
        return all_of(connection)


def all_of(connection: socket.socket) -> bytes:
    """Return all that a server sends until it closes."""
    found = b""
    while part := connection.recv(65536):
        found += part
    return found


def request(*headers: str, line: str = "GET / HTTP/1.1", host: bool = True, body: str = "") -> bytes:
    """Return a request."""
    return "\r\n".join([line, *([HOST] if host else []), *headers, "", body]).encode("latin-1")


# --- What is no request --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request(), 200),
        (request(line="GET /%C3%BC?a=b HTTP/1.1"), 200),
        (request(line="BREW / HTTP/1.0", host=False), 200),
        (request("Content-Length: 2", body="ab"), 200),
        (request("Content-Length: 0002", body="ab"), 200),
        (request("Content-Length: 2", "Expect: 100-continue", body="ab"), 200),
        (request("Content-Length: " + "9" * 5000, body="x"), 413),
        (request("Content-Length: " + "0" * 5000, body=""), 200),
        (request(f"Content-Length: {BODY_BYTES + 1}"), 413),
        (request("Content-Length: -1"), 400),
        (request("Content-Length: +1", body="x"), 400),
        (request("Content-Length: 1_0"), 400),
        (request("Content-Length: 0x1"), 400),
        (request("Content-Length: \xb2"), 400),
        (request("Content-Length:"), 400),
        (request("Content-Length: 1, 1", body="x"), 400),
        (request("Content-Length: 1", "content-length: 1", body="x"), 400),
        (request("Content-Length: 1", "Content-Length: 2", body="x"), 400),
        (request("Transfer-Encoding: chunked", body="0\r\n\r\n"), 411),
        (request(HOST), 400),
        (request(host=False), 400),
        (request("Authorization: Bearer a", "Authorization: Bearer b"), 400),
        (request("X_Celery_Fleet: page"), 400),
        (request(" folded"), 400),
        (request("no colon"), 400),
        (request("Bad Name: x"), 400),
        (request("A: \x00"), 400),
        (request("A: b\nC: d"), 400),
        (request("A: b\rC: d"), 400),
        (request(*[f"A{number}: x" for number in range(HEADERS + 1)]), 431),
        (request("A: " + "x" * HEAD_BYTES), 431),
        (b"x" * (HEAD_BYTES + 100), 431),
        (request(line="GET /" + "x" * 9000 + " HTTP/1.1"), 414),
        (request(line="GET / HTTP/2.0"), 400),
        (request(line="GET /"), 400),
        (request(line="GET  / HTTP/1.1"), 400),
        (request(line="/ GET HTTP/1.1"), 400),
        (request(line="GET http://127.0.0.1/ HTTP/1.1"), 400),
        (request(line="OPTIONS * HTTP/1.1"), 400),
        (request(line="GET /%00 HTTP/1.1"), 400),
        (request(line="GET /%0a HTTP/1.1"), 400),
        (request(line="GET /%ff HTTP/1.1"), 400),
        (request(line="GET /%zz HTTP/1.1"), 200),
        (request(line="GET /\xff HTTP/1.1"), 400),
        (request(line="G" * 33 + " / HTTP/1.1"), 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
        (b"\r\n\r\n", 400),
    ],
)  # fmt: skip
def test_whatever_comes_is_answered_with_a_status(server: Server, sent: bytes, status: int) -> None:
    answer = exchange(server, sent)

    assert answer.removeprefix(b"HTTP/1.1 100 Continue\r\n\r\n")[:12] == f"HTTP/1.1 {status}".encode()


@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([b"\r\n", b": ", b"GET / HTTP/1.1"]))))
def test_any_bytes_are_a_request_or_refused(parts: list[bytes]) -> None:
    try:
        head = read_head(b"".join(parts))
    except RequestError as error:
        status = error.status[:3]
    else:
        status = "200"
        assert head.path.startswith("/")
        assert head.environ(b"", "local")["PATH_INFO"] == head.path

    assert status in {"200", "400", "411", "413", "414", "431"}


def test_only_the_head_of_an_answer_is_sent_where_that_is_asked_for(server: Server) -> None:
    head, _, body = exchange(server, request(line="HEAD /x HTTP/1.1")).partition(b"\r\n\r\n")

    assert b"Content-Length: 9" in head
    assert body == b""


def test_an_error_is_told_in_one_line(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    assert exchange(server, request(line="GET /fail HTTP/1.1")).startswith(b"HTTP/1.1 500 ")

    [record] = caplog.records
    assert record.getMessage() == "/fail cannot be answered: KeyError('\\x1b[31mno such thing')"
    assert record.exc_info is None
    assert exchange(server, request()).startswith(b"HTTP/1.1 200 ")


# --- Who is slow ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("quick")
def test_a_client_that_sends_bytes_now_and_then_has_one_time_for_all(server: Server) -> None:
    with closing(connect(server)) as connection:
        begin = time.monotonic()
        answer = drip(connection, b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 1000)

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - begin < ENOUGH / 3


@pytest.mark.usefixtures("quick")
def test_a_body_that_never_comes_is_waited_for_once(server: Server) -> None:
    with closing(connect(server)) as connection:
        connection.sendall(request("Content-Length: 1000"))
        begin = time.monotonic()
        answer = drip(connection, b"x" * 999)

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert time.monotonic() - begin < ENOUGH / 3


def drip(connection: socket.socket, text: bytes) -> bytes:
    """Send bytes one by one until an answer comes; return it."""
    connection.settimeout(0.02)
    for byte in text:
        try:
            connection.send(bytes([byte]))
            return connection.recv(100)
        except TimeoutError:
            continue
    connection.settimeout(ENOUGH)
    return connection.recv(100)


def test_a_client_that_hangs_up_its_half_too_early_reads_why(server: Server) -> None:
    for part in (b"GET / HTTP/1.1\r\nHost", request("Content-Length: 3", body="ab")):
        with closing(connect(server)) as connection:
            connection.sendall(part)
            connection.shutdown(socket.SHUT_WR)
            assert all_of(connection).startswith(b"HTTP/1.1 400 ")


def test_a_client_that_sends_far_too_much_reads_why(server: Server) -> None:
    answer = exchange(server, request(f"Content-Length: {5 * 2**20}", body="x" * 5 * 2**20))

    assert answer.startswith(b"HTTP/1.1 413 ")


@pytest.mark.usefixtures("quick")
def test_a_client_that_says_nothing_is_let_go(server: Server) -> None:
    with closing(connect(server)) as connection:
        assert all_of(connection) == b""


@pytest.mark.usefixtures("quick")
def test_a_client_that_takes_nothing_is_let_go(server: Server) -> None:
    with closing(connect(server)) as connection:
        connection.sendall(request(line="GET /much HTTP/1.1"))
        wait_for(lambda: server._places._value == http_server.MOST_ANSWERED - 1, "it is not answered", ENOUGH)
        wait_for(lambda: server._places._value == http_server.MOST_ANSWERED, "it keeps its place", ENOUGH)


def test_a_thousand_slow_clients_keep_nobody_from_being_served(server: Server) -> None:
    server.most_waiting = 50
    with ExitStack() as stack:
        for number in range(1000):
            slow = stack.enter_context(closing(connect(server)))
            slow.sendall(b"GET / HTTP/1.1\r\nA")
            if number % 200 == 199:
                begin = time.monotonic()
                assert exchange(server, request()).startswith(b"HTTP/1.1 200 ")
                assert time.monotonic() - begin < ENOUGH / 10
                assert len(server._clients) <= 50


def test_where_no_file_is_left_the_server_goes_on(tmp_path: Path) -> None:
    """It runs in a process of its own, which may have few files open."""
    program = """
import resource, sys
from celery_autoscaler.web.server import Server, listen
from test_server import application
resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))
server = Server(listen("unix:" + sys.argv[1]), application)
server.most_waiting = 1000
print("ready", flush=True)
server.serve_forever()
"""
    path = str(tmp_path / "http")
    folders = [str(Path(__file__).parent), *sys.path]
    with (
        subprocess.Popen(
            [sys.executable, "-c", program, path],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PYTHONPATH": ":".join(folders)},
        ) as process,
        ExitStack() as stack,
    ):
        stack.callback(process.kill)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"

        def open_one() -> socket.socket:
            connection = stack.enter_context(closing(socket.socket(socket.AF_UNIX)))
            connection.settimeout(ENOUGH)
            connection.connect(path)
            return connection

        for _ in range(60):
            open_one()
        honest = open_one()
        honest.sendall(request())

        assert all_of(honest).startswith(b"HTTP/1.1 200 ")
        assert process.poll() is None


def test_only_so_many_requests_are_answered_at_a_time(server: Server) -> None:
    for _ in range(http_server.MOST_ANSWERED):
        assert server._places.acquire(blocking=False)

    assert exchange(server, request()).startswith(b"HTTP/1.1 503 ")

    server._places.release(http_server.MOST_ANSWERED)
    assert exchange(server, request()).startswith(b"HTTP/1.1 200 ")


def test_clients_are_fewer_than_files() -> None:
    server = Server(listen("127.0.0.1:0"), application)

    assert server.most_waiting + http_server.MOST_ANSWERED < http_server.open_files()
    server.server_close()
