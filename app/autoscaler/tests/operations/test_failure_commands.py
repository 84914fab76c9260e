"""`failures` and `retry`: which tasks failed with what, and another run of them, once."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from celery import Celery
from celery_autoscaler.operations import failures
from celery_autoscaler.operations.failures import Which
from celery_autoscaler.protocol.broker import Broker, connect
from celery_autoscaler.protocol.failures import SLOT_SECONDS, Kind, KindSeen
from celery_autoscaler.protocol.tallies import PUBLISHED
from hypothesis import given
from hypothesis import strategies as st
from support.command_runs import Run, invoke
from support.made_up_failures import PAY, SHIP, fail, message
from support.processes.counted_tasks import Fleet
from support.processes.services import wait_for


def sent(app: Celery, name: str = "celery") -> list[dict[str, Any]]:
    """Return the messages of a list."""
    found: Any = connect(app).client.lrange(name, 0, -1)
    return [json.loads(text) for text in found]


def test_nothing_failed(run: Run) -> None:
    assert run("failures") == "No failures in the last hour."
    assert run("failures", "--json") == "[]"


def test_kinds_are_listed_the_most_frequent_first(app: Celery, run: Run) -> None:
    fail(app, "a", kind=SHIP)
    fail(app, "b", "c", release="r2")

    text = run("failures")
    found = json.loads(run("failures", "--json"))

    assert text.index(PAY.id) < text.index(SHIP.id)
    assert f"{PAY.id} 2 shop.pay" in text
    assert "pay.PaymentError: card declined at shop/pay.py:41 in charge, since release r2" in text
    assert f"fleet retry {PAY.id}" in text
    assert [(kind["kind"], kind["count"], kind["since_release"]) for kind in found] == [
        (PAY.id, 2, "r2"),
        (SHIP.id, 1, "r1"),
    ]
    assert found[0]["place"] == "shop/pay.py:41"
    assert "W10=" not in json.dumps(found)


@pytest.mark.parametrize(
    "options",
    [
        ("--task", "shop.ship"),
        ("--exception", "KeyError"),
        ("--group", "default", "--task", "shop.ship"),
    ],
)
def test_failures_are_chosen(app: Celery, run: Run, options: tuple[str, ...]) -> None:
    fail(app, "a", kind=SHIP)
    fail(app, "b", "c")

    assert [kind["kind"] for kind in json.loads(run("failures", "--json", *options))] == [SHIP.id]


def test_an_exception_may_be_named_without_its_module(app: Celery, run: Run) -> None:
    fail(app, "a")

    for name in ("PaymentError", "pay.PaymentError"):
        assert PAY.id in run("failures", "--exception", name)
    assert run("failures", "--exception", "Payment").startswith("No failures")
    assert run("failures", "--group", "other").startswith("No failures")


def test_a_kind_is_shown_with_traceback_and_tasks(app: Celery, run: Run, refuse: Run) -> None:
    fail(app, "a", "b")

    text = run("failures", PAY.id[:5])

    for part in ("Traceback: boom PaymentError", "task id b", "(1,)", "default-1@here", "2 can run again"):
        assert part in text
    assert refuse("failures", "nosuch") == (f"Error: no kind of failure named 'nosuch'; there are: {PAY.id}")


def test_names_and_texts_are_no_controls(app: Celery) -> None:
    fail(app, "\x1b[2J", kind=Kind("\x1b]0;x\x07", "[/x]", "\x1b", "\n"))

    for arguments in (["failures"], ["failures", Kind("\x1b]0;x\x07", "[/x]", "\x1b", "\n").id]):
        output = invoke(app, *arguments).output
        assert "\x1b" not in output
        assert "[/x]" in output


def test_a_task_is_sent_again_once(app: Celery, run: Run) -> None:
    fail(app, "a", "b")

    assert run("retry", PAY.id, "--dry-run") == "2 tasks can be sent again: 2 shop.pay"
    assert sent(app) == []
    assert run("retry", "--id", "a", "--yes").endswith("1 sent again")
    assert run("retry", PAY.id, "--yes").startswith("1 tasks can be sent again: 1 shop.pay 1 were sent again")
    assert json.loads(run("retry", PAY.id, "--yes", "--json")) == {
        "tasks": {}, "sent": 0, "sent_before": 2, "not_kept": 0,
    }  # fmt: skip

    assert [found["headers"]["id"] for found in sent(app)] == ["b", "a"]
    assert "2 failed tasks" not in run("why")
    assert "1 failed tasks sent again by" in run("why")
    # It fails once more.
    fail(app, "a")
    assert run("retry", PAY.id, "--yes").endswith("1 sent again")


def test_a_message_keeps_what_it_is_and_loses_what_it_met(app: Celery, run: Run) -> None:
    fail(app, "a")

    run("retry", "--id", "a", "--yes")

    [found] = sent(app)
    assert found["headers"] == {
        "id": "a", "task": "shop.pay", "retries": 2, "expires": None,
        PUBLISHED: pytest.approx(time.time(), abs=60),
    }  # fmt: skip
    assert found["body"] == "W10="
    assert found["properties"]["delivery_info"] == {"exchange": "", "routing_key": "celery"}
    assert found["properties"]["delivery_tag"] != "1.0"


def test_a_priority_is_kept(app: Celery, run: Run) -> None:
    fail(app, "a", raw=message("a", priority=5))

    run("retry", "--id", "a", "--yes")

    assert [found["headers"]["id"] for found in sent(app, "celery\x06\x163")] == ["a"]


def test_what_failed_twice_before_is_sent_once(app: Celery, run: Run) -> None:
    fail(app, "a", "a", "a")

    assert run("retry", PAY.id, "--yes") == "1 tasks can be sent again: 1 shop.pay 1 sent again"
    assert run("retry", PAY.id, "--yes").endswith("1 were sent again before")
    assert len(sent(app)) == 1


def test_a_task_that_failed_with_something_else_since_is_that_failures(app: Celery, run: Run) -> None:
    fail(app, "a", "b", kind=SHIP)
    fail(app, "a")

    assert run("retry", SHIP.id, "--dry-run").startswith("1 tasks can be sent again")
    assert run("retry", PAY.id, "--yes").endswith("1 sent again")
    assert run("retry", "--group", "default", "--yes").endswith("1 sent again")
    assert [found["headers"]["id"] for found in sent(app)] == ["b", "a"]


def test_two_who_retry_the_same_send_it_once(app: Celery) -> None:
    fail(app, "a", "b")
    broker = connect(app)
    tasks = failures.plan(broker, Which()).tasks

    assert [failures.retry(broker, tasks, "one", lambda: None) for _ in range(2)] == [2, 0]
    assert len(sent(app)) == 2


def test_tasks_are_sent_at_a_rate(app: Celery, run: Run) -> None:
    fail(app, *(f"task-{number}" for number in range(6)))

    begin = time.monotonic()
    run("retry", PAY.id, "--yes", "--rate", "20")

    assert time.monotonic() - begin >= 6 / 20
    assert [found["headers"]["id"] for found in reversed(sent(app))] == [f"task-{n}" for n in range(6)]


def test_what_cannot_be_sent_is_counted(app: Celery, run: Run) -> None:
    fail(app, "a", raw=b"")
    fail(app, "b", raw=b"no message")

    assert run("retry", PAY.id, "--yes").endswith("1 are too large 0 sent again")
    assert sent(app) == []


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), "Error: name kinds or tasks, or choose with --task, --exception or --group"),
        (("--id", "nosuch"), "Error: no such failure is kept"),
        (("nosuch",), "Error: no kind of failure named 'nosuch'; there are none"),
        (("--task", "x", "--json"), "Error: --json asks nothing: give --dry-run or --yes"),
        (("--task", "x", "--since", "soon"), "Error: Invalid value for '--since': 'soon' is no span of time: "
         "allowed is 30m, 2h, 1h30m or 3d; at most 366d"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(refuse: Run, arguments: tuple[str, ...], why: str) -> None:
    assert refuse("retry", *arguments) == why


def test_it_asks_first(app: Celery) -> None:
    fail(app, "a")

    result = invoke(app, "retry", "--id", "a")

    assert "Send them? [y/N]" in result.output
    assert result.exit_code == 1
    assert sent(app) == []


def test_unreadable_failures_are_passed_over(app: Celery, run: Run) -> None:
    fail(app, "a")
    broker = connect(app)
    broker.client.xadd(broker.keys.failures, {"odd": b"\xff"})
    broker.client.hset(broker.keys.failure_kinds, "odd", b"\xff")

    assert [kind["kind"] for kind in json.loads(run("failures", "--json"))] == [PAY.id]
    assert run("retry", PAY.id, "--yes").endswith("1 sent again")


def test_many_failures_are_read_in_parts(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failures, "CHUNK", 2)
    fail(app, *(f"task-{number}" for number in range(7)))
    broker: Broker = connect(app)

    assert [each.failure.id for each in failures.kept(broker, Which())] == [
        f"task-{number}" for number in reversed(range(7))
    ]


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 9)), unique_by=lambda pair: pair[0]))
def test_counts_since_a_time_are_exact_to_a_slot(pairs: list[tuple[int, int]]) -> None:
    seen = KindSeen(first=0.0, counts={str(slot): count for slot, count in pairs})

    for slot in range(1, 21):
        expected = sum(count for at, count in pairs if at >= slot)
        assert seen.since(slot * SLOT_SECONDS + 1) == expected


@given(st.binary(max_size=40) | st.sampled_from([b"{}", b'{"headers": 1, "properties": {}}', b"[" * 9999]))
def test_whatever_is_no_message_is_not_sent(raw: bytes) -> None:
    assert failures.message_again(raw, 0.0) is None


def test_a_task_that_failed_runs_again(fleet: Fleet) -> None:
    tasks = fleet.tasks
    [failed] = tasks.send(1, 60.0, soft_time_limit=1)
    fleet.start()
    wait_for(lambda: tasks.redis.exists("fleet:failures") == 1, "no failure", 30)

    assert invoke(tasks.app, "retry", "--id", failed, "--yes").output.endswith("1 sent again\n")

    wait_for(lambda: tasks.started()[failed] == 2, lambda: f"begun: {tasks.started()}", 30)
