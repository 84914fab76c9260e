"""`status`: whether the workers keep up, once or watched."""

from __future__ import annotations

import json
import os
import pty
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from celery import Celery
from celery_autoscaler.protocol.status import SupervisorStatus, WorkerStatus
from celery_autoscaler.settings import Group
from celery_autoscaler.supervisor.fleet_status import FleetStatus
from celery_autoscaler.supervisor.loop import Supervisor
from support.command_runs import Run, invoke, send
from support.processes.launched_workers import write_app
from support.processes.process import clean_environment
from support.processes.services import wait_for


@contextmanager
def open_until_the_end(file: int) -> Iterator[None]:
    """Close a file after the block."""
    try:
        yield
    finally:
        os.close(file)


def test_without_a_supervisor_the_status_says_so(run: Run) -> None:
    assert run("status") == "NO SUPERVISOR no supervisor is alive: dead workers are not replaced"
    found = json.loads(run("status", "--json"))
    assert (found["verdict"], found["groups"], found["supervisors"]) == ("no supervisor", {}, {})


def test_the_status_says_first_whether_the_workers_keep_up(
    app: Celery, run: Run, supervise: Callable[..., Supervisor]
) -> None:
    supervise()
    assert run("status").startswith("KEEPING UP no tasks waiting")

    send(app, 3)
    supervise()
    shown = run("status")

    assert shown.startswith("KEEPING UP 3 tasks waiting, oldest 0.0 s")
    for words in ("Groups", "default", "slow", "0-4", "Queues", "celery", "empty: reports", "Hosts", "here"):
        assert words in shown


def test_a_missed_target_wait_is_what_the_status_says_first(
    app: Celery, run: Run, supervise: Callable[..., Supervisor]
) -> None:
    send(app, 3)
    supervisor = supervise()
    state = supervisor.groups["default"]
    state.group = Group(name="default", queues=("celery",), min_workers=0, target_wait=0.1)

    def late() -> bool:
        supervisor.tick()
        return state.seen.age > 0.2

    wait_for(late, "the tasks do not get older", 10.0)

    shown = run("status")
    assert shown.startswith("FALLING BEHIND the oldest task of default has waited ")
    assert "target wait 0.1 s; 3 tasks wait" in shown


def test_the_status_for_programs_holds_all_of_it(
    app: Celery, run: Run, supervise: Callable[..., Supervisor]
) -> None:
    send(app, 3)
    supervise()

    found = json.loads(run("status", "--json"))

    assert found["verdict"] == "keeping up"
    assert found["groups"]["default"]["waiting"] == 3
    assert found["groups"]["default"]["queues"]["celery"]["messages"] == 3
    assert found["supervisors"]["here"]["state"] == "supervising"


def test_workers_are_shown_in_the_order_of_their_numbers() -> None:
    names = ["general-10@a", "general-2@b", "general-2@a"]

    status = FleetStatus({"a": SupervisorStatus(workers=[WorkerStatus(name) for name in names])})

    assert [worker.name for worker in status.workers] == ["general-2@a", "general-2@b", "general-10@a"]


@pytest.mark.parametrize("key", ["q", "", "SIGINT"])
def test_the_status_is_watched_until_a_key_ends_it(
    tmp_path: Path, redis_url: str, supervise: Callable[..., Supervisor], key: str
) -> None:
    write_app(tmp_path)
    ours, theirs = pty.openpty()
    shown = b""

    def shows(words: bytes) -> bool:
        nonlocal shown
        if select.select([ours], [], [], 0)[0]:
            shown += os.read(ours, 10_000)
        return words in shown

    with open_until_the_end(ours):
        watching = subprocess.Popen(
            # What runs in the background of a shell ignores SIGINT, and so do its children.
            ["env", "--default-signal=INT", sys.executable, "-m", "celery_autoscaler.fleet", "watch"],
            cwd=tmp_path,
            env=clean_environment() | {"BROKER": redis_url, "TERM": "xterm", "CELERY_APP": "single"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        termios.tcsetwinsize(theirs, (12, 80))
        os.close(theirs)
        try:
            wait_for(lambda: shows(b"NO SUPERVISOR"), "nothing is shown", 30.0)
            supervisor = supervise()

            def changes() -> bool:
                # What it publishes stands for seconds only.
                supervisor.tick()
                return shows(b"KEEPING UP")

            wait_for(changes, "it does not change", 30.0)
            wait_for(lambda: shows(b"lines 1-11 of "), "it does not say where it is", 30.0)
            os.write(ours, b"\x1b[6~")  # PgDn
            wait_for(lambda: shows(b"Hosts"), "it does not scroll", 30.0)
            if key == "SIGINT":
                watching.send_signal(signal.SIGINT)
            else:
                os.write(ours, key.encode() or b"\x03")

            def has_ended() -> bool:
                # Who writes to a terminal that nobody reads never ends.
                with suppress(OSError):
                    shows(b"")
                return watching.poll() is not None

            wait_for(has_ended, "it does not end", 30.0)
            assert watching.returncode == 0
        finally:
            watching.kill()
            watching.wait()
    assert b"Traceback" not in shown


def test_without_a_terminal_nothing_is_watched(refuse: Run) -> None:
    assert refuse("watch") == "Error: watch needs a terminal; status prints the same once"


def test_the_exit_status_says_whether_the_workers_keep_up(
    app: Celery, run: Run, supervise: Callable[..., Supervisor]
) -> None:
    def status() -> int:
        return invoke(app, "status", "--exit-code").exit_code

    assert status() == 6
    supervisor = supervise()
    assert status() == 0
    run("pause", "default")
    supervisor.tick()
    assert status() == 5
    assert invoke(app, "status").exit_code == 0
