"""Tasks that fail for good are recorded by real workers: kinds are counted exactly, single ones are kept."""

from __future__ import annotations

import json
import time
from types import SimpleNamespace
from typing import Any

import pytest
from celery_autoscaler.consuming import failures
from celery_autoscaler.protocol.failures import (
    KEPT_SECONDS,
    MESSAGE_BYTES,
    MOST_KINDS,
    OTHERS,
    Failure,
    Kind,
    KindSeen,
    Report,
)
from celery_autoscaler.protocol.keys import Keys
from redis import Redis
from redis.exceptions import ConnectionError as NoConnection
from support.processes.counted_tasks import Fleet
from support.processes.services import wait_for

# Seconds until a worker has told what it noted: it does so every five.
WITHIN = 20.0
WORKER = "w@here:1"
KEYS = Keys()


def failure_of(text: Any) -> Failure:
    """Return a failure from its text in Redis."""
    found = Failure.load(text)
    assert isinstance(found, Failure)
    return found


def counts(redis: Any) -> dict[tuple[str, str], int]:
    """Return how often each task failed with each exception."""
    examples = {kind: failure_of(text) for kind, text in redis.hgetall(KEYS.failure_examples).items()}
    seen = {kind: KindSeen.load(text) for kind, text in redis.hgetall(KEYS.failure_kinds).items()}
    assert examples.keys() == seen.keys()
    return {
        (failure.task, failure.exception): known.total
        for kind, failure in examples.items()
        if isinstance(known := seen[kind], KindSeen)
    }


def recorded(redis: Any) -> list[tuple[Failure, dict[str, Any] | None]]:
    """Return the single failures, each with its message."""
    return [
        (failure_of(entry["failure"]), json.loads(entry["message"]) if entry["message"] else None)
        for _, entry in redis.xrange(KEYS.failures)
    ]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
@pytest.mark.versions
def test_what_fails_for_good_is_recorded_and_nothing_else(fleet: Fleet, pool: str) -> None:
    tasks = fleet.tasks
    [failed] = tasks.send(1, "a", 1, name="add", retries=2)
    tasks.send(3, 1, name="add")
    tasks.send(2, 1, name="refuse")
    tasks.send(2, 1, name="fail_at_first")
    tasks.send(1, expires=-60.0)
    worker = fleet.start("--pool", pool)

    wait_for(lambda: not tasks.left(), lambda: f"left: {tasks.left()}")
    assert worker.stop() == 0

    assert counts(tasks.redis) == {("single.add", "TypeError"): 1}
    [(failure, message)] = recorded(tasks.redis)
    assert (failure.id, failure.queue, failure.retries) == (failed, "celery", 2)
    assert (failure.file, failure.function) == ("single.py", "add")
    assert failure.worker.endswith("@here")
    assert failure.arguments == "('a', 1) {}"
    assert failure.text.startswith("unsupported operand")
    assert failure.traceback.rstrip().endswith(failure.text)
    assert "return sum(numbers" in failure.traceback
    assert abs(failure.at - time.time()) < 60
    assert message is not None
    assert message["headers"]["id"] == failed


def test_a_lost_child_and_a_time_limit_fail_for_good_unless_the_task_runs_again(fleet: Fleet) -> None:
    tasks = fleet.tasks
    again = tasks.send(1, name="die_slowly")
    fleet.start(name="first", concurrency=1)
    tasks.wait_until_ended(again)
    fleet.workers[0].stop()
    assert counts(tasks.redis) == {}

    tasks.send(1, name="die")
    tasks.send(1, 60.0, time_limit=1)
    fleet.start(name="second", settings={"task_reject_on_worker_lost": False})
    lost, limit = "billiard.exceptions.WorkerLostError", "billiard.exceptions.TimeLimitExceeded"
    expected = {("single.die", lost): 1, ("single.count", limit): 1}

    wait_for(lambda: counts(tasks.redis) == expected, lambda: f"recorded: {counts(tasks.redis)}", WITHIN)
    assert {failure.place for failure, _ in recorded(tasks.redis)} == {""}


def test_a_task_that_always_fails_is_counted_exactly(fleet: Fleet) -> None:
    tasks = fleet.tasks
    ids = tasks.send(400, "a", 1, name="add")
    worker = fleet.start(concurrency=2)

    wait_for(lambda: not tasks.left(), lambda: f"left: {tasks.left()}", 60)
    assert worker.stop() == 0

    assert counts(tasks.redis) == {("single.add", "TypeError"): 400}
    kept = [failure.id for failure, _ in recorded(tasks.redis)]
    assert len(kept) > failures.FIRST
    assert {*kept} <= {*ids}


