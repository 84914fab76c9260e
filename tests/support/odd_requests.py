"""Strategies for HTTP requests that no browser sends: odd heads, bodies, methods, lengths, encodings."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st

from support.odd_values import dumps, mutated, odd

CRLF = b"\r\n"
PATHS = (
    "/", "/healthz", "/status", "/metrics", "/events", "/history?range=1h", "/history?range=1e9",
    "/dead-letters?queue=celery",
    "/dead-letters?queue=%ff%00", "/dead-letters", "/failures",
    "/page/page.js", "/page/../page.py", "/page/%2e%2e/page.py",
    "/nosuch", "//", "",
    "*", "http://elsewhere/status", "/actions/", "/actions/pause", "/actions/resume", "/actions/scale",
    "/actions/drain",
    "/actions/replay", "/actions/purge", "/actions/retry", "/actions/nosuch", "/status?" + "a=1&" * 500,
    "/" + "x" * 10_000,
    "/\xff", "/%",
    "/status#x", "/\x00", "/healthz/", "/[",
)  # fmt: skip
METHODS = (
    "GET",
    "POST",
    "HEAD",
    "OPTIONS",
    "PUT",
    "DELETE",
    "TRACE",
    "CONNECT",
    "get",
    "",
    "G" * 5000,
    "\xff",
    "PRI",
    "GET GET",
)
VERSIONS = ("HTTP/1.1", "HTTP/1.0", "HTTP/0.9", "HTTP/2.0", "HTTP/9999999999.1", "HTTP/x", "", "http/1.1")
LENGTHS = ("0", "2", "-1", "x", "1e3", "5" * 5000, "4096", "4097", "", "+2", " 2 ", "0x2", "²", "2, 2")
HOSTS = (
    "127.0.0.1", "localhost:1", "attacker.example", "", "[::1]", "[", "[::1", "127.0.0.1:x", "\xff",
    "127.0.0.1\x00", "a" * 5000,
)  # fmt: skip
WISH = {
    "group": "default",
    "worker": "default-1@here",
    "queue": "celery",
    "min_workers": 1,
    "max_workers": 2,
    "by": "me",
    "undo": False,
}

ascii_texts = st.text(alphabet=st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=30)


@dataclass(frozen=True)
class Request:
    """What a client sends, and whether it then pauses, or leaves."""

    data: bytes
    leaves: bool
    """Whether it leaves without having read an answer."""


headers = st.one_of(
    st.tuples(st.just("Host"), st.sampled_from(HOSTS)),
    st.tuples(st.just("Content-Length"), st.sampled_from(LENGTHS)),
    st.tuples(
        st.just("Origin"),
        st.sampled_from(("http://127.0.0.1", "null", "http://[", "http://attacker.example", "://", "\xff")),
    ),
    st.tuples(
        st.just("Transfer-Encoding"), st.sampled_from(("chunked", "identity", "gzip, chunked", "\x0bchunked"))
    ),
    st.tuples(
        st.just("Authorization"),
        st.sampled_from(("Bearer x", "Bearer", "Basic \xff", "Bearer \u00fc", "x" * 5000)),
    ),
    st.tuples(st.just("Expect"), st.sampled_from(("100-continue", "x"))),
    st.tuples(st.just("Connection"), st.sampled_from(("keep-alive", "close", "upgrade", ""))),
    st.tuples(st.just("Sec-Fetch-Site"), st.sampled_from(("cross-site", "none", "same-origin", "\xff"))),
    st.tuples(st.just("Accept-Encoding"), st.sampled_from(("gzip", "gzip;q=x", "*" * 500))),
    st.tuples(st.just("Accept"), ascii_texts | st.just("application/openmetrics-text; version=99; q=nan")),
    st.tuples(ascii_texts, ascii_texts),
)
good_headers = [("Host", "127.0.0.1"), ("X-Celery-Fleet", "1")]
bodies = st.one_of(
    st.just(b""),
    mutated(st.just(WISH)).map(lambda request: dumps(request).encode()),
    odd.map(lambda value: dumps(value).encode()),
    st.binary(max_size=50),
    st.sampled_from(
        [b"\xff\xfe", b"[" * 4000, b"{}" * 3000, b"5\r\n{}\r\n0\r\n\r\n", b"ffffffffffffffff\r\n"]
    ),
)


def assemble(  # noqa: PLR0917  hypothesis passes them by position
    start: str, fields: list[tuple[str, str]], body: bytes, told: bool, end: bytes, leaves: bool
) -> Request:
    """Return a request; with `told` it says truly how long its body is."""
    if told:
        fields = [*fields, ("Content-Length", str(len(body)))]
    head = [start, *(f"{name}: {value}" for name, value in fields)]
    return Request(end.join(line.encode("latin-1", "replace") for line in head) + end + end + body, leaves)


starts = st.builds(
    lambda method, path, version: f"{method} {path} {version}".strip() if version else f"{method} {path}",
    st.sampled_from(METHODS[:2] * 6 + METHODS), st.sampled_from(PATHS) | ascii_texts,
    st.sampled_from(VERSIONS[:1] * 8 + VERSIONS),
) | ascii_texts  # fmt: skip
usual_wishes = st.builds(
    assemble,
    st.sampled_from([path for path in PATHS if path.startswith("/actions/")]).map("POST {} HTTP/1.1".format),
    st.just(good_headers), bodies, st.just(True), st.just(CRLF), st.just(False),
)  # fmt: skip
odd_requests = st.builds(
    assemble, starts, st.lists(headers, max_size=5).map(lambda found: [*good_headers,
    *found]) | st.lists(headers, max_size=5),
    bodies, st.booleans(), st.sampled_from([CRLF, CRLF, CRLF, CRLF, b"\n", b"\r"]), st.booleans(),
)  # fmt: skip
many_headers = st.integers(50, 2000).map(
    lambda number: Request(b"GET /status HTTP/1.1\r\n" + b"X: y\r\n" * number + CRLF, False)
)
noise = st.binary(max_size=200).map(lambda data: Request(data, False)) | st.sampled_from(
    [
        Request(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), False),
        Request(b"", True),
        Request(b"\r\n" * 500, False),
    ]
)
requests = usual_wishes | odd_requests | odd_requests | many_headers | noise
