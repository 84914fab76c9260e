"""The server behind the page: a bounded number of clients, each for a bounded time.

Decision: not a server of others. waitress and cheroot bound connections and sizes, but give a client time for
each byte and none for the whole head, so that a thousand slow ones occupy all places for any length of time;
and an open event stream holds one of their few threads. Nothing of the page needs keep-alive, chunks or TLS.
So the part that must not be wrong is small, and here: one thread reads heads and bodies of all clients and
waits for none; a request that is whole is answered in a thread of its own, of which there is a bounded
number. Where places run out, the client that came first of those who still wait gives way: those who ask at
once, as all real clients do, are served however many slow ones there are.
"""

import logging
import os
import resource
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

from celery_autoscaler.protocol.text import as_text
from celery_autoscaler.web.requests import HEAD_BYTES, Head, RequestError, read_head

logger = logging.getLogger(__name__)

# Seconds that a client has for its head, then for its body, and for taking what it is sent.
HEAD_SECONDS, BODY_SECONDS, SEND_SECONDS = 5.0, 5.0, 5.0
# Seconds in which a refused client may still send, until it reads why, and bytes that are thrown away.
LINGER_SECONDS, LINGER_BYTES = 5.0, 2**24
# Clients that have not said yet what they want; fewer where few files may be open.
MOST_WAITING = 256
# Requests that are answered at a time, open pages among them.
MOST_ANSWERED = 64
# Seconds between two looks for clients whose time is over.
SWEEP_SECONDS = 0.25
BACKLOG = 128

StartResponse = Callable[[str, list[tuple[str, str]]], Any]
Application = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]


@dataclass(eq=False)
class Client:
    """A client that has not sent all of its request, or reads why that was refused."""

    connection: socket.socket
    address: str
    deadline: float
    received: bytearray = field(default_factory=bytearray)
    head: Head | None = None
    refused: bool = False
    dropped: int = 0
    """Bytes thrown away since it was refused."""


