"""Who may ask a supervisor for its page and what it shows."""

from __future__ import annotations

import http.client
import json
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from celery_autoscaler.web.feed import READERS
from redis import Redis
from support.processes.services import wait_for
from support.processes.supervisor_page import (
    Supervise,
)

TOO_MANY = "slow: min_workers 4 is more than its max_workers 3: set both"
NO_QUEUE = "no queue named 'nobody'; there are: celery, mails, quick, reports"


def test_with_a_token_the_page_asks_for_it_once(supervise: Supervise, tmp_path: Path, open_page: Any) -> None:
    (tmp_path / "token").write_text("s3cret")
    opened = open_page(supervise(http="0.0.0.0:0", token_file=str(tmp_path / "token")))

    for token in ("wrong", "s3cret"):
        opened.page.get_by_role("textbox", name="Token").fill(token)
        opened.page.get_by_role("button", name="Open").click()
    opened.verdict("Keeping up")
    opened.page.reload()
    opened.verdict("Keeping up")

    assert not any("s3cret" in url for url in opened.requests)
    assert all("401" in complaint for complaint in opened.complaints)
    opened.complaints.clear()


@dataclass(frozen=True)
class Client:
    """Asks without a browser."""

    base: str

    def ask(self, path: str, method: str = "GET", body: str = "", **headers: str) -> tuple[int, Any]:
        """Send a request; return the status and the JSON."""
        address = urlsplit(self.base).netloc
        with closing(http.client.HTTPConnection(address, timeout=10)) as connection:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            return response.status, json.loads(response.read() or "null")

    def request(self, action: str, body: str = "{}", **headers: str) -> tuple[int, Any]:
        """Tell what is wanted, as the page does."""
        return self.ask(f"/actions/{action}", "POST", body, **({"X_Celery_Fleet": "page"} | headers))


@pytest.mark.parametrize("path", ["/events", "/history", "/dead-letters?queue=mails", "/actions/pause"])
def test_a_token_is_needed_for_all_that_comes_from_redis(
    supervise: Supervise, tmp_path: Path, path: str, redis: Redis
) -> None:
    (tmp_path / "token").write_text("s3cret")
    base = supervise(http="0.0.0.0:0", token_file=str(tmp_path / "token"))
    with closing(http.client.HTTPConnection(urlsplit(base).netloc, timeout=10)) as connection:
        connection.request("POST" if "actions" in path else "GET", path, headers={"X-Celery-Fleet": "page"})
        assert connection.getresponse().status == 401
    assert redis.hlen("fleet:overrides") == 0


def test_other_sites_can_neither_ask_nor_act(supervise: Supervise, redis: Redis) -> None:
    client = Client(supervise())
    own = urlsplit(client.base).netloc

    for headers in (
        {"Host": "evil.example:9541"},
        {"Host": "127.0.0.1.evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
    ):
        assert client.request("pause", **headers)[0] == 403, headers
        assert client.ask("/history", **headers)[0] == 403, headers
    # What a form or an image of another site can send.
    assert client.ask("/actions/pause", "POST", "{}")[0] == 403
    assert client.ask("/actions/pause")[0] == 405
    assert redis.hlen("fleet:overrides") == 0
    assert client.request("pause", Origin=f"http://{own}")[0] == 200
    assert client.ask("/history", Host="localhost:1234")[0] == 200


@pytest.mark.parametrize(
    ("action", "body", "status", "error"),
    [
        ("pause", "[]", 400, "allowed is a JSON object"),
        ("pause", "{", 400, "allowed is a JSON object"),
        ("pause", " " * 5000, 400, "at most 4096 bytes are allowed"),
        ("pause", '{"group": 7}', 400, "group must be a text"),
        ("pause", '{"group": "nobody"}', 409, "no group named 'nobody'; there are: default, quick, slow"),
        ("pause", '{"by": "a\\nb"}', 400, "a name has up to 40 letters, digits, spaces and . @ - _"),
        ("scale", '{"group": "slow", "max_workers": "9"}', 400, "max_workers must be a whole number"),
        ("scale", '{"group": "slow", "max_workers": 0}', 400, "slow: max_workers 0: allowed is 1 to 10000"),
        ("scale", '{"group": "slow", "min_workers": true}', 400, "min_workers must be a whole number"),
        ("scale", '{"group": "slow", "min_workers": 4}', 409, TOO_MANY),
        (
            *("scale", '{"group": "slow", "max_workers": 10001}', 400),
            "slow: max_workers 10001: allowed is 1 to 10000",
        ),
        ("pause", '{"grup": "slow"}', 400, "grup is none of group"),
        ("pause", '{"group": null}', 400, "group must be a text"),
        ("pause", '{"group": "\\ud800"}', 400, "group must be a text"),
        ("pause", "[" * 4000, 400, "allowed is a JSON object"),
        ("replay", '{"queue": "nobody"}', 409, NO_QUEUE),
        ("drain", "{}", 400, "worker is missing"),
        ("drain", '{"worker": "a@b"}', 409, "no worker named 'a@b'; there are none"),
        ("purge", '{"queue": "mails"}', 400, "queue 'mails' has no dead letters"),
        ("replay", '{"queue": "mails"}', 400, "queue 'mails' has no dead letters"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_refused_in_words(
    supervise: Supervise, action: str, body: str, status: int, error: str
) -> None:
    client = Client(supervise())
    wait_for(lambda: supervise.supervisor.broker.client.zscore("fleet:supervisors", "here"), "it is silent")

    assert client.request(action, body) == (status, {"error": error})


def test_only_so_many_pages_are_open_and_a_closed_one_makes_room(supervise: Supervise) -> None:
    client = Client(supervise())

    with ExitStack() as stack:
        for _ in range(READERS):
            connection = http.client.HTTPConnection(urlsplit(client.base).netloc, timeout=10)
            stack.callback(connection.close)
            connection.request("GET", "/events")
            assert connection.getresponse().status == 200
        assert client.ask("/events")[0] == 503
    room = http.client.HTTPConnection(urlsplit(client.base).netloc, timeout=10)
    with closing(room):

        def is_open() -> bool:
            room.close()
            room.request("GET", "/events")
            return room.getresponse().status == 200

        wait_for(is_open, "no place was given back")
