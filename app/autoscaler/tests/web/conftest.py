"""A browser, and supervisors whose pages it opens."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest
from celery import Celery
from playwright.sync_api import (
    Browser,
    sync_playwright,
)
from redis import Redis
from support.processes.supervisor_page import (
    Opened,
    Supervise,
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return the distribution's Chromium."""
    path = shutil.which("chromium")
    assert path, "Chromium is missing: run scripts/browser"
    with sync_playwright() as playwright:
        # The sandbox of Chromium refuses to run as root.
        made = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Opened]]:
    """Return a function that opens a page; in the end none may have complained or gone elsewhere."""
    opened: list[Opened] = []
    with ExitStack() as stack:

        def begin(base: str, **options: Any) -> Opened:
            context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
            stack.callback(context.close)
            made = Opened(context.new_page(), base)
            opened.append(made)
            made.page.on("request", made.keep_request)
            made.page.on("response", made.keep_size)
            made.page.on("pageerror", made.keep_error)
            made.page.on("console", made.keep_message)
            made.page.goto(base)
            return made

        yield begin
        for one in opened:
            assert one.complaints == []
            assert [url for url in one.requests if not url.startswith(one.base)] == []


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    """Return an app with three priority steps."""
    with Celery("proj", broker=redis_url, set_as_current=False) as made:
        made.conf.broker_transport_options = {"priority_steps": [0, 3, 6]}
        yield made


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    """Return a connection of the test's own."""
    with closing(Redis.from_url(redis_url, decode_responses=True)) as made:
        yield made


@pytest.fixture
def supervise(app: Celery) -> Iterator[Supervise]:
    """Return a function that starts a supervisor and returns the address of its page."""
    with ExitStack() as stack:
        yield Supervise(app, stack)
