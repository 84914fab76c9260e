"""What operators see and set from the command line, by either of its names."""

from __future__ import annotations

import getpass
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery_autoscaler import cli
from celery_autoscaler.protocol.broker import connect
from celery_autoscaler.protocol.overrides import Override
from celery_autoscaler.settings import Group, Settings
from celery_autoscaler.supervisor.fleet_status import FleetStatus
from celery_autoscaler.supervisor.loop import Supervisor
from celery_autoscaler.supervisor.observation import Observer
from celery_autoscaler.supervisor.policy.estimates import Work
from click.testing import CliRunner, Result
from support.processes.launched_workers import write_app
from support.processes.process import clean_environment
from support.processes.services import RedisServerFactory, wait_for

GROUPS = {
    "default": Group(name="default", queues=("celery",), min_workers=0, max_workers=4),
    "slow": Group(name="slow", queues=("reports",), min_workers=0, max_workers=2),
}
# Nothing to be said against these.
GOOD = {"task_acks_late": True, "task_reject_on_worker_lost": True, "worker_prefetch_multiplier": 1}

Run = Callable[..., str]


def invoke(app: Celery, *arguments: str) -> Result:
    """Run a command on an app."""
    [name, *rest] = arguments
    command = cli.main.commands[name]
    return CliRunner().invoke(command, rest, obj=cli.Context(app, "proj"))


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
                app, "proj", Settings(groups=GROUPS, hostname="here", memory_threshold=1, **settings)
            )
            stack.callback(made.launcher.close)
            made.tick()
            return made

        yield look


def overrides(app: Celery) -> dict[str, Override]:
    """Return what operators have set, as the supervisors see it."""
    return dict(Observer(connect(app), GROUPS.values()).look().overrides)


@contextmanager
def open_until_the_end(file: int) -> Iterator[None]:
    """Close a file after the block."""
    try:
        yield
    finally:
        os.close(file)


def send(app: Celery, number: int) -> None:
    """Send tasks."""
    for _ in range(number):
        app.send_task("t", ignore_result=True)


# --- Both names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        ("celery_autoscaler.cli", "-A", "single"),
        ("celery", "-A", "single", "autoscaler"),
        ("celery", "-A", "single.app", "autoscaler"),
    ],
)
def test_the_command_is_known_by_both_its_names(
    tmp_path: Path, redis_url: str, app: Celery, command: tuple[str, ...]
) -> None:
    write_app(tmp_path)

    done = subprocess.run(
        [sys.executable, "-m", *command, "pause", "default"],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=clean_environment() | {"BROKER": redis_url},
    )

    assert (done.returncode, done.stdout) == (0, "default: paused\n"), done.stderr
    assert overrides(app) == {"default": Override(paused=True, by=getpass.getuser())}


def test_an_app_that_is_not_there_is_named_in_one_line() -> None:
    result = CliRunner().invoke(cli.main, ["-A", "not_there", "status"])

    assert (result.exit_code, result.output) == (1, "Error: -A not_there: No module named 'not_there'\n")


@pytest.mark.parametrize("broker", ["redis://127.0.0.1:1/0", "memory://"])
def test_a_broker_that_cannot_be_used_is_told_in_one_line(broker: str) -> None:
    with Celery("proj", broker=broker, set_as_current=False) as app:
        result = invoke(app, "status")

    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1


# --- status --------------------------------------------------------------------------------------------


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


