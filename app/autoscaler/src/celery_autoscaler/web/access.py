"""Who may ask over HTTP, and for what.

Two tokens: one reads (Prometheus, a wall display), the other reads and acts. Without any the server answers
this host only, where every user that can open a connection may act. Any site that a browser on this host
shows can make it ask: names of other hosts are refused (a site may let its name mean this host), and so
is what another site sends.
"""

import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from celery_autoscaler.protocol.text import as_text
from celery_autoscaler.settings import Settings, SettingsError

# Where requests for actions are sent.
ACTION = "/actions/"
# A header that no other site can make a browser send.
OURS = "HTTP_X_CELERY_FLEET"
# What Sec-Fetch-Site may say: the page itself, or a person who typed the address.
OWN_SITE = ("same-origin", "none")
SCHEME = b"bearer "


@dataclass(frozen=True)
class Access:
    """What must be sent to read, and to act."""

    act: str = ""
    read: str = ""
    local_only: bool = True
    """Whether it answers only to names of this host."""

    def foreign(self, environ: Mapping[str, Any]) -> str:
        """Return why another site may have sent a request; nothing if none has."""
        host, origin = environ.get("HTTP_HOST", ""), environ.get("HTTP_ORIGIN")
        if self.local_only and not is_local_name(host):
            return f"'{as_text(host, 100)}' is no name of this host: open http://127.0.0.1"
        if origin is not None and origin_host(origin) != host:
            return "another site may not ask"
        site = environ.get("HTTP_SEC_FETCH_SITE", "none")
        if site not in OWN_SITE and not is_link(environ):
            return "another site may not ask"
        if (
            environ["PATH_INFO"].startswith(ACTION)
            and environ["REQUEST_METHOD"] == "POST"
            and OURS not in environ
        ):
            return "the header X-Celery-Fleet is missing"
        return ""

    def may_read(self, environ: Mapping[str, Any]) -> bool:
        """Return whether a request may see what comes from Redis."""
        if not (self.act or self.read):
            return True
        given = given_token(environ)
        # Both are compared, whichever it is: the time says nothing.
        return bool(is_same(given, self.act) | is_same(given, self.read))

    def may_act(self, environ: Mapping[str, Any]) -> bool:
        """Return whether a request may change something."""
        if not (self.act or self.read):
            return True
        return is_same(given_token(environ), self.act)


def access(settings: Settings) -> Access:
    """Return who may ask, by the settings.

    Raises:
        SettingsError: A file cannot be read or holds no token, or both hold the same.
    """
    act = read_token("token_file", settings.token_file)
    read = read_token("read_token_file", settings.read_token_file)
    if act and act == read:
        raise SettingsError(
            f"read_token_file={settings.read_token_file!r} is wrong: allowed is a token other than "
            "that of token_file, because it must only permit reading"
        )
    is_unix = settings.http.startswith("unix:")
    return Access(act, read, local_only=not (act or read or is_unix))


def read_token(setting: str, path: str) -> str:
    """Return the token from the file that a setting names; nothing where none is named.

    Raises:
        SettingsError: The file cannot be read or holds no token.
    """
    if not path:
        return ""
    try:
        token = Path(path).read_bytes().strip()
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{setting}={path!r} cannot be read: {getattr(error, 'strerror', error)}"
        ) from error
    if not token:
        raise SettingsError(f"{setting}={path!r} is empty: allowed is a file with a token")
    if not re.fullmatch(rb"[!-~]{1,1000}", token):
        raise SettingsError(f"{setting}={path!r} is wrong: allowed is one token, ASCII without spaces")
    return token.decode()


def given_token(environ: Mapping[str, Any]) -> bytes:
    """Return the token that a request brings; nothing if none."""
    header: bytes = environ.get("HTTP_AUTHORIZATION", "").encode("latin-1", "replace")
    return header[len(SCHEME) :].strip() if header[: len(SCHEME)].lower() == SCHEME else b""


def is_same(given: bytes, token: str) -> bool:
    """Return whether a token is the one that is asked for, in a time that does not depend on it."""
    return hmac.compare_digest(given, token.encode()) and bool(token)


def is_local_name(host: str) -> bool:
    """Return whether a Host header names this host only, whatever the port: a tunnel may have another one."""
    return re.fullmatch(r"(localhost|127(\.[0-9]{1,3}){3}|\[::1\])(:[0-9]{1,5})?", host) is not None


def origin_host(origin: str) -> str | None:
    """Return the host and port of an origin; nothing of one that has none."""
    try:
        return urlsplit(origin).netloc or None
    except ValueError:
        return None


def is_link(environ: Mapping[str, Any]) -> bool:
    """Return whether a person follows a link from another site to the page: that site sees nothing of it."""
    return (
        environ["PATH_INFO"] == "/"
        and environ["REQUEST_METHOD"] == "GET"
        and environ.get("HTTP_SEC_FETCH_MODE") == "navigate"
        and environ.get("HTTP_SEC_FETCH_DEST") == "document"
    )
