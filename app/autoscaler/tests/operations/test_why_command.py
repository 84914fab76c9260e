"""`why`: decisions in words."""

from __future__ import annotations

import time
from collections.abc import Callable

from celery import Celery
from celery_autoscaler.protocol.broker import connect
from celery_autoscaler.supervisor.loop import Supervisor
from support.command_runs import Run, send
from support.processes.services import wait_for


def test_nothing_decided_is_said(run: Run) -> None:
    assert run("why") == "No decisions yet."


def test_decisions_are_explained_in_words(
    app: Celery, run: Run, supervise: Callable[..., Supervisor]
) -> None:
    send(app, 20)
    supervisor = supervise(tick=0.1)

    def decided() -> bool:
        supervisor.tick()
        return bool(connect(app).client.exists("fleet:decisions"))

    wait_for(decided, "nothing was decided", 20.0)
    shown = run("why")

    assert f"{time.gmtime().tm_year}-" in shown
    assert " UTC default 0 → " in shown
    assert "20 tasks wait" in shown
    assert "held back on here: memory usage is" in shown
    assert shown.startswith(run("why", "default"))
    assert run("why", "slow").endswith("slow keeps 0: No tasks waiting, none running")


def test_as_many_decisions_are_explained_as_are_asked_for(app: Celery, run: Run, refuse: Run) -> None:
    for number in range(5):
        group = "slow" if number == 3 else "default"
        fields = {
            "at": 1.7e9 + number, "host": "here", "group": group, "have": 1, "want": 2, "here": 1,
            "reason": f"reason {number}", "held_back": "", "emergency": 0, "seen": "{}",
        }  # fmt: skip
        connect(app).client.xadd("fleet:decisions", fields)

    shown = run("why", "-n", "2")
    assert shown == (
        "2023-11-14 22:13:23 UTC slow 1 → 2, here starts 1: reason 3 "
        "2023-11-14 22:13:24 UTC default 1 → 2, here starts 1: reason 4"
    )
    of_one = run("why", "-n", "2", "default")
    assert [f"reason {number}" in of_one for number in range(5)] == [False, False, True, False, True]
    assert "Invalid value for '-n'" in refuse("why", "-n", "0")