class Server:
    """Reads requests in one thread, and answers each in a thread of its own."""

    def __init__(self, listener: socket.socket, application: Application) -> None:
        self.application = application
        self.most_waiting = min(MOST_WAITING, max(16, open_files() // 4))
        self._listener = listener
        listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = socket.socketpair()
        self._clients: dict[int, Client] = {}
        self._places = threading.BoundedSemaphore(MOST_ANSWERED)
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self.server_address = listener.getsockname()

    # --- Its life ----------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to serve in a thread."""
        threading.Thread(target=self.serve_forever, name="http", daemon=True).start()

    def serve_forever(self) -> None:
        """Serve until :meth:`shutdown` is called."""
        self._selector.register(self._listener, selectors.EVENT_READ, None)
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        swept = time.monotonic()
        while not self._stopping.is_set():
            for key, _ in self._selector.select(SWEEP_SECONDS if self._clients else None):
                if key.data is not None:
                    self._read(key.data)
                elif key.fileobj is self._listener:
                    self._accept()
            if time.monotonic() - swept >= SWEEP_SECONDS:
                swept = time.monotonic()
                self._sweep(swept)
        for client in list(self._clients.values()):
            self._forget(client)
        self._ended.set()

    def shutdown(self) -> None:
        """Serve no more; what is being answered goes on."""
        self._stopping.set()
        self._wake.send(b".")
        self._ended.wait(SEND_SECONDS)

    def server_close(self) -> None:
        """Give the address back."""
        self._selector.close()
        for each in (self._listener, self._wake, self._woken):
            each.close()

    # --- Reading -----------------------------------------------------------------------------------------

    def _accept(self) -> None:
        for _ in range(BACKLOG):
            try:
                connection, peer = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                # No file is left, or the client has gone already.
                logger.warning("A client cannot be accepted: %s", error)
                self._make_room()
                time.sleep(0.05)
                return
            if len(self._clients) >= self.most_waiting:
                self._make_room()
            connection.setblocking(False)
            address = str(peer[0]) if isinstance(peer, tuple) else "local"
            client = Client(connection, address, time.monotonic() + HEAD_SECONDS)
            self._clients[connection.fileno()] = client
            self._selector.register(connection, selectors.EVENT_READ, client)

    def _make_room(self) -> None:
        """Let the client go that came first of those that wait."""
        oldest = next(iter(self._clients.values()), None)
        if oldest is not None:
            if not oldest.refused:
                send_refusal(oldest.connection, "503 Service Unavailable", "there are too many clients")
            self._forget(oldest)

    def _sweep(self, now: float) -> None:
        """Let those go whose time is over."""
        for client in [client for client in self._clients.values() if client.deadline <= now]:
            if client.refused or not (client.received or client.head):
                self._forget(client)
            else:
                self._refuse(client, "408 Request Timeout", "the request did not come in time")

    def _read(self, client: Client) -> None:
        try:
            received = client.connection.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if client.refused:
            client.dropped += len(received)
        if not received and (client.received or client.head) and not client.refused:
            send_refusal(client.connection, "400 Bad Request", "the request ends before it is whole")
        if not received or client.dropped > LINGER_BYTES:
            self._forget(client)
        elif not client.refused:
            client.received += received
            try:
                self._advance(client)
            except RequestError as error:
                self._refuse(client, error.status, str(error))

    def _advance(self, client: Client) -> None:
        """Go on with a request as far as it has come.

        Raises:
            RequestError: It is refused.
        """
        if client.head is None:
            head, end, body = bytes(client.received).partition(b"\r\n\r\n")
            if len(head) > HEAD_BYTES:
                raise RequestError(
                    "431 Request Header Fields Too Large", f"at most {HEAD_BYTES} bytes are allowed"
                )
            if not end:
                return
            client.head = read_head(head)
            client.received = bytearray(body)
            client.deadline = time.monotonic() + BODY_SECONDS
            if client.head.awaits_leave and not body:
                with suppress(OSError):
                    client.connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if len(client.received) >= client.head.length:
            self._answer(client, client.head, bytes(client.received[: client.head.length]))

    def _refuse(self, client: Client, status: str, why: str) -> None:
        """Say why, and leave the client a moment to read it: a client cut off while sending reads nothing."""
        send_refusal(client.connection, status, why)
        client.refused, client.deadline = True, time.monotonic() + LINGER_SECONDS
        client.received.clear()

    def _forget(self, client: Client) -> None:
        self._release(client)
        client.connection.close()

    def _release(self, client: Client) -> None:
        self._clients.pop(client.connection.fileno(), None)
        with suppress(KeyError, ValueError):
            self._selector.unregister(client.connection)

    # --- Answering ---------------------------------------------------------------------------------------

    def _answer(self, client: Client, head: Head, body: bytes) -> None:
        """Answer a request in a thread.

        Raises:
            RequestError: Too many are being answered.
        """
        if not self._places.acquire(blocking=False):
            raise RequestError("503 Service Unavailable", "too many requests are being answered")
        environ = head.environ(body, client.address)
        thread = threading.Thread(
            target=self._run, args=(client.connection, environ), name="http-answer", daemon=True
        )
        self._release(client)
        try:
            thread.start()
        except RuntimeError as error:
            self._places.release()
            client.connection.close()
            logger.warning("A request cannot be answered: %s", error)

    def _run(self, connection: socket.socket, environ: dict[str, Any]) -> None:
        try:
            # Of all that is sent at once, not of each byte: a client that takes nothing keeps no thread.
            connection.settimeout(SEND_SECONDS)
            respond(connection, self.application, environ)
        except OSError:
            # The client has gone, or takes nothing.
            pass
        except Exception as error:  # noqa: BLE001  whatever was asked for, the server goes on
            logger.error("%s cannot be answered: %r", as_text(environ["PATH_INFO"], 200), error)  # noqa: TRY400
            with suppress(OSError):
                send_refusal(connection, "500 Internal Server Error", "see the log of the supervisor")
        finally:
            connection.close()
            self._places.release()


def respond(connection: socket.socket, application: Application, environ: dict[str, Any]) -> None:
    """Send what an application answers.

    Raises:
        OSError: The client has gone, or takes nothing.
    """
    head = b""

    def start_response(status: str, headers: list[tuple[str, str]]) -> None:
        nonlocal head
        lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers), "Connection: close"]
        head = "".join(f"{line}\r\n" for line in lines).encode("latin-1") + b"\r\n"

    found: Any = application(environ, start_response)
    with closing(found) if hasattr(found, "close") else nullcontext():
        if environ["REQUEST_METHOD"] == "HEAD":
            connection.sendall(head)
            return
        for part in found:
            connection.sendall(head + part)
            head = b""
        connection.sendall(head)


def send_refusal(connection: socket.socket, status: str, why: str) -> None:
    """Send a refusal as far as that goes without waiting, and nothing after it."""
    body = f"{why}\n".encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    with suppress(OSError):
        connection.send(head.encode() + body)
        connection.shutdown(socket.SHUT_WR)


def open_files() -> int:
    """Return how many files this process may have open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft if soft != resource.RLIM_INFINITY else 2**20


def listen(address: str) -> socket.socket:
    """Return a socket that listens on ``host:port`` or ``unix:/path``; the latter for its owner and group.

    Raises:
        OSError: It cannot be had.
        OverflowError: There is no such port.
    """
    if address.startswith("unix:"):
        path = address.removeprefix("unix:")
        with suppress(FileNotFoundError):
            os.unlink(path)  # noqa: PTH108
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        os.chmod(path, 0o660)  # noqa: PTH101
        listener.listen(BACKLOG)
        return listener
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()
    return socket.create_server((host, int(port)), family=family, backlog=BACKLOG, dualstack_ipv6=both)