def test_a_broken_promise_is_what_the_status_says_first(
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

    status = FleetStatus({"a": {"workers": [{"name": name} for name in names]}})

    assert [worker["name"] for worker in status.workers] == ["general-2@a", "general-2@b", "general-10@a"]


def test_the_status_is_watched_until_it_is_interrupted(
    tmp_path: Path, redis_url: str, supervise: Callable[..., Supervisor]
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
            [
                *("env", "--default-signal=INT", sys.executable, "-m", "celery_autoscaler.cli"),
                *("-A", "single", "status", "--watch"),
            ],
            cwd=tmp_path,
            env=clean_environment() | {"BROKER": redis_url, "TERM": "xterm"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        try:
            wait_for(lambda: shows(b"NO SUPERVISOR"), "nothing is shown", 30.0)
            supervisor = supervise()

            def changes() -> bool:
                # What it publishes stands for seconds only.
                supervisor.tick()
                return shows(b"KEEPING UP")

            wait_for(changes, "it does not change", 30.0)
            watching.send_signal(signal.SIGINT)

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


# --- explain -------------------------------------------------------------------------------------------


def test_nothing_decided_is_said(run: Run) -> None:
    assert run("explain") == "No decisions yet."


def test_decisions_are_explained_in_words(
    app: Celery, run: Run, supervise: Callable[..., Supervisor]
) -> None:
    send(app, 20)
    supervisor = supervise(tick=0.1)

    def decided() -> bool:
        supervisor.tick()
        return bool(connect(app).client.exists("fleet:decisions"))

    wait_for(decided, "nothing was decided", 20.0)
    shown = run("explain")

    assert f"{time.gmtime().tm_year}-" in shown
    assert " UTC default 0 → " in shown
    assert "20 tasks wait" in shown
    assert "held back on here: memory is used to" in shown
    assert shown.startswith(run("explain", "default"))
    assert run("explain", "slow").endswith("slow keeps 0: No tasks waiting, none running")


def test_as_many_decisions_are_explained_as_are_asked_for(app: Celery, run: Run, refuse: Run) -> None:
    for number in range(5):
        group = "slow" if number == 3 else "default"
        fields = {
            "at": 1.7e9 + number, "host": "here", "group": group, "have": 1, "want": 2, "here": 1,
            "reason": f"reason {number}", "held_back": "", "emergency": 0, "seen": "{}",
        }  # fmt: skip
        connect(app).client.xadd("fleet:decisions", fields)

    shown = run("explain", "-n", "2")
    assert shown == (
        "2023-11-14 22:13:23 UTC slow 1 → 2, here starts 1: reason 3 "
        "2023-11-14 22:13:24 UTC default 1 → 2, here starts 1: reason 4"
    )
    of_one = run("explain", "-n", "2", "default")
    assert [f"reason {number}" in of_one for number in range(5)] == [False, False, True, False, True]
    assert "Invalid value for '-n'" in refuse("explain", "-n", "0")


# --- pause, resume, scale ------------------------------------------------------------------------------


def test_a_pause_is_set_and_taken_back(app: Celery, run: Run) -> None:
    assert run("pause", "default") == "default: paused"
    assert overrides(app)["default"].paused

    assert run("resume", "default") == "default: resumed"
    assert overrides(app) == {}


def test_a_pause_for_all_cannot_be_taken_back_for_one(app: Celery, run: Run, refuse: Run) -> None:
    assert run("pause") == "all groups: paused"

    assert refuse("resume", "default") == (
        "Error: all groups are paused, not default alone: resume all of them"
    )
    assert list(overrides(app)) == ["*"]


def test_resuming_all_takes_every_pause_back_and_keeps_the_bounds(app: Celery, run: Run) -> None:
    run("scale", "slow", "--max-workers", "9")
    for group in ((), ("default",), ("slow",)):
        run("pause", *group)

    assert run("resume") == "all groups: resumed"

    assert overrides(app) == {"slow": Override(max_workers=9, by=getpass.getuser())}


def test_bounds_are_changed_one_by_one_and_reset_together(app: Celery, run: Run) -> None:
    assert run("scale", "default", "--min-workers", "2") == "default: min_workers 2"
    assert run("scale", "default", "--max-workers", "5") == "default: min_workers 2, max_workers 5"
    assert overrides(app)["default"] == Override(min_workers=2, max_workers=5, by=getpass.getuser())

    assert run("scale", "default", "--reset") == "default: bounds reset to the settings"
    assert overrides(app) == {}


def test_a_supervisor_obeys(app: Celery, run: Run, supervise: Callable[..., Supervisor]) -> None:
    send(app, 100)
    supervisor = supervise()
    run("scale", "default", "--max-workers", "2")
    supervisor.tick()
    assert supervisor.groups["default"].decision.want == 2

    run("pause")
    supervisor.tick()

    assert supervisor.groups["default"].decision.limit == "paused"
    assert run("status").startswith("PAUSED default, slow: paused by ")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("scale", "default"), "give --min-workers, --max-workers or --reset"),
        (
            ("scale", "default", "--min-workers", "3", "--max-workers", "2"),
            "--min-workers 3 is more than --max-workers 2",
        ),
        (("scale", "default", "--max-workers", "0"), "default: max_workers 0: allowed is 1 to 10000"),
        (("scale", "default", "--min-workers", "-1"), "default: min_workers -1: allowed is 0 to 10000"),
        (
            ("scale", "default", "--max-workers", "1000000000"),
            "default: max_workers 1000000000: allowed is 1 to 10000",
        ),
        (
            ("scale", "default", "--min-workers", "9"),
            "default: min_workers 9 is more than its max_workers 4: set both",
        ),
        (("scale", "nobody", "--min-workers", "1"), "no group named 'nobody'; there are: default, slow"),
        (("pause", "nobody"), "no group named 'nobody'; there are: default, slow"),
        (("pause", "slwo"), "no group named 'slwo' (did you mean slow?); there are: default, slow"),
        (("resume", "nobody"), "no group named 'nobody'; there are: default, slow"),
        (("explain", "nobody"), "no group named 'nobody'; there are: default, slow"),
        (("drain", "default-9@here"), "no worker named 'default-9@here'; there are none"),
        (("drain", "nohost"), "no host named 'nohost'; there are: here"),
        (("drain", "nohost", "--undo"), "no host named 'nohost'; there are: here"),
        (("replace", "nobody@x"), "no worker named 'nobody@x'; there are none"),
        (("replace", "default-9@here"), "no worker named 'default-9@here'; there are none"),
        (("recover", "nobody"), "no worker named 'nobody'; there are none"),
        (("dead-letter", "list", "nobody"), "no queue named 'nobody'; there are: celery, reports"),
        (("dead-letter", "replay", "nobody"), "no queue named 'nobody'; there are: celery, reports"),
        (("dead-letter", "purge", "--yes", "nobody"), "no queue named 'nobody'; there are: celery, reports"),
    ],
)
def test_what_makes_no_sense_is_refused(
    app: Celery, refuse: Run, supervise: Callable[..., Supervisor], arguments: tuple[str, ...], words: str
) -> None:
    supervise()

    assert words in refuse(*arguments)
    assert overrides(app) == {}


