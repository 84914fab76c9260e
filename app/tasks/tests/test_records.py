"""The last 1000 failures and successes are kept in Redis, fit to be shown, at no cost for the tasks."""

from __future__ import annotations

import json
import logging
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from redis import Redis
from support.processes.celery_processes import forget_settings
from support.processes.services import RedisServer, RedisServerFactory
from tasks import app, base, default, records

LIMIT = 1000


@pytest.fixture(autouse=True)
def fresh_recorder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "recorder", records.Recorder())


def newest(redis: Redis, key: str) -> dict[str, Any]:
    line = redis.lindex(key, 0)
    assert isinstance(line, str)
    record = json.loads(line, parse_constant=pytest.fail)
    assert isinstance(record, dict)
    return record


def test_a_success_is_recorded(redis: Redis) -> None:
    default.echo.apply(("hello",), task_id="some-id")
    record = newest(redis, "tasks:successes")
    assert datetime.now(UTC).timestamp() - datetime.fromisoformat(record.pop("time")).timestamp() < 60
    assert 0 <= record.pop("runtime") < 10
    assert record == {
        "id": "some-id",
        "name": "tasks.default.echo",
        "args": ["hello"],
        "kwargs": {},
        "result": "hello",
        "queue": None,  # it ran here; test_worker.py sees a queue
    }
    assert redis.llen("tasks:failures") == 0


def test_a_failure_is_recorded(redis: Redis) -> None:
    assert default.fail.apply(("out of order",), {"part": 7}).state == "FAILURE"
    record = newest(redis, "tasks:failures")
    assert record["name"] == "tasks.default.fail"
    assert record["error"] == "DemandedError('out of order')"
    assert record["kwargs"] == {"part": 7}
    assert redis.llen("tasks:successes") == 0


def test_only_the_last_thousand_are_kept(redis: Redis) -> None:
    redis.rpush("tasks:successes", *(f"old {number}" for number in range(LIMIT)))
    default.echo.apply(("new",))
    assert redis.llen("tasks:successes") == LIMIT
    assert newest(redis, "tasks:successes")["result"] == "new"
    assert redis.lindex("tasks:successes", -1) == f"old {LIMIT - 2}"


def test_secrets_are_masked_wherever_they_are_named(redis: Redis) -> None:
    secrets = {
        "password": "s3cret",
        "API-Key": "s3cret",
        "nested": [{"access_token": "s3cret", "userPassword": "s3cret", "name": "visible"}],
        "Authorization": "Bearer s3cret",
        "url": "redis://user:s3cret@host/0",
    }
    default.fail.apply((), {"client_secret": "s3cret", **secrets})
    default.echo.apply((secrets,))
    lines = [str(redis.lindex(key, 0)) for key in ("tasks:failures", "tasks:successes")]
    assert not any("s3cret" in line for line in lines)
    assert all("visible" in line for line in lines)
    assert newest(redis, "tasks:failures")["kwargs"]["url"] == "redis://user:***@host/0"


def test_a_secret_given_by_position_is_masked(redis: Redis) -> None:
    @app.task(name="tests.log_in")
    def log_in(user: str, password: str) -> None:
        """Take a password."""
        del user, password

    log_in.apply(("me", "s3cret"))
    assert newest(redis, "tasks:successes")["args"] == ["me", "***"]
    log_in.apply(("me", "s3cret", "surplus"))
    assert newest(redis, "tasks:failures")["args"] == ["me", "***", "surplus"]


class Unprintable:
    """An object that cannot even be shown."""

    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (b"bytes", "b'bytes'"),
        ({1, 2}, "{1, 2}"),
        (float("nan"), "nan"),
        (float("-inf"), "-inf"),
        (Unprintable(), "<Unprintable: its repr raises RuntimeError>"),
        ({1: "one"}, {"1": "one"}),
        ((1, (2,)), [1, [2]]),
        ([None, True, 1.5, "text"], [None, True, 1.5, "text"]),
        ("x" * 501, "x" * 500 + "… (501 characters)"),
        (list(range(21)), [*range(20), "… (21 items)"]),
    ],
)
def test_any_value_becomes_one_that_json_holds(value: object, shown: object) -> None:
    assert records.presentable(value) == shown
    json.dumps(records.presentable(value), allow_nan=False)


def test_a_value_within_itself_ends() -> None:
    endless: list[object] = []
    endless.append(endless)
    assert len(json.dumps(records.presentable(endless))) < 1000


def test_a_record_stays_small_whatever_a_task_returns() -> None:
    wide = {f"key {number}": ["x" * 10_000] * 1000 for number in range(1000)}
    assert len(json.dumps(records.presentable(wide))) < 300_000


def succeeds_unhindered(
    broker_url: str, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    """Run twenty tasks against this broker: none fails, none waits, and one line tells of it."""
    monkeypatch.setenv("CELERY_BROKER_URL", broker_url)
    forget_settings()
    began = time.monotonic()
    with log.at_level(logging.WARNING, "tasks.records"):
        results = [task.apply().state for task in (default.echo, default.fail) for _ in range(10)]
    assert time.monotonic() - began < 1.5
    assert results == ["SUCCESS"] * 10 + ["FAILURE"] * 10
    lines = [line for line in log.messages if "no records of tasks for 10 s" in line]
    assert len(lines) == 1


def test_redis_that_is_down_hinders_no_task(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    del environment
    succeeds_unhindered("redis://127.0.0.1:1/0", monkeypatch, caplog)


def test_redis_that_is_full_hinders_no_task(
    environment: dict[str, str],
    redis_server_factory: RedisServerFactory,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    del environment
    full = redis_server_factory("--maxmemory", "1", "--maxmemory-policy", "noeviction")
    succeeds_unhindered(full.url, monkeypatch, caplog)


def test_redis_that_hangs_hinders_no_task(
    environment: dict[str, str],
    redis_server_factory: RedisServerFactory,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    del environment
    hanging = redis_server_factory()
    hanging.container.pause()
    try:
        succeeds_unhindered(hanging.url, monkeypatch, caplog)
    finally:
        hanging.container.unpause()


def test_records_go_on_when_redis_is_back(
    environment: dict[str, str],
    redis_server_factory: RedisServerFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    del environment
    monkeypatch.setattr(records, "PAUSE_SECONDS", 0.0)
    server: RedisServer = redis_server_factory()
    monkeypatch.setenv("CELERY_BROKER_URL", server.url)
    forget_settings()
    default.echo.apply(("before",))
    server.kill()
    default.echo.apply(("lost",))
    server.start()
    default.echo.apply(("after",))
    with Redis.from_url(server.url, decode_responses=True) as client:
        assert client.llen("tasks:successes") == 1
        assert newest(client, "tasks:successes")["result"] == "after"


def test_an_error_of_a_task_reaches_its_caller_unchanged(environment: dict[str, str]) -> None:
    del environment
    with pytest.raises(default.DemandedError, match="on demand"):
        default.fail.apply().get()
