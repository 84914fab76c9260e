"""`pause`, `resume`, `scale`, `drain`: what operators set."""

from __future__ import annotations

import getpass
import time
from collections.abc import Callable

import pytest
from celery import Celery
from celery_autoscaler.protocol.broker import connect
from celery_autoscaler.protocol.overrides import Override
from celery_autoscaler.supervisor.loop import Supervisor
from support.command_runs import Run, overrides, send


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
        (("why", "nobody"), "no group named 'nobody'; there are: default, slow"),
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


@pytest.mark.parametrize("name", ["", "Web", "web ", "*", "\udcff", "a\nb", "--"])
def test_without_a_supervisor_a_name_that_no_group_can_have_is_refused(
    app: Celery, refuse: Run, name: str
) -> None:
    for command in ("pause", "resume"):
        assert refuse(command, "--", name).startswith("Error: no group named '")
    assert refuse("scale", "--max-workers", "3", "--", name).startswith("Error: no group named '")
    assert overrides(app) == {}


def test_a_pause_and_bounds_for_a_while_say_who_why_and_for_how_long(
    app: Celery, run: Run, supervise: Callable[..., Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SUDO_USER", "anna")
    supervisor = supervise()

    assert run("pause", "slow", "--for", "30m", "--because", "provider down") == (
        "slow: paused for 30 minutes"
    )
    assert run("scale", "default", "--max-workers", "2", "--for", "2h", "--because", "sale") == (
        "default: max_workers 2 for 2 hours"
    )
    supervisor.tick()

    shown = run("status")
    assert "PAUSED slow: paused by anna for 30 more minutes: provider down; nothing is" in shown
    assert "max_workers 2 set by anna for 120 more minutes: sale" in shown
    assert run("why", "slow", "-n", "1").endswith("slow paused by anna for 30 minutes: provider down")
    group = supervisor.status.groups["slow"].as_dict()
    assert group["reason"].startswith("paused by anna for 30 more minutes: provider down")

    run("resume", "slow")
    run("scale", "default", "--reset")
    assert overrides(app) == {}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("pause", "default", "--for", "soon"), "'soon' is no span of time: allowed is 30m, 2h, 1h30m or 3d"),
        (("pause", "--for", "0s"), "'0s' is no span of time"),
        (("pause", "--because", "x" * 600), "the reason has 600 bytes; at most 512 are kept"),
        (("scale", "default", "--reset", "--for", "2h"), "--reset and --for exclude each other"),
    ],
)
def test_a_wrong_span_or_reason_changes_nothing(
    app: Celery, refuse: Run, arguments: tuple[str, ...], words: str
) -> None:
    assert words in refuse(*arguments)
    assert overrides(app) == {}
