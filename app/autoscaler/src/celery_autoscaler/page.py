"""The page of a supervisor: its files, its events, and what an operator can do with it.

Nothing of it is secret but what comes from Redis: with a token, events and wishes need it. Without one the
server answers this host only, and a site that a browser shows there must not pass for the page: names of
other hosts are refused, and so are wishes that another site could send.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from redis.exceptions import RedisError

from celery_autoscaler import operate
from celery_autoscaler.feed import Feed, TooManyReadersError

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
# A header that no other site can make a browser send.
OURS = "HTTP_X_CELERY_FLEET"
FORBIDDEN = "403 Forbidden"
# Bytes of a wish.
LONGEST = 4096
# Seconds that the charts can look back.
RANGES = {"15m": 900.0, "1h": 3600.0, "6h": 6 * 3600.0, "24h": 24 * 3600.0}
# What a person may call himself in the log.
NAME = re.compile(r"[\w .@-]{1,40}")

# What the page asks for, and where its wishes are sent.
PATHS = ("/events", "/history", "/letters")
ACTION = "/actions/"

Wish = Mapping[str, Any]


class WrongError(Exception):
    """A request that is not granted; the message says why."""

    def __init__(self, why: str, status: str = "400 Bad Request") -> None:
        super().__init__(why)
        self.status = status


def pause(feed: Feed, by: str, wish: Wish) -> str:
    """Pause a group, or all."""
    return operate.pause(feed.broker, by, optional(wish, "group", str))


def resume(feed: Feed, by: str, wish: Wish) -> str:
    """Take a pause back."""
    return operate.resume(feed.broker, by, optional(wish, "group", str))


def scale(feed: Feed, by: str, wish: Wish) -> str:
    """Change the bounds of a group; without any, back to its settings."""
    low, high = optional(wish, "minimum", int), optional(wish, "maximum", int)
    if (low is not None and low < 0) or (high is not None and high < 1):
        raise WrongError("allowed is a minimum from 0 and a maximum from 1")
    if low is not None and high is not None and low > high:
        raise WrongError(f"the minimum {low} is more than the maximum {high}")
    reset = low is None and high is None
    return operate.scale(feed.broker, by, required(wish, "group"), low, high, reset=reset)


def drain(feed: Feed, by: str, wish: Wish) -> str:
    """Drain a worker, or take that back."""
    return operate.drain(feed.broker, by, required(wish, "worker"), undo=wish.get("undo") is True)


def replay(feed: Feed, by: str, wish: Wish) -> str:
    """Send the dead letters of a queue again."""
    return operate.replay(feed.broker, by, queue_with_letters(feed, wish))


def purge(feed: Feed, by: str, wish: Wish) -> str:
    """Delete the dead letters of a queue."""
    return operate.purge(feed.broker, by, queue_with_letters(feed, wish))


ACTIONS: Mapping[str, Callable[[Feed, str, Wish], str]] = {
    "pause": pause, "resume": resume, "scale": scale, "drain": drain, "replay": replay, "purge": purge,
}  # fmt: skip


class Page:
    """Answers what concerns the page."""

    def __init__(self, feed: Feed, *, local_only: bool) -> None:
        self.feed = feed
        self.local_only = local_only
        """Whether it answers only to names of this host."""

    def file(self, path: str) -> Path | None:
        """Return the file that a path names; nothing for another path."""
        name = "index.html" if path == "/" else path.removeprefix("/page/")
        return next((file for file in FILES.iterdir() if file.name == name), None)

    def respond(self, environ: Mapping[str, Any], path: str) -> tuple[str, Any]:
        """Grant a wish or tell something.

        Returns:
            The HTTP status, and the events or what is to be sent as JSON.
        """
        try:
            return "200 OK", self._respond(environ, path)
        except WrongError as error:
            return error.status, {"error": str(error)}
        except operate.Refused as error:
            return "409 Conflict", {"error": error.message}
        except RedisError as error:
            return "503 Service Unavailable", {"error": f"Redis: {error}"}

    def _respond(self, environ: Mapping[str, Any], path: str) -> Any:
        name = path.removeprefix(ACTION)
        self._refuse_others(environ)
        if environ["REQUEST_METHOD"] != ("POST" if name in ACTIONS else "GET"):
            why = "wishes are sent by POST, all else is asked for by GET"
            raise WrongError(why, "405 Method Not Allowed")
        if name in ACTIONS:
            return {"done": self._do(environ, name)}
        return self._tell(environ, path)

    def _refuse_others(self, environ: Mapping[str, Any]) -> None:
        """Refuse what another site may have sent."""
        host, origin = environ.get("HTTP_HOST", ""), environ.get("HTTP_ORIGIN")
        if self.local_only and not is_local_name(host):
            raise WrongError(f"{host!r} is no name of this host: open http://127.0.0.1", FORBIDDEN)
        if origin is not None and urlsplit(origin).netloc != host:
            raise WrongError("another site may not ask", FORBIDDEN)
        if environ["REQUEST_METHOD"] == "POST" and OURS not in environ:
            raise WrongError("the header X-Celery-Fleet is missing", FORBIDDEN)

    def _do(self, environ: Mapping[str, Any], name: str) -> str:
        wish = read_wish(environ)
        by = who(environ, wish)
        words = ACTIONS[name](self.feed, by, wish)
        logger.info("On the page, by %s: %s", by, words)
        return words

    def _tell(self, environ: Mapping[str, Any], path: str) -> Any:
        query = {name: values[0] for name, values in parse_qs(environ.get("QUERY_STRING", "")).items()}
        if path == "/events":
            try:
                return self.feed.subscribe()
            except TooManyReadersError as error:
                raise WrongError("too many pages are open", "503 Service Unavailable") from error
        if path == "/letters":
            return self.feed.letters(query.get("queue", ""))
        if path == "/history":
            seconds = RANGES.get(query.get("range", "1h"))
            if seconds is None:
                raise WrongError(f"allowed is one of {', '.join(RANGES)}")
            return self.feed.history(seconds)
        raise WrongError(f"allowed is one of {', '.join(ACTIONS)}")


def is_local_name(host: str) -> bool:
    """Return whether a Host header names this host only, whatever the port: a tunnel may have another one."""
    return re.fullmatch(r"(localhost|127(\.[0-9]{1,3}){3}|\[::1\])(:[0-9]+)?", host) is not None


def content_type(file: Path) -> str:
    """Return the type of a file for a browser."""
    return f"{TYPES.get(file.suffix, 'text/plain')}; charset=utf-8"


def read_wish(environ: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON object that a request brings.

    Raises:
        WrongError: It brings none.
    """
    length = environ.get("CONTENT_LENGTH") or "0"
    if not length.isdecimal() or int(length) > LONGEST:
        raise WrongError(f"allowed are {LONGEST} bytes")
    try:
        wish = json.loads(environ["wsgi.input"].read(int(length)))
    except ValueError:
        wish = None
    if not isinstance(wish, dict):
        raise WrongError("allowed is a JSON object")
    return wish