def test_a_worker_is_drained_and_no_longer(app: Celery, run: Run) -> None:
    client = connect(app).client
    client.zadd("fleet:workers", {"default-1@here:1": (time.time() + 5) * 1000})

    assert run("drain", "default-1@here") == "default-1@here: draining"
    assert client.smembers("fleet:drain") == {b"default-1@here"}

    assert run("drain", "--undo", "default-1@here") == "default-1@here: drain cancelled"
    assert client.smembers("fleet:drain") == set()


# --- check ---------------------------------------------------------------------------------------------


def test_a_project_as_it_should_be_passes(redis_server_factory: RedisServerFactory) -> None:
    server = redis_server_factory("--appendonly", "yes", "--dir", "/tmp")  # noqa: S108  in its container
    with Celery("proj", broker=server.url, set_as_current=False) as app:
        app.conf.update(GOOD)
        result = invoke(app, "check")

    assert (result.exit_code, result.output) == (0, "No problems found.\n")


def check(app: Celery, *arguments: str, **settings: Any) -> Result:
    """Check an app that is good but for some settings."""
    app.conf.update(GOOD | settings)
    return invoke(app, "check", *arguments)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"task_acks_late": False}, "error: task_acks_late is off"),
        ({"task_reject_on_worker_lost": False}, "error: task_reject_on_worker_lost is off"),
        ({"worker_prefetch_multiplier": 4}, "warning: worker_prefetch_multiplier=4: tasks wait behind"),
        (
            {"broker_transport_options": {"visibility_timeout": 60}},
            "warning: visibility_timeout=60: the workers of this fleet need none",
        ),
        (
            {"task_time_limit": 3600},
            "warning: default: drain_timeout=600 is shorter than task_time_limit=3600",
        ),
        ({}, "warning: Redis has no append-only file"),
    ],
)
def test_settings_that_cost_tasks_or_time_are_named(
    app: Celery, settings: dict[str, Any], words: str
) -> None:
    result = check(app, **settings)

    assert words in result.output
    assert result.exit_code == int("error" in words)