# --- What a worker tells, without a worker -------------------------------------------------------------


def request(number: int = 0, task: str = "shop.pay", body: bytes = b"[]", **headers: Any) -> Any:
    """Return what a request shows of itself."""
    message = SimpleNamespace(
        body=body,
        channel=None,
        died="ValueError: no money",
        headers={"id": f"task-{number}", **headers},
        serializable=lambda: {"body": body.decode(), "number": number},
    )
    return SimpleNamespace(
        id=f"task-{number}",
        name=task,
        task=SimpleNamespace(__module__="shop.tasks"),
        fleet_kind=(task, "celery"),
        _message=message,
    )


def told(noted: failures.Failures) -> list[Report]:
    """Return what is told now."""
    found: list[Report] = []
    noted.tell(found.append, WORKER)
    return found


def test_of_failures_in_quick_succession_the_first_and_the_newest_are_told() -> None:
    noted = failures.Failures()
    for number in range(500):
        noted.add(request(number), ValueError(), None)
    noted.add(request(500, "shop.ship"), ValueError(), None)

    [report] = told(noted)

    assert sorted(report.counts.values()) == [1, 500]
    pay = [failure.id for _, failure, _ in report.failures if failure.task == "shop.pay"]
    assert pay == [*(f"task-{number}" for number in range(failures.FIRST)), "task-499"]
    info = SimpleNamespace(tb=None, traceback="Traceback")
    for number in range(5):
        noted.add(request(number), ValueError(), info)
    [several] = told(noted)
    assert [bool(failure.traceback) for _, failure, _ in several.failures] == [True, *3 * [False], True]
    assert {each.id for each in report.examples.values()} == {"task-499", "task-500"}
    assert told(noted) == []


def test_what_was_not_heard_is_told_again_under_the_same_number() -> None:
    noted = failures.Failures()
    noted.add(request(), ValueError(), None)
    lost: list[Report] = []

    def lose(report: Report) -> None:
        lost.append(report)
        raise NoConnection

    with pytest.raises(NoConnection):
        noted.tell(lose, WORKER)
    noted.add(request(1), ValueError(), None)

    assert [*told(noted)] == lost
    assert [report.number for report in told(noted)] == [lost[0].number + 1]


def test_kinds_and_messages_are_bounded() -> None:
    noted = failures.Failures()
    for number in range(2 * MOST_KINDS):
        noted.add(request(number, f"shop.task_{number}"), ValueError(), None)
    noted.add(request(task="shop.task_0", body=b"x" * (MESSAGE_BYTES + 1)), ValueError(), None)

    [report] = told(noted)

    assert len(report.counts) == MOST_KINDS + 1
    assert report.counts[Kind(OTHERS, OTHERS).id] == MOST_KINDS
    assert len(report.failures) <= failures.MOST + 2
    assert [message for _, failure, message in report.failures if failure.id == "task-0"][-1] == b""


def test_secrets_are_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYMENT_TOKEN", "hunter22")
    noted = failures.Failures()
    noted.add(request(argsrepr="('hunter22',)", kwargsrepr="{'password': 's3cret'}"), ValueError(), None)

    [report] = told(noted)

    assert report.failures[0][1].arguments == "('(PAYMENT_TOKEN)',) {'password': ***}"


def raised(own: str, name: str, library: str) -> Any:
    """Return the traceback of an exception that a library raises, called by a function of a module."""
    called: dict[str, Any] = {"__name__": "lib.inner"}
    exec(compile("def call():\n    raise ValueError", library, "exec"), called)  # noqa: S102
    module: dict[str, Any] = {"__name__": name, "call": called["call"]}
    exec(compile("def pay():\n    call()", own, "exec"), module)  # noqa: S102
    try:
        module["pay"]()
    except ValueError as error:
        return error.__traceback__


