"""Read an HTTP request from bytes: what is not one, or is too long, is refused with the status that says so.

Stricter than a server of the web has to be. Clients are browsers, Prometheus and probes; whatever two parsers
could read differently is refused.
"""

import re
from dataclasses import dataclass
from io import BytesIO
from typing import Any
from urllib.parse import unquote_to_bytes

# Bytes of a request's line, of its whole head, and of its body.
LINE_BYTES, HEAD_BYTES, BODY_BYTES = 8 * 1024, 16 * 1024, 64 * 1024
# Headers of a request.
HEADERS = 100

TOKEN = rb"[A-Za-z0-9!#$%&'*+.^_`|~-]"
REQUEST = re.compile(TOKEN + rb"{1,32} [!-~]+ HTTP/1\.[01]")
NAME = re.compile(TOKEN + rb"{1,100}")
VALUE = re.compile(rb"[\t -~\x80-\xff]*")
# A second one of these could make two readers of one request disagree.
ONCE = frozenset(
    {
        *("authorization", "content-length", "content-type", "expect", "host", "origin"),
        *("sec-fetch-dest", "sec-fetch-mode", "sec-fetch-site", "transfer-encoding"),
    }
)


class RequestError(Exception):
    """A request that is refused before anybody looks at what it asks for."""

    def __init__(self, status: str, why: str) -> None:
        super().__init__(why)
        self.status = status


@dataclass(frozen=True)
class Head:
    """A request without its body."""

    method: str
    path: str
    """Decoded; without controls."""
    query: str
    headers: dict[str, str]
    """By name in lower case."""
    length: int
    """Bytes of the body."""

    @property
    def awaits_leave(self) -> bool:
        """Whether the client wants to be told to go on before it sends the body."""
        return self.headers.get("expect", "").lower() == "100-continue"

    def environ(self, body: bytes, address: str) -> dict[str, Any]:
        """Return the request for a WSGI application."""
        found: dict[str, Any] = {
            "REQUEST_METHOD": self.method,
            "SCRIPT_NAME": "",
            "PATH_INFO": self.path,
            "QUERY_STRING": self.query,
            "CONTENT_TYPE": self.headers.get("content-type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": address,
            "wsgi.input": BytesIO(body),
        }
        for name, value in self.headers.items():
            found["HTTP_" + name.upper().replace("-", "_")] = value
        return found


def read_head(text: bytes) -> Head:
    """Read a request up to the empty line, which is not part of it.

    Raises:
        RequestError: It is none, or too long.
    """
    line, *lines = text.split(b"\r\n")
    if len(line) > LINE_BYTES:
        raise RequestError("414 URI Too Long", f"a request line may have at most {LINE_BYTES} bytes")
    if not REQUEST.fullmatch(line):
        raise RequestError("400 Bad Request", "this is not an HTTP/1 request")
    method, target, version = line.split(b" ")
    if len(lines) > HEADERS:
        raise RequestError("431 Request Header Fields Too Large", f"at most {HEADERS} headers are allowed")
    headers: dict[str, str] = {}
    for each in lines:
        name, value = read_header(each)
        if name in headers and name in ONCE:
            raise RequestError("400 Bad Request", f"{name} is repeated")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    if "host" not in headers and version == b"HTTP/1.1":
        raise RequestError("400 Bad Request", "host is missing")
    path, _, query = target.partition(b"?")
    return Head(method.decode(), read_path(path), query.decode(), headers, body_length(headers))


def read_header(line: bytes) -> tuple[str, str]:
    """Return the name, in lower case, and the value of a header.

    Raises:
        RequestError: It is none.
    """
    name, colon, value = line.partition(b":")
    if not colon or not NAME.fullmatch(name) or not VALUE.fullmatch(value):
        raise RequestError("400 Bad Request", "a header is malformed")
    # Underscores: to an application, `A_B` and `A-B` are the same.
    if b"_" in name:
        raise RequestError("400 Bad Request", "allowed are names of headers without '_'")
    return name.decode().lower(), value.strip(b"\t ").decode("latin-1")


def read_path(path: bytes) -> str:
    """Return a path with its escapes decoded.

    Raises:
        RequestError: It is none, or has controls.
    """
    try:
        found = unquote_to_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise RequestError("400 Bad Request", "the path is not UTF-8") from error
    if not found.startswith("/") or re.search(r"[\x00-\x1f\x7f]", found):
        raise RequestError("400 Bad Request", "the path is malformed")
    return found


def body_length(headers: dict[str, str]) -> int:
    """Return the bytes of the body that follows.

    Raises:
        RequestError: It is too long, or its length is not said as a number.
    """
    if "transfer-encoding" in headers:
        raise RequestError("411 Length Required", "a body needs a Content-Length")
    length = headers.get("content-length", "0")
    if not re.fullmatch("[0-9]+", length):
        raise RequestError("400 Bad Request", "Content-Length is not a number")
    digits = length.lstrip("0") or "0"
    if len(digits) > len(str(BODY_BYTES)) or int(digits) > BODY_BYTES:
        raise RequestError("413 Content Too Large", f"at most {BODY_BYTES} bytes are allowed")
    return int(digits)