def test_a_signal_that_interrupts_tasks_is_an_error(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REMAP_SIGTERM", "SIGQUIT")

    result = check(app)

    assert result.exit_code == 1
    assert result.output.startswith("error: REMAP_SIGTERM=SIGQUIT: stopping a worker interrupts its tasks\n")


def test_queues_and_groups_that_do_not_match_are_named(app: Celery, tmp_path: Path) -> None:
    path = tmp_path / "autoscaler.toml"
    path.write_text(
        '[groups.mails]\nqueues = ["mials"]\noptions = { autoscale = "2,8" }\nmax_workers = 9000\n'
    )

    result = check(app, "-c", str(path))

    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert lines[0] == "error: queue celery of the app belongs to no group: its tasks wait forever"
    assert lines[1] == "error: mails: autoscale=2,8 is the wrong way round: it is max,min"
    assert "warning: queue mials is none of the app's (task_queues): is the name right?" in lines
    assert any("clients; at their maximum the workers need about 90000" in line for line in lines)


def test_a_server_that_drops_tasks_when_it_is_full_is_an_error(
    redis_server_factory: RedisServerFactory,
) -> None:
    server = redis_server_factory("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    with Celery("proj", broker=server.url, set_as_current=False) as app:
        result = check(app)

    assert result.exit_code == 1
    assert "error: Redis has maxmemory-policy allkeys-lru: when it is full it drops tasks" in result.output


def test_what_was_measured_is_compared_with_the_settings(
    app: Celery, supervise: Callable[..., Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIN_WORKERS", "0")
    supervisor = supervise()
    state = supervisor.groups["default"]
    state.startup.add(12.0)
    state.meter.work = Work(tasks=10.0, seconds=9000.0)
    supervisor.tick()

    shown = invoke(app, "check").output

    assert "default: its tasks take 900 s in the mean, longer than drain_timeout=600" in shown
    # A child is a fork of the worker that has imported the app: its start is not the worker's.
    assert "worker_proc_alive_timeout" not in shown
    assert "default: a start takes 12 s: with min_workers=0 the target wait of 10 s cannot be met" in shown


def test_wrong_settings_are_told_in_one_line(app: Celery, tmp_path: Path) -> None:
    path = tmp_path / "autoscaler.toml"
    path.write_text("tick = 0")

    result = check(app, "-c", str(path))

    assert result.output == (f"Error: {path}: tick=0 is wrong: allowed is a number from 0.1 to 60 seconds\n")


@pytest.mark.parametrize("name", ["", "Web", "web ", "*", "\udcff", "a\nb", "--"])
def test_without_a_supervisor_a_name_that_no_group_can_have_is_refused(
    app: Celery, refuse: Run, name: str
) -> None:
    for command in ("pause", "resume"):
        assert refuse(command, "--", name).startswith("Error: no group named '")
    assert refuse("scale", "--max-workers", "3", "--", name).startswith("Error: no group named '")
    assert overrides(app) == {}
