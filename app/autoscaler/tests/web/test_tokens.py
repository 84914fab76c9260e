"""Who may ask over HTTP: one token reads, another acts, and no other site does either."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery_autoscaler.protocol.description import describe
from celery_autoscaler.settings import Group, Settings, SettingsError
from celery_autoscaler.supervisor.loop import Supervisor
from celery_autoscaler.web.access import Access, access, is_local_name
from celery_autoscaler.web.endpoints import serve
from redis import Redis

ACT, READ = "token-that-acts", "token-that-reads"
READING = ("/metrics", "/status", "/events", "/history", "/dead-letters?queue=celery", "/failures", "/names")
GROUPS = {"default": Group(name="default", queues=("celery",), min_workers=0)}


class Served:
    """Supervisors whose HTTP is served until the test ends."""

    def __init__(self, redis_url: str, folder: Path, stack: ExitStack) -> None:
        self.redis = stack.enter_context(closing(Redis.from_url(redis_url)))
        self.folder = folder
        self.stack = stack
        app = stack.enter_context(Celery("proj", broker=redis_url, set_as_current=False))
        self.supervisor = Supervisor(describe(app, "proj"), Settings(groups=GROUPS, hostname="here"))
        self.supervisor.tick()
        stack.callback(self.supervisor.launcher.close)
        self.address: tuple[str, int]

    def begin(self, **tokens: str) -> None:
        """Serve with tokens by the setting that names their file."""
        files: dict[str, Any] = {}
        for setting, token in tokens.items():
            (self.folder / setting).write_text(f"{token}\n")
            files[setting] = str(self.folder / setting)
        server = serve(self.supervisor, replace(Settings(groups=GROUPS, http="127.0.0.1:0"), **files))
        assert server is not None
        self.stack.callback(server.server_close)
        self.stack.callback(server.shutdown)
        self.address = server.server_address

    def ask(self, path: str, method: str = "GET", token: str = "", **headers: str) -> int:
        """Send a request; return the status."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        if token:
            sent["Authorization"] = f"Bearer {token}"
        with closing(http.client.HTTPConnection(*self.address, timeout=30)) as connection:
            connection.request(method, path, "{}" if method == "POST" else None, sent)
            return connection.getresponse().status

    def act(self, token: str = "", **headers: str) -> int:
        """Pause all groups, as the page does; return the status."""
        return self.ask("/actions/pause", "POST", token, X_Celery_Fleet="page", **headers)

    @property
    def acted(self) -> bool:
        """Whether anything was done."""
        return bool(self.redis.exists("fleet:overrides"))


@pytest.fixture
def served(redis_url: str, tmp_path: Path) -> Iterator[Served]:
    """Return a supervisor that has looked once."""
    with ExitStack() as stack:
        yield Served(redis_url, tmp_path, stack)


def test_the_token_that_reads_does_not_act(served: Served) -> None:
    served.begin(token_file=ACT, read_token_file=READ)

    for path in READING:
        assert [served.ask(path, token=token) for token in ("", "wrong", READ, ACT)] == [401, 401, 200, 200]
    assert [served.act(token) for token in ("", "wrong", READ)] == [401, 401, 403]
    assert not served.acted
    assert served.act(ACT) == 200
    assert served.acted


def test_without_a_token_that_acts_nobody_does(served: Served) -> None:
    served.begin(read_token_file=READ)

    assert served.ask("/status") == 401
    assert served.ask("/status", token=READ) == 200
    assert served.act(READ) == 403
    assert served.act() == 401
    assert not served.acted


def test_one_token_does_all_as_before(served: Served) -> None:
    served.begin(token_file=ACT)

    assert [served.ask(path, token=ACT) for path in READING] == [200] * len(READING)
    assert served.act(ACT) == 200


def test_without_tokens_only_this_host_is_answered_and_no_site_that_it_shows(served: Served) -> None:
    served.begin()
    paths = ("/", "/page/page.js", "/anything", *READING)

    for foreign in (
        {"Host": "attacker.example"},
        {"Host": "attacker.example:9541"},
        {"Host": "127.0.0.1.attacker.example"},
        {"Host": ""},
        {"Origin": "http://attacker.example"},
        {"Origin": "null"},
        {"Origin": "http://["},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "anything"},
    ):
        assert [served.ask(path, **foreign) for path in paths] == [403] * len(paths), foreign
        assert served.act(**foreign) == 403
        assert served.ask("/healthz", **foreign) == 200
    assert not served.acted
    for own in ({}, {"Sec_Fetch_Site": "same-origin"}, {"Sec_Fetch_Site": "none"}, {"Host": "localhost:1"}):
        assert served.ask("/status", **own) == 200
    assert served.act(Sec_Fetch_Site="same-origin") == 200


def test_a_link_from_another_site_opens_the_page_and_nothing_else(served: Served) -> None:
    served.begin()
    link = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}

    assert served.ask("/", **link) == 200
    assert served.ask("/status", **link) == 403
    assert served.act(**link) == 403
    assert served.ask("/", **link | {"Sec_Fetch_Dest": "iframe"}) == 403


def test_with_a_token_other_sites_are_refused_as_well(served: Served) -> None:
    served.begin(token_file=ACT)

    assert served.ask("/status", token=ACT, Host="fleet.example") == 200
    assert served.ask("/status", token=ACT, Host="fleet.example", Origin="https://fleet.example") == 200
    assert served.ask("/status", token=ACT, Host="fleet.example", Origin="https://evil.example") == 403
    assert served.act(ACT, Sec_Fetch_Site="cross-site") == 403


def test_only_the_whole_token_counts() -> None:
    both = Access(ACT, READ, local_only=False)

    for header in ("", ACT, f"Bearer {ACT}x", f"Bearer {ACT[:-1]}", "Bearer ", f"Basic {ACT}", "Bearer \xff"):
        assert not both.may_read({"HTTP_AUTHORIZATION": header})
        assert not both.may_act({"HTTP_AUTHORIZATION": header})
    assert both.may_act({"HTTP_AUTHORIZATION": f"bearer {ACT}"})
    assert not Access(read=READ).may_act({"HTTP_AUTHORIZATION": "Bearer "})
    assert not Access(read=READ).may_act({})


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\n", "is empty: allowed is a file with a token"),
        (b"two words", "is wrong: allowed is one token, ASCII without spaces"),
        (b"\xff\xfe", "is wrong: allowed is one token, ASCII without spaces"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_a_file_holds_one_token(tmp_path: Path, content: bytes | None, words: str) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)

    for setting in ("token_file", "read_token_file"):
        named: dict[str, Any] = {setting: str(path)}
        with pytest.raises(SettingsError) as refused:
            access(replace(Settings(groups={}), **named))
        assert refused.value.message == f"{setting}='{path}' {words}"


def test_the_two_tokens_differ(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(ACT)

    with pytest.raises(SettingsError, match=r"read_token_file=.* is wrong: allowed is a token other"):
        access(
            Settings(groups={}, token_file=str(tmp_path / "token"), read_token_file=str(tmp_path / "token"))
        )


def test_names_of_this_host_are_known() -> None:
    assert all(map(is_local_name, ("localhost", "localhost:9541", "127.0.0.1:1", "127.9.9.9", "[::1]:9541")))
    assert not any(
        map(is_local_name, ("", "localhost.", "127.0.0.1.x", "x@127.0.0.1", "[::2]", "localhost:"))
    )
