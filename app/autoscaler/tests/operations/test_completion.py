"""Names that complete a command: those of the living status, in a moment, and never an error."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery_autoscaler.operations import completion
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis
from support.odd_values import mutated
from support.processes.process import clean_environment
from support.processes.supervisor_page import Supervise, neighbour, worker_status

KINDS = ("groups", "queues", "hosts", "workers")
NAMES: dict[str, Any] = {kind: ["default", "celery", "here", "default-1@here"] for kind in KINDS}


@pytest.fixture
def supervise(app: Celery) -> Iterator[Supervise]:
    """Return a function that starts a supervisor which serves its status."""
    with ExitStack() as stack:
        yield Supervise(app, stack)


def complete(config: Path, *words: str) -> list[str]:
    """Return what completes the last of some words, as bash asks for it."""
    done = subprocess.run(
        [sys.executable, "-m", "celery_autoscaler.fleet"],
        check=False,
        capture_output=True,
        text=True,
        env=clean_environment()
        | {
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "CELERY_AUTOSCALER_CONFIG": str(config),
            "_FLEET_COMPLETE": "bash_complete",
            "COMP_WORDS": " ".join(["fleet", *words]),
            "COMP_CWORD": str(len(words)),
        },
    )
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_names_are_those_of_the_living_status(tmp_path: Path, redis_url: str, supervise: Supervise) -> None:
    token = tmp_path / "token"
    token.write_text("token-that-acts")
    address = supervise(token_file=str(token)).removeprefix("http://").rstrip("/")
    with closing(Redis.from_url(redis_url, decode_responses=True)) as redis:
        neighbour(redis, worker_status(name="default-1@there"))
    supervise.supervisor.tick()
    config = tmp_path / "autoscaler.toml"
    config.write_text(f'http = "{address}"\ntoken_file = "{token}"\n')

    assert complete(config, "pause", "def") == ["default"]
    assert complete(config, "drain", "") == ["default-1@there", "here", "there"]
    assert complete(config, "replace", "default-1@t") == ["default-1@there"]
    assert complete(config, "dead-letter", "replay", "c") == ["celery"]
    assert complete(config, "dr") == ["drain"]
    assert "--undo" in complete(config, "drain", "--")


def test_a_supervisor_that_is_silent_or_away_completes_nothing_in_a_moment(tmp_path: Path) -> None:
    config = tmp_path / "autoscaler.toml"
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        config.write_text(f'http = "127.0.0.1:{silent.getsockname()[1]}"\n')
        began = time.monotonic()
        assert completion.ask(config) is None
        assert time.monotonic() - began < completion.WITHIN_SECONDS + 1
    for text in ('http = ""', 'http = "unix:/run/x"', 'http = "127.0.0.1:1"', "no toml", 'http = "a:99999"'):
        config.write_text(text)
        assert completion.ask(config) is None
    assert completion.ask(tmp_path / "missing") is None


@given(mutated(st.just(NAMES)))
def test_any_answer_gives_names_or_none(names: Any) -> None:
    for kind in KINDS:
        found = completion.items(completion.of_kind(names, kind) if isinstance(names, dict) else [], "")
        assert all(completion.WORD.fullmatch(item.value) for item in found)
