"""What a supervisor says over HTTP: ``/healthz``, ``/metrics``, ``/status``, and its page."""

import ipaddress
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from prometheus_client import make_wsgi_app

from celery_autoscaler.settings import Settings, SettingsError
from celery_autoscaler.supervisor.loop import Supervisor
from celery_autoscaler.web import metrics
from celery_autoscaler.web.access import ACTION, Access, access
from celery_autoscaler.web.feed import Feed, Subscription
from celery_autoscaler.web.health import LATE_SECONDS, Health
from celery_autoscaler.web.page import HEADERS, PATHS, Page, content_type
from celery_autoscaler.web.server import Server, listen

__all__ = ["LATE_SECONDS", "Application", "is_loopback", "serve"]

StartResponse = Callable[[str, list[tuple[str, str]]], Any]

READS = ("GET", "HEAD")


class Application:
    """The WSGI application."""

    def __init__(self, supervisor: Supervisor, who: Access) -> None:
        self.supervisor = supervisor
        self.access = who
        feed = Feed(supervisor)
        self.health = Health(supervisor, feed)
        self._page = Page(feed)
        self._metrics = make_wsgi_app(metrics.registry(supervisor))

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        """Answer a request."""
        path, method = environ["PATH_INFO"], environ["REQUEST_METHOD"]
        if path == "/healthz" and method in READS:
            return self._health(start_response)
        if why := self.access.foreign(environ):
            return json_answer(start_response, "403 Forbidden", {"error": why})
        return self._answer_site(environ, start_response, path, method)

    def _answer_site(
        self, environ: dict[str, Any], start_response: StartResponse, path: str, method: str
    ) -> Iterable[bytes]:
        """Answer a request that no other site has sent."""
        if (file := self._page.file(path)) and method in READS:
            text, kind = file.read_text(), content_type(file)
            return answer(start_response, "200 OK", text, content_type=kind, headers=HEADERS)
        if not self.access.may_read(environ):
            headers = [("WWW-Authenticate", "Bearer")]
            return answer(start_response, "401 Unauthorized", "a token is needed\n", headers=headers)
        if path.startswith(ACTION) and not self.access.may_act(environ):
            headers = [("WWW-Authenticate", 'Bearer error="insufficient_scope"')]
            why = "this token may read, but not act"
            return json_answer(start_response, "403 Forbidden", {"error": why}, headers=headers)
        return self._answer_allowed(environ, start_response, path)

    def _answer_allowed(
        self, environ: dict[str, Any], start_response: StartResponse, path: str
    ) -> Iterable[bytes]:
        """Answer a request that the token allows."""
        if path in PATHS or path.startswith(ACTION):
            status, found = self._page.respond(environ, path)
            if isinstance(found, Subscription):
                kinds = [("Content-Type", "text/event-stream"), ("Cache-Control", "no-store")]
                start_response(status, kinds)
                return found
            return json_answer(start_response, status, found)
        return self._tell(environ, start_response, path)

    def _tell(self, environ: dict[str, Any], start_response: StartResponse, path: str) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] not in READS:
            return answer(start_response, "405 Method Not Allowed", "only GET is known here\n")
        if path == "/metrics":
            found: Iterable[bytes] = self._metrics(environ, start_response)
            return found
        if path == "/status":
            return json_answer(start_response, "200 OK", self._status())
        return answer(start_response, "404 Not Found", "there are /, /healthz, /metrics and /status\n")

    def _status(self) -> dict[str, Any]:
        """Return what the supervisor says; of one whose tick hangs, that it is what was true then."""
        late = self.health.late()
        if late <= LATE_SECONDS:
            return self.supervisor.status.as_dict()
        why = f"the tick is late by {late:.0f} s: this is what was seen before"
        return replace(self.supervisor.status, state="stale", why=why).as_dict()

    def _health(self, start_response: StartResponse) -> Iterable[bytes]:
        if problem := self.health.problem():
            return answer(start_response, "503 Service Unavailable", f"{problem}\n")
        return answer(start_response, "200 OK", "ticking\n")


def json_answer(
    start_response: StartResponse, status: str, found: Any, headers: Iterable[tuple[str, str]] = ()
) -> list[bytes]:
    """Send an answer for a program."""
    text = json.dumps(found)
    headers = [("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff"), *headers]
    return answer(start_response, status, text, content_type="application/json", headers=headers)


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


def serve(supervisor: Supervisor, settings: Settings) -> Server | None:
    """Begin to serve in a thread; nothing where `http` is empty.

    Raises:
        SettingsError: The address is open to others and no token is named, or it cannot be bound.
    """
    if not settings.http:
        return None
    who = access(settings)
    host = settings.http.rpartition(":")[0].strip("[]")
    if not (settings.http.startswith("unix:") or who.act or who.read or is_loopback(host)):
        raise SettingsError(
            f"http={settings.http!r} is wrong: allowed is an address of this host only (127.0.0.1, [::1], "
            "unix:/path), or any with a token_file"
        )
    try:
        listener = listen(settings.http)
    except (OSError, OverflowError) as error:
        raise SettingsError(f"http={settings.http!r} cannot be served: {error}") from error
    server = Server(listener, Application(supervisor, who))
    server.start()
    return server


def is_loopback(host: str) -> bool:
    """Return whether an address is of this host only."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
