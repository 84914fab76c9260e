"""`tasks`: what became of each task of the last hours, from what the supervisors of all hosts counted."""

from __future__ import annotations

import json
from bisect import bisect_left
from copy import deepcopy

import pytest
from celery import Celery
from celery_autoscaler.protocol.broker import Broker, connect
from celery_autoscaler.protocol.tallies import BUCKETS, Histogram, Tallies
from celery_autoscaler.supervisor import task_history
from celery_autoscaler.supervisor.task_history import SLOT_SECONDS, SLOTS, TaskHistory, field
from hypothesis import given
from hypothesis import strategies as st
from support.command_runs import Run

PAY, MAIL = ("shop.pay", "celery"), ("shop.mail", "mails")


@pytest.fixture
def broker(app: Celery) -> Broker:
    """Return the app's broker."""
    return connect(app)


@pytest.fixture
def now(broker: Broker) -> float:
    """Return the server's time."""
    return float(broker.client.time()[0])


def count(tallies: Tallies, kind: tuple[str, str], outcome: str, number: int, wait: float = 0.2) -> None:
    """Count tasks that waited a while and ran for half a second."""
    tally = tallies.of(kind)
    for _ in range(number):
        tally.outcomes[outcome] += 1
        tally.wait.observe(wait)
        tally.runtime.observe(0.5)


def test_nothing_ended(run: Run) -> None:
    assert run("tasks") == "No tasks have ended in the last hour."
    assert json.loads(run("tasks", "--json"))["tasks"] == []


def test_tasks_of_all_hosts_are_shown_the_worst_first(broker: Broker, now: float, run: Run) -> None:
    for host in ("one", "two"):
        history, tallies = TaskHistory(), Tallies()
        history.update(broker, host, now, tallies)
        count(tallies, MAIL, "succeeded", 50, wait=20.0)
        count(tallies, PAY, "succeeded", 43)
        count(tallies, PAY, "failed", 7)
        history.update(broker, host, now, tallies)

    found = json.loads(run("tasks", "--json"))
    text = run("tasks")

    assert [(task["task"], task["queue"], task["ended"]) for task in found["tasks"]] == [
        (*PAY, 100),
        (*MAIL, 100),
    ]
    pay, mail = found["tasks"]
    assert (pay["outcomes"], pay["failed_part"]) == ({"succeeded": 86, "failed": 14}, 0.14)
    assert pay["per_second"] == pytest.approx(100 / found["seconds"], rel=0.5)
    assert 0.1 <= pay["wait"]["p50"] <= pay["wait"]["p99"] <= 0.25
    assert 10 <= mail["wait"]["p95"] <= 30
    assert 0.25 <= mail["run"]["p95"] <= 0.5
    assert all(task["wait"] for task in found["tasks"])
    assert "shop.pay 100 14 (14 %)" in text
    assert text.index("shop.pay") < text.index("shop.mail")


def test_a_supervisor_that_starts_again_adds_to_what_the_former_one_wrote(broker: Broker, now: float) -> None:
    for _ in range(2):
        history, tallies = TaskHistory(), Tallies()
        history.update(broker, "here", now, tallies)
        for _ in range(3):
            count(tallies, PAY, "failed", 1)
            history.update(broker, "here", now, tallies)

    found, _ = task_history.read(broker, 60)

    assert found[PAY].outcomes == {"failed": 6}
    assert sum(found[PAY].wait.counts) == 6


def test_each_slot_has_its_own_tasks_and_old_ones_are_dropped(broker: Broker, now: float) -> None:
    history, tallies = TaskHistory(), Tallies()
    begin = now - 3 * SLOT_SECONDS
    history.update(broker, "here", begin, tallies)
    for number in range(4):
        count(tallies, PAY, "failed", 1)
        history.update(broker, "here", begin + number * SLOT_SECONDS, deepcopy(tallies))
    history.update(broker, "here", now, tallies)

    assert task_history.read(broker, 4 * SLOT_SECONDS)[0][PAY].outcomes["failed"] == 4
    recent, seconds = task_history.read(broker, SLOT_SECONDS)
    assert recent[PAY].outcomes["failed"] in (1, 2)
    assert seconds <= 2 * SLOT_SECONDS
    history.update(broker, "here", now + SLOTS * SLOT_SECONDS, tallies)
    assert broker.client.hlen(broker.keys.task_history) <= 1


def test_what_is_unreadable_is_passed_over(broker: Broker, now: float, run: Run) -> None:
    key, slot = broker.keys.task_history, int(now // SLOT_SECONDS)
    broker.client.hset(key, mapping={field("odd", slot): b"\xff", "no slot": "[]", b"\xff:1": "[]"})
    history, tallies = TaskHistory(), Tallies()
    history.update(broker, "here", now, tallies)
    count(tallies, PAY, "failed", 1)
    assert history.update(broker, "here", now, tallies) == []
    assert "shop.pay" in run("tasks")

    broker.client.delete(key)
    broker.client.set(key, "odd")
    [refusal] = TaskHistory().update(broker, "here", now, tallies)
    assert refusal.name == "fleet:task_history"


def test_a_wait_that_nobody_measured_is_not_shown_as_none(broker: Broker, now: float, run: Run) -> None:
    history, tallies = TaskHistory(), Tallies()
    history.update(broker, "here", now, tallies)
    tallies.of(PAY).outcomes["revoked"] = 1
    history.update(broker, "here", now, tallies)

    [task] = json.loads(run("tasks", "--json"))["tasks"]

    assert (task["wait"], task["run"]) == (None, None)
    assert "shop.pay 1 0 0" in run("tasks")


def test_a_span_that_is_none_is_refused(refuse: Run) -> None:
    assert "'soon' is no span of time" in refuse("tasks", "--since", "soon")


@given(st.lists(st.floats(0, 600), min_size=1, max_size=50), st.floats(0.01, 1))
def test_a_quantile_is_in_the_bucket_of_the_value(values: list[float], part: float) -> None:
    histogram = Histogram()
    for value in values:
        histogram.observe(value)
    exact = sorted(values)[max(0, -int(-part * len(values) // 1) - 1)]
    at = bisect_left(BUCKETS, exact)

    assert (BUCKETS[at - 1] if at else 0.0) <= histogram.quantile(part) <= BUCKETS[at] + 1e-9
