"""The page of a supervisor: its files, its events, and what an operator can do with it.

Its files are no secret; what comes from Redis needs a token where there is one, and so do actions: see
:mod:`celery_autoscaler.web.access`.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from redis.exceptions import RedisError

from celery_autoscaler.operations import actions, failures
from celery_autoscaler.protocol.text import as_text
from celery_autoscaler.web.access import ACTION
from celery_autoscaler.web.feed import Feed, TooManyReadersError

logger = logging.getLogger(__name__)

FILES = Path(__file__).parent / "assets"
# The machine's own list could call them something else.
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = [
    ("Content-Security-Policy", POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-cache"),
]
# The largest request for an action.
MOST_REQUEST_BYTES = 4096
# How far the charts can look back.
RANGE_SECONDS = {"15m": 900.0, "1h": 3600.0, "6h": 6 * 3600.0, "24h": 24 * 3600.0}
# The name that a person may give in the log.
NAME = re.compile(r"[\w .@-]{1,40}")

# What the page asks for, and the completion of the command.
PATHS = ("/events", "/history", "/dead-letters", "/failures", "/names")

ActionRequest = Mapping[str, Any]
KINDS = {str: "a text", int: "a whole number", bool: "true or false"}


class WrongError(Exception):
    """A request that is not granted; the message says why."""

    def __init__(self, why: str, status: str = "400 Bad Request") -> None:
        super().__init__(why)
        self.status = status


def pause(feed: Feed, by: str, request: ActionRequest) -> str:
    """Pause a group, or all."""
    return actions.pause(
        feed.broker, actions.sender_of(by), optional(request, "group", str), feed.supervisor.app
    )


def resume(feed: Feed, by: str, request: ActionRequest) -> str:
    """Take a pause back."""
    return actions.resume(feed.broker, by, optional(request, "group", str), feed.supervisor.app)


def scale(feed: Feed, by: str, request: ActionRequest) -> str:
    """Change the bounds of a group; without any, back to its settings."""
    low, high = optional(request, "min_workers", int), optional(request, "max_workers", int)
    if low is not None and high is not None and low > high:
        raise WrongError(f"min_workers {low} is more than max_workers {high}")
    try:
        actions.refuse_bounds(required(request, "group"), low, high, {})
    except actions.Refused as error:
        raise WrongError(error.message) from error
    reset = low is None and high is None
    sender, group = actions.sender_of(by), required(request, "group")
    return actions.scale(feed.broker, sender, group, low, high, reset=reset, app=feed.supervisor.app)


def drain(feed: Feed, by: str, request: ActionRequest) -> str:
    """Drain a worker, or take that back."""
    return actions.drain(
        feed.broker, by, required(request, "worker"), undo=optional(request, "undo", bool) is True
    )


def replay(feed: Feed, by: str, request: ActionRequest) -> str:
    """Send the dead letters of a queue again."""
    return actions.replay(feed.broker, by, queue_with_dead_letters(feed, request), feed.supervisor.app)


def purge(feed: Feed, by: str, request: ActionRequest) -> str:
    """Delete the dead letters of a queue."""
    return actions.purge(feed.broker, by, queue_with_dead_letters(feed, request), feed.supervisor.app)


def retry(feed: Feed, by: str, request: ActionRequest) -> str:
    """Send the tasks of a kind of failure again."""
    found = failures.plan(feed.broker, failures.Which(kinds=(required(request, "kind"),)))
    if not (found.tasks or found.retried or found.not_kept):
        raise WrongError("no such failure is kept")
    sent = actions.retry(feed.broker, by, found.tasks, lambda: None)
    before = f"; {found.retried} were sent again before" if found.retried else ""
    return f"{sent} failed tasks sent again{before}"


# What a request may name, besides who sends it. A misspelt name must not mean all groups.
PARTS: Mapping[str, frozenset[str]] = {
    "pause": frozenset({"group"}), "resume": frozenset({"group"}), "drain": frozenset({"worker", "undo"}),
    "scale": frozenset({"group", "min_workers", "max_workers"}), "replay": frozenset({"queue"}),
    "purge": frozenset({"queue"}), "retry": frozenset({"kind"}),
}  # fmt: skip
ACTIONS: Mapping[str, Callable[[Feed, str, ActionRequest], str]] = {
    "pause": pause, "resume": resume, "scale": scale, "drain": drain, "replay": replay, "purge": purge,
    "retry": retry,
}  # fmt: skip


class Page:
    """Answers what concerns the page."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed

    def file(self, path: str) -> Path | None:
        """Return the file that a path names; nothing for another path."""
        name = "index.html" if path == "/" else path.removeprefix("/page/")
        return next((file for file in FILES.iterdir() if file.name == name), None)

    def respond(self, environ: Mapping[str, Any], path: str) -> tuple[str, Any]:
        """Do what is requested, or answer what is asked.

        Returns:
            The HTTP status, and the events or what is to be sent as JSON.
        """
        try:
            return "200 OK", self._respond(environ, path)
        except WrongError as error:
            return error.status, {"error": str(error)}
        except actions.Refused as error:
            return "409 Conflict", {"error": error.message}
        except RedisError as error:
            return "503 Service Unavailable", {"error": f"Redis: {error}"}

    def _respond(self, environ: Mapping[str, Any], path: str) -> Any:
        name = path.removeprefix(ACTION)
        if environ["REQUEST_METHOD"] != ("POST" if name in ACTIONS else "GET"):
            why = "actions are sent by POST, everything else by GET"
            raise WrongError(why, "405 Method Not Allowed")
        if name in ACTIONS:
            return {"done": self._do(environ, name)}
        return self._tell(environ, path)

    def _do(self, environ: Mapping[str, Any], name: str) -> str:
        request = read_request(environ)
        if wrong := sorted(request.keys() - PARTS[name] - {"by"}):
            raise WrongError(f"{as_text(wrong[0], 50)} is none of {', '.join(sorted(PARTS[name]))}")
        by = who(request)
        words = ACTIONS[name](self.feed, by, request)
        logger.info("By %s: %s", by, words)
        return words

    def _tell(self, environ: Mapping[str, Any], path: str) -> Any:
        query = {name: values[0] for name, values in parse_qs(environ.get("QUERY_STRING", "")).items()}
        if path == "/events":
            try:
                return self.feed.subscribe()
            except TooManyReadersError as error:
                raise WrongError("too many pages are open", "503 Service Unavailable") from error
        if path == "/dead-letters":
            return self.feed.dead_letters(query.get("queue", ""))
        if path == "/failures":
            return self.feed.failures()
        if path == "/names":
            return self.feed.names()
        if path == "/history":
            seconds = RANGE_SECONDS.get(query.get("range", "1h"))
            if seconds is None:
                raise WrongError(f"allowed is one of {', '.join(RANGE_SECONDS)}")
            return self.feed.history(seconds)
        raise WrongError(f"allowed is one of {', '.join(ACTIONS)}")