def who(environ: Mapping[str, Any], wish: Wish) -> str:
    """Return who has a wish: the address, after the name that he gives himself.

    Raises:
        WrongError: This is no name.
    """
    address = environ.get("REMOTE_ADDR") or "local"
    name = optional(wish, "by", str)
    if not name:
        return str(address)
    if not NAME.fullmatch(name):
        raise WrongError("a name has up to 40 letters, digits, spaces and . @ - _")
    return f"{name} ({address})"


def optional(wish: Wish, name: str, kind: type) -> Any:
    """Return a part of a wish; nothing if it is not there.

    Raises:
        WrongError: It is of another type.
    """
    value = wish.get(name)
    if value is not None and type(value) is not kind:
        raise WrongError(f"{name} must be {'a text' if kind is str else 'a whole number'}")
    return value


def required(wish: Wish, name: str) -> str:
    """Return a text that a wish must have.

    Raises:
        WrongError: It has not.
    """
    value = optional(wish, name, str)
    if not value:
        raise WrongError(f"{name} is missing")
    return str(value)


def queue_with_letters(feed: Feed, wish: Wish) -> str:
    """Return the queue that a wish names.

    Raises:
        WrongError: It has no dead letters.
    """
    queue = required(wish, "queue")
    if not feed.broker.client.exists(feed.broker.keys.dead_letter(queue)):
        raise WrongError(f"queue {queue!r} has no dead letters")
    return queue
