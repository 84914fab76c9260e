"""URLs of brokers, result back ends and databases: what is not encoded in them, and the server they mean."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote

LOOKS_LIKE_ONE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
ENCODE = "encode it: {{ password | urlencode | replace('/', '%2F') }}"
# The schemes of servers that keep the messages as the workers need them.
BROKERS = ("redis", "rediss", "sentinel")
DEFAULT_PORTS = {"redis": 6379, "rediss": 6379, "sentinel": 26379}


class UrlError(ValueError):
    """A URL cannot be read as it was meant; says why without showing it."""


@dataclass(frozen=True)
class Url:
    """The parts of a URL, decoded."""

    scheme: str
    user: str
    password: str
    host: str
    port: int | None
    database: str
    """The number of a database of Redis."""


def parse(text: str) -> Url:
    """Return the parts of a URL.

    Raises:
        UrlError: It is none, or holds a character that must be encoded.
    """
    scheme, found, rest = text.partition("://")
    if not found or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]*", scheme):
        raise UrlError("is no URL; allowed: scheme://user:password@host:port/number")
    if re.search(r"[\s\x00-\x1f\x7f]", rest):
        raise UrlError(f"has a blank or a control character; {ENCODE}")
    if re.search(r"%(?![0-9A-Fa-f]{2})", rest):
        raise UrlError(f"has a % that begins no encoded character; {ENCODE}")
    authority, after = re.match(r"([^/?#]*)(.*)", rest).groups()  # type: ignore[union-attr]
    # An option of the query may be a file with an @ in its name.
    behind = re.sub(r"(?<=[?&])\w+=[^&#]*", "", after) if "@" in authority else after.split("?", 1)[0]
    if "@" in behind or authority.count("@") > 1:
        raise UrlError(f"has a character in its password that must be encoded (@ / ? # %); {ENCODE}")
    login, at, where = authority.rpartition("@")
    user, _, password = login.partition(":")
    if re.search(r"[\[\]]", login):
        raise UrlError(f"has a bracket in its password; {ENCODE}")
    host, port = _split(where, bool(at))
    try:
        user, password, host = (unquote(part, errors="strict") for part in (user, password, host))
    except UnicodeDecodeError as error:
        raise UrlError(f"has a % that begins no encoded character; {ENCODE}") from error
    number = re.match(r"/([0-9]+)", after)
    return Url(scheme.lower(), user, password, host, port, number[1] if number else "0")


def _split(where: str, has_login: bool) -> tuple[str, int | None]:
    """Return host and port.

    Raises:
        UrlError: They are none.
    """
    if where.count(":") > 1 and not re.search(r"[\[\]]", where):
        raise UrlError("has an IPv6 address without brackets; allowed: [2001:db8::1]:6379")
    match = re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*)(?::(.*))?", where)
    if not match:
        raise UrlError("has no host and port that can be read; allowed: host:port, [2001:db8::1]:port")
    host, port = match.groups()
    if not port:
        return host.strip("[]"), None
    if not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        hint = "" if has_login else f", unless a password needs encoding: {ENCODE}"
        raise UrlError(f"has a port that is none; allowed: from 1 to 65535{hint}")
    return host.strip("[]"), int(port)


def parts(text: str) -> list[str]:
    """Return the URLs of a text: several are joined by semicolons."""
    return [part.strip() for part in re.split(r";(?=[A-Za-z][A-Za-z0-9+.-]*://)", text)]


def broker_problem(part: str) -> str:
    """What is wrong with the scheme of a broker's URL; what is none is not shown, for it may be a secret."""
    allowed = ", ".join(f"{known}://" for known in BROKERS)
    if not LOOKS_LIKE_ONE.match(part):
        return f"is no URL; allowed: {allowed}"
    scheme = part.partition("://")[0]
    return "" if scheme.lower() in BROKERS else f"'{scheme[:20]}' is no supported broker; allowed: {allowed}"


def problems(text: str) -> Iterator[str]:
    """Say what is wrong with the URLs in a text, each thing once."""
    seen = set()
    for part in parts(text):
        try:
            parse(part)
        except UrlError as error:
            if str(error) not in seen:
                seen.add(str(error))
                yield str(error)
