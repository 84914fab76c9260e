"""A supervisor without workers that serves its page, the page in a browser, and what others say in Redis."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

from celery import Celery
from celery_autoscaler.protocol.dead_letter import DeadLetter
from celery_autoscaler.protocol.decision import DecisionRecord
from celery_autoscaler.protocol.description import describe
from celery_autoscaler.settings import Group, Settings
from celery_autoscaler.supervisor.loop import Supervisor
from celery_autoscaler.web.endpoints import serve
from playwright.sync_api import (
    ConsoleMessage,
    Error,
    Page,
    Request,
    Response,
    expect,
)
from redis import Redis

GROUPS = {
    "default": Group(name="default", queues=("celery", "mails"), min_workers=0, max_workers=4),
    "quick": Group(name="quick", queues=("quick",), min_workers=0, target_wait=1.0),
    "slow": Group(name="slow", queues=("reports",), min_workers=0, max_workers=3, target_wait=60.0),
}


LOCAL = "127.0.0.1:0"


@dataclass
class Opened:
    """An open page, and what went over the network for it."""

    page: Page
    base: str
    requests: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def keep_request(self, request: Request) -> None:
        """Note a request."""
        self.requests.append(request.url)

    def keep_size(self, response: Response) -> None:
        """Note the bytes of a file."""
        if not response.url.endswith("/events"):
            self.sizes.append(int(response.headers.get("content-length", 0)))

    def keep_error(self, error: Error) -> None:
        """Note what the page's code did not expect."""
        self.complaints.append(str(error))

    def keep_message(self, said: ConsoleMessage) -> None:
        """Note an error that the browser reports."""
        if said.type == "error":
            self.complaints.append(said.text)

    def verdict(self, word: str, within: float = 10.0) -> None:
        """Wait until the page says so."""
        expect(self.page.locator("#verdict")).to_have_text(word, timeout=1000 * within)

    def row(self, table: str, name: str) -> list[str]:
        """Return the cells of the first row of a table that has such a name."""
        found = self.page.locator(f"#{table} tr", has=self.page.get_by_text(name, exact=True)).first
        return found.locator("td").all_inner_texts()

    def agree(self, *answers: str) -> None:
        """Click such buttons of the questions that follow, one after the other."""
        for text in answers:
            self.page.locator("#ask").get_by_role("button", name=text, exact=True).click()

    @property
    def decisions(self) -> str:
        """What the page lists of decisions and actions."""
        return self.page.locator("#decisions").inner_text()


class Supervise:
    """Runs supervisors that start no worker, and serves their pages."""

    def __init__(self, app: Celery, stack: ExitStack) -> None:
        self.app = app
        self.stack = stack
        self.supervisor: Supervisor

    def __call__(self, app: Celery | None = None, http: str = LOCAL, **further: Any) -> str:
        """Start one with further settings; return the address of its page."""
        # There is always more memory in use than that.
        settings = Settings(
            groups=GROUPS, hostname="here", memory_threshold=1, tick=0.5, http=http, **further
        )
        self.supervisor = Supervisor(describe(app or self.app, "proj"), settings)
        self.supervisor.start_monitoring()
        self.stack.callback(self.supervisor.stop_monitoring)
        server = serve(self.supervisor, settings)
        assert server is not None
        self.stack.callback(server.server_close)
        self.stack.callback(server.shutdown)
        return f"http://127.0.0.1:{server.server_address[1]}/"


def letter(task: str, arguments: str = "()", queue: str = "mails") -> str:
    """Return a dead letter as it stands in Redis."""
    message = json.dumps({"headers": {"task": task, "id": "1", "argsrepr": arguments}, "properties": {}})
    return json.dumps(asdict(DeadLetter(queue, "2026-11-25T10:00:00+00:00", "died", "w@here", 3, message)))


def decision(redis: Redis, at: float, **fields: str | int) -> None:
    """Let a supervisor have decided something."""
    entry: dict[Any, Any] = DecisionRecord(at=at, group="default", host="here").dump() | fields
    redis.xadd("fleet:decisions", entry)


def worker_status(**fields: Any) -> dict[str, Any]:
    """Return what a supervisor says of a worker."""
    return {
        "name": "default-1@there", "group": "default", "state": "ready", "why": "", "pid": 1, "active": 1,
        "reserved": 0, "processed": 7, "failed": 0, "outdated": False, "memory": 2**26, "release": "r1",
        "running": [],
    } | fields  # fmt: skip


def neighbour(redis: Redis, worker: Mapping[str, Any], **status: Any) -> None:
    """Let another supervisor say that it has a worker."""
    said = {
        "host": "there", "at": time.time(), "state": "supervising", "why": "", "cpus": 4, "capacity": 4,
        "cpu": 12.0, "memory": 34.0, "memory_limit": 2**30, "tick": {"every": 1.0, "took": 0.01}, "redis": "",
        "groups": {}, "workers": [worker_status(**worker)],
    } | status  # fmt: skip
    redis.hset("fleet:supervisor:there", mapping={"weight": 4, "limits": "{}", "status": json.dumps(said)})
    redis.zadd("fleet:supervisors", {"there": (time.time() + 60) * 1000})
