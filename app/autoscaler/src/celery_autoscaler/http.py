"""What a supervisor says over HTTP: ``/healthz``, ``/metrics``, ``/status``, and its page."""

import hmac
import ipaddress
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from io import BufferedIOBase
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app

from celery_autoscaler import metrics
from celery_autoscaler.feed import Feed, Subscription
from celery_autoscaler.page import ACTION, HEADERS, PATHS, Page, content_type
from celery_autoscaler.settings import Settings, SettingsError
from celery_autoscaler.supervisor import Supervisor

# Seconds without a tick after which the supervisor is not healthy.
LATE = 10.0
# Seconds for a client to send its request.
PATIENCE = 5.0

StartResponse = Callable[[str, list[tuple[str, str]]], Any]


class Patient(BufferedIOBase):
    """Writes to a client."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def writable(self) -> bool:
        """Return that it can be written to."""
        return True

    def write(self, data: Any) -> int:
        """Send it.

        Raises:
            ConnectionError: The client has gone, or takes nothing.
        """
        try:
            self._connection.sendall(data)
        except TimeoutError as error:
            raise ConnectionAbortedError from error
        return len(data)


class Handler(WSGIRequestHandler):
    """Keeps requests out of the log, and does not wait for ever for one."""

    timeout = PATIENCE

    def setup(self) -> None:
        """Take a client that reads no more, such as one that sleeps, for one that has gone."""
        super().setup()
        self.wfile = Patient(self.connection)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the name is http.server's
        """Say nothing."""


class ThreadingServer(ThreadingMixIn, WSGIServer):
    """Serves each client in a thread of its own."""

    daemon_threads = True
    address_family = socket.AF_INET


class SixServer(ThreadingServer):
    """The same for IPv6."""

    address_family = socket.AF_INET6


class UnixServer(ThreadingServer):
    """The same on a Unix socket."""

    address_family = socket.AF_UNIX

    def server_bind(self) -> None:
        """Bind without asking for the name of a host."""
        UnixStreamServer.server_bind(self)
        self.server_name, self.server_port = "localhost", 0
        self.setup_environ()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Return a connection and the client's address, of which a Unix socket knows none."""
        connection, _ = super().get_request()
        return connection, ("local", 0)


class Application:
    """The WSGI application."""

    def __init__(self, supervisor: Supervisor, token: str = "", *, local_only: bool = False) -> None:
        self.supervisor = supervisor
        self.token = token
        self._page = Page(Feed(supervisor), local_only=local_only)
        self._metrics = make_wsgi_app(metrics.registry(supervisor))

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        path = environ["PATH_INFO"]
        if path == "/healthz":
            return self._health(start_response)
        if (file := self._page.file(path)) and environ["REQUEST_METHOD"] == "GET":
            text, kind = file.read_text(), content_type(file)
            return answer(start_response, "200 OK", text, content_type=kind, headers=HEADERS)
        if not self._is_allowed(environ):
            headers = [("WWW-Authenticate", "Bearer")]
            return answer(start_response, "401 Unauthorized", "a token is needed\n", headers=headers)
        if path in PATHS or path.startswith(ACTION):
            status, found = self._page.respond(environ, path)
            if isinstance(found, Subscription):
                start_response(status, [("Content-Type", "text/event-stream"), ("Cache-Control", "no-store")])
                return found
            return json_answer(start_response, status, found)
        return self._tell(environ, start_response, path)

    def _tell(self, environ: dict[str, Any], start_response: StartResponse, path: str) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "GET":
            return answer(start_response, "405 Method Not Allowed", "only GET is known here\n")
        if path == "/metrics":
            found: Iterable[bytes] = self._metrics(environ, start_response)
            return found
        if path == "/status":
            return json_answer(start_response, "200 OK", self.supervisor.status)
        return answer(start_response, "404 Not Found", "there are /, /healthz, /metrics and /status\n")

    def _health(self, start_response: StartResponse) -> Iterable[bytes]:
        late = time.monotonic() - self.supervisor.last_tick - self.supervisor.settings.tick
        if late > LATE:
            return answer(start_response, "503 Service Unavailable", f"the tick is late by {late:.0f} s\n")
        return answer(start_response, "200 OK", "ticking\n")

    def _is_allowed(self, environ: dict[str, Any]) -> bool:
        given = environ.get("HTTP_AUTHORIZATION", "")
        return not self.token or hmac.compare_digest(given.encode(), f"Bearer {self.token}".encode())


def json_answer(start_response: StartResponse, status: str, found: Any) -> list[bytes]:
    """Send an answer for a program."""
    return answer(start_response, status, json.dumps(found), content_type="application/json")


def answer(
    start_response: StartResponse,
    status: str,
    text: str,
    *,
    content_type: str = "text/plain; charset=utf-8",
    headers: Iterable[tuple[str, str]] = (),
) -> list[bytes]:
    """Send an answer."""
    body = text.encode()
    start_response(status, [("Content-Type", content_type), ("Content-Length", str(len(body))), *headers])
    return [body]


def serve(supervisor: Supervisor, settings: Settings) -> WSGIServer | None:
    """Begin to serve in a thread; nothing where `http` is empty.

    Raises:
        SettingsError: The address is open to others and no token is named, or it cannot be bound.
    """
    if not settings.http:
        return None
    token = read_token(settings.token_file)
    host, _, port = settings.http.rpartition(":")
    host = host.strip("[]")
    is_unix = settings.http.startswith("unix:")
    if not (is_unix or token or is_loopback(host)):
        raise SettingsError(
            f"http={settings.http!r} is wrong: allowed is an address of this host only (127.0.0.1, [::1], "
            "unix:/path), or any with a token_file"
        )
    application = Application(supervisor, token, local_only=not (token or is_unix))
    try:
        if is_unix:
            path = Path(settings.http.removeprefix("unix:"))
            path.unlink(missing_ok=True)
            server: WSGIServer = UnixServer(str(path), Handler)  # type: ignore[arg-type]
            os.chmod(path, 0o660)  # noqa: PTH101
            server.set_app(application)
        else:
            kind = SixServer if ":" in host else ThreadingServer
            server = make_server(host, int(port), application, server_class=kind, handler_class=Handler)
    except (OSError, OverflowError) as error:
        raise SettingsError(f"http={settings.http!r} cannot be served: {error}") from error
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    return server


def read_token(path: str) -> str:
    """Return the token from its file; nothing where no file is named.

    Raises:
        SettingsError: The file cannot be read or is empty.
    """
    if not path:
        return ""
    try:
        token = Path(path).read_text().strip()
    except OSError as error:
        raise SettingsError(f"token_file={path!r} cannot be read: {error.strerror}") from error
    if not token:
        raise SettingsError(f"token_file={path!r} is empty: allowed is a file with a token")
    return token


def is_loopback(host: str) -> bool:
    """Return whether an address is of this host only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