def content_type(file: Path) -> str:
    """Return the type of a file for a browser."""
    return f"{TYPES.get(file.suffix, 'text/plain')}; charset=utf-8"


def read_request(environ: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON object that a request brings.

    Raises:
        WrongError: It brings none.
    """
    length = environ.get("CONTENT_LENGTH") or "0"
    if not length.isdecimal() or int(length) > MOST_REQUEST_BYTES:
        raise WrongError(f"at most {MOST_REQUEST_BYTES} bytes are allowed")
    try:
        request = json.loads(environ["wsgi.input"].read(int(length)))
    except (ValueError, RecursionError):
        request = None
    if not isinstance(request, dict):
        raise WrongError("allowed is a JSON object")
    return request


def who(request: ActionRequest) -> str:
    """Return who sends a request: the page, after the name that the person gave.

    Raises:
        WrongError: This is no name.
    """
    name = optional(request, "by", str)
    if not name:
        return "the page"
    if not NAME.fullmatch(name):
        raise WrongError("a name has up to 40 letters, digits, spaces and . @ - _")
    return f"{name} on the page"


def optional(request: ActionRequest, name: str, kind: type) -> Any:
    """Return a part of a request; nothing if it is not there. One that is there has a value.

    Raises:
        WrongError: It is of another type.
    """
    value = request.get(name)
    if name in request and (type(value) is not kind or (kind is str and not is_unicode(value))):
        raise WrongError(f"{name} must be {KINDS[kind]}")
    return value


def is_unicode(value: Any) -> bool:
    """Return whether a text can be written down: JSON allows half a character."""
    return not any("\ud800" <= char <= "\udfff" for char in value)


def required(request: ActionRequest, name: str) -> str:
    """Return a text that a request must have.

    Raises:
        WrongError: It has not.
    """
    value = optional(request, name, str)
    if not value:
        raise WrongError(f"{name} is missing")
    return str(value)


def queue_with_dead_letters(feed: Feed, request: ActionRequest) -> str:
    """Return the queue that a request names.

    Raises:
        WrongError: It has no dead letters.
    """
    queue = required(request, "queue")
    actions.group_of_queue(feed.broker, queue, feed.supervisor.app)
    if not feed.broker.client.exists(feed.broker.keys.dead_letter(queue)):
        raise WrongError(f"queue {queue!r} has no dead letters")
    return queue
