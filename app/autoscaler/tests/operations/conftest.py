"""An app, its command, and a supervisor that has looked once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from celery import Celery
from celery_autoscaler.protocol.description import describe
from celery_autoscaler.settings import Settings
from celery_autoscaler.supervisor.loop import Supervisor
from support.command_runs import GROUPS, Run, invoke


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    """Return an app."""
    with Celery("proj", broker=redis_url, set_as_current=False) as made:
        yield made


@pytest.fixture
def run(app: Celery) -> Run:
    """Return a function that runs a command that succeeds; what it prints comes in one line."""

    def command(*arguments: str) -> str:
        result = invoke(app, *arguments)
        assert result.exit_code == 0, result.output
        return " ".join(result.output.split())

    return command


@pytest.fixture
def refuse(app: Celery) -> Run:
    """Return a function that runs a command that fails, and returns why."""

    def command(*arguments: str) -> str:
        result = invoke(app, *arguments)
        assert result.exit_code != 0
        return result.output.splitlines()[-1]

    return command


@pytest.fixture
def supervise(app: Celery) -> Iterator[Callable[..., Supervisor]]:
    """Return a function that makes a supervisor which has looked once; it starts no worker."""
    with ExitStack() as stack:

        def look(**settings: Any) -> Supervisor:
            made = Supervisor(
                describe(app, "proj"),
                Settings(groups=GROUPS, hostname="here", memory_threshold=1, **settings),
            )
            stack.callback(made.launcher.close)
            made.tick()
            return made

        yield look