@pytest.mark.parametrize(
    ("own", "name", "place"),
    [
        ("/opt/celery/r1/site-packages/shop/tasks.py", "shop.tasks", ("shop/tasks.py", 2, "pay")),
        ("/opt/celery/r1/site-packages/shop/pay/__init__.py", "shop.pay", ("shop/pay/__init__.py", 2, "pay")),
        ("/srv/other.py", "other", ("other.py", 2, "pay")),
    ],
)
def test_the_place_is_the_innermost_function_of_the_apps_own_code(
    own: str, name: str, place: failures.Place
) -> None:
    traceback = raised(own, name, "/opt/celery/r1/site-packages/lib/inner.py")

    assert failures.place_of(traceback, "shop.tasks") == place


def test_where_no_code_is_the_apps_own_the_place_is_the_innermost_function() -> None:
    traceback = raised("/x/site-packages/a/b.py", "a.b", "/x/site-packages/lib/inner.py").tb_next

    assert failures.place_of(traceback, "shop.tasks") == ("lib/inner.py", 2, "call")


# --- What Redis keeps ----------------------------------------------------------------------------------


@pytest.fixture
def client(redis_url: str) -> Redis:
    """Return an empty Redis that knows the worker."""
    found = Redis.from_url(redis_url)
    found.hset(KEYS.worker(WORKER), "state", "running")
    return found


def report_of(number: int, task: str = "shop.pay", size: int = 10, release: str = "r1") -> Report:
    """Return a report of one failure."""
    failure = Failure(task=task, exception="ValueError", id=f"task-{number}", release=release)
    kind = Kind(task, "ValueError").id
    return Report(number, release, {kind: 3}, {kind: failure}, [(kind, failure, b"x" * size)])


def seen_of(client: Any, task: str = "shop.pay") -> KindSeen:
    """Return what is known of the kind of such a failure."""
    found = KindSeen.load(client.hget(KEYS.failure_kinds, Kind(task, "ValueError").id))
    assert isinstance(found, KindSeen)
    return found


def test_a_report_that_is_heard_twice_counts_once(client: Redis) -> None:
    for number in (1, 1, 2):
        report_of(number, release=f"r{number}").send(client, KEYS, WORKER)

    seen = seen_of(client)
    assert (seen.total, sum(seen.counts.values()), seen.release) == (6, 6, "r1")
    assert seen.since(time.time() - 60) == 6
    assert client.xlen(KEYS.failures) == 2


def test_the_record_is_bounded_in_bytes_kinds_and_age(client: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("celery_autoscaler.protocol.failures.MOST_BYTES", 100_000)
    for number in range(50):
        report_of(number, size=10_000).send(client, KEYS, WORKER)
    assert 5 <= client.xlen(KEYS.failures) <= 11

    for number in range(MOST_KINDS + 20):
        report_of(100 + number, f"shop.task_{number}").send(client, KEYS, WORKER)
    assert client.hlen(KEYS.failure_kinds) == client.hlen(KEYS.failure_examples) == MOST_KINDS

    assert 0 < client.ttl(KEYS.failures) <= KEPT_SECONDS


def test_what_is_too_old_is_dropped(client: Redis) -> None:
    old = {"first": 1, "last": 2, "release": "r0", "total": 9, "counts": {"0": 9}}
    client.hset(
        KEYS.failure_kinds, mapping={Kind("shop.pay", "ValueError").id: json.dumps(old), "x": json.dumps(old)}
    )
    client.xadd(KEYS.failures, {"total": 5}, id="2000-0")
    lasting = old | {"last": time.time()}
    client.hset(KEYS.failure_kinds, Kind("shop.ship", "ValueError").id, json.dumps(lasting))

    report_of(1).send(client, KEYS, WORKER)
    report_of(2, "shop.ship").send(client, KEYS, WORKER)
    ship = seen_of(client, "shop.ship")
    assert (ship.total, len(ship.counts), ship.release) == (12, 1, "r0")

    seen = seen_of(client)
    assert (seen.total, len(seen.counts), seen.release) == (3, 1, "r1")
    assert client.hlen(KEYS.failure_kinds) == 2
    assert client.xlen(KEYS.failures) == 2


@pytest.mark.parametrize("odd", [b"", b"{", b"[]", b'{"counts": 1}', b'{"counts": {"x": {}}, "last": 1e99}'])
def test_whatever_stands_in_a_kinds_place_is_replaced(client: Redis, odd: bytes) -> None:
    client.hset(KEYS.failure_kinds, mapping={Kind("shop.pay", "ValueError").id: odd, "other": odd})
    client.xadd(KEYS.failures, {"odd": odd})

    report_of(1).send(client, KEYS, WORKER)

    seen = seen_of(client)
    assert seen.since(0) == 3
