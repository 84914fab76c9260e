"""The three periodic tasks do their work on a real database; beat sends them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import psycopg
import pytest
from celery import Celery
from celery.schedules import schedule as every
from redbeat import RedBeatSchedulerEntry
from redis import Redis
from support.processes.celery_processes import CeleryFactory, Platform, forget_settings
from support.processes.services import wait_for
from tasks import io_intensive, priority, scheduled
from tasks.queues import QUEUES, redis_keys

Rows = psycopg.Connection[tuple[object, ...]]


def sessions(rows: Rows) -> object:
    return rows.execute("SELECT count(*), min(expires_at) > now() FROM sessions").fetchone()


def test_expired_sessions_are_deleted_and_only_they(rows: Rows) -> None:
    io_intensive.log_in_users(25, session_seconds=-1)
    io_intensive.log_in_users(3, session_seconds=60)
    assert scheduled.cleanup_expired_sessions(batch=10) == 25
    assert sessions(rows) == (3, True)
    assert scheduled.cleanup_expired_sessions() == 0


def test_each_batch_is_committed_by_itself(rows: Rows) -> None:
    io_intensive.log_in_users(25, session_seconds=-1)
    rows.execute(
        """
        CREATE TABLE deleted (transaction xid);
        GRANT INSERT ON deleted TO PUBLIC;
        CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
        'BEGIN INSERT INTO deleted VALUES (pg_current_xact_id()::xid); RETURN OLD; END';
        CREATE TRIGGER note BEFORE DELETE ON sessions FOR EACH STATEMENT EXECUTE FUNCTION note();
        """
    )
    try:
        scheduled.cleanup_expired_sessions(batch=10)
        transactions = "SELECT count(DISTINCT transaction::text) FROM deleted"
        assert rows.execute(transactions).fetchone() == (3,)
    finally:
        rows.execute("DROP FUNCTION note() CASCADE; DROP TABLE deleted")


def test_rows_that_somebody_holds_are_left_to_him(rows: Rows) -> None:
    io_intensive.log_in_users(5, session_seconds=-1)
    with rows.transaction():
        rows.execute("SELECT FROM sessions LIMIT 2 FOR UPDATE")
        assert scheduled.cleanup_expired_sessions() == 3
    assert scheduled.cleanup_expired_sessions() == 2


def test_a_report_counts_one_utc_day_and_can_be_written_again(rows: Rows) -> None:
    rows.execute(
        """
        INSERT INTO logins (user_id, logged_in_at) VALUES
        (1, '2024-02-28T23:59:59.999Z'), (1, '2024-02-29T00:00:00Z'), (1, '2024-02-29T12:00:00Z'),
        (2, '2024-02-29T23:59:59.999Z'), (3, '2024-03-01T00:00:00Z')
        """
    )
    expected = {"day": "2024-02-29", "logins": 3, "users": 2}
    assert scheduled.generate_daily_reports("2024-02-29") == expected
    rows.execute("INSERT INTO logins (user_id, logged_in_at) VALUES (4, '2024-02-29T01:00:00Z')")
    assert scheduled.generate_daily_reports("2024-02-29") == expected | {"logins": 4, "users": 3}
    found = rows.execute("SELECT day::text, logins, users FROM daily_reports").fetchall()
    assert found == [("2024-02-29", 4, 3)]


@pytest.mark.usefixtures("rows")
def test_a_report_is_of_yesterday_unless_told_otherwise() -> None:
    yesterday = (datetime.now(UTC) - timedelta(days=1)).date()
    assert scheduled.generate_daily_reports() == {"day": yesterday.isoformat(), "logins": 0, "users": 0}


@pytest.mark.usefixtures("environment")
def test_a_report_of_no_day_is_refused() -> None:
    with pytest.raises(ValueError, match="yesterday"):
        scheduled.generate_daily_reports("yesterday")


def test_a_health_check_sees_queues_of_all_priorities(redis: Redis) -> None:
    keys = redis_keys("cpu_intensive")
    try:
        for key in keys:
            redis.lpush(key, "message")
        answer = priority.health_check()
    finally:
        redis.delete(*keys)
    assert answer["healthy"] is True, answer
    assert answer["queues"]["lengths"] == dict.fromkeys(QUEUES, 0) | {"cpu_intensive": 10}
    assert answer["disk"]["free_bytes"] > 0
    assert json.loads(str(redis.get("tasks:health"))) == answer


def test_a_health_check_names_what_is_broken(redis: Redis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.priority.DATABASE_WAIT_SECONDS", 0.3)
    monkeypatch.setenv("DB_PORT", "1")
    forget_settings()
    answer = priority.health_check()
    assert answer["healthy"] is False
    assert answer["database"]["ok"] is False
    assert "0.30 sec" in answer["database"]["error"]
    assert answer["broker"]["ok"] is True
    assert json.loads(str(redis.get("tasks:health"))) == answer


def test_a_health_check_without_a_broker_still_answers(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    del environment
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://127.0.0.1:1/0")
    forget_settings()
    answer = priority.health_check()
    assert [answer[part]["ok"] for part in ("broker", "database", "disk", "queues")] == [
        False,
        True,
        True,
        False,
    ]


def test_the_schedule_lives_in_redis_and_one_beat_at_a_time_sends(
    platform: Platform, celery_process: CeleryFactory
) -> None:
    url = f"redis://{platform.broker.host}:{platform.broker.port}/5"  # a database without workers
    environment = platform.environment | {"CELERY_BROKER_URL": url}
    arguments = ("beat", "--loglevel", "INFO")
    first = celery_process(environment, *arguments)
    first.wait_for_output("Acquired lock")

    with Redis.from_url(url, decode_responses=True) as client:
        registered = client.zrange("redbeat::schedule", 0, -1)
        assert isinstance(registered, list)
        assert sorted(registered) == [
            "redbeat:cleanup-expired-sessions",
            "redbeat:generate-daily-reports",
            "redbeat:health-check",
        ]
        assert 0 < client.pttl("redbeat::lock") <= 30_000

        # Nothing is due yet; a shorter interval, written to Redis, makes the health check due.
        app = Celery("editor", broker=url, set_as_current=False)
        app.conf.redbeat_redis_url = url
        app.conf.redbeat_redis_options = {}
        entry = RedBeatSchedulerEntry.from_key("redbeat:health-check", app=app)
        entry.schedule = every(1.0, app=app)
        entry.save()
        assert wait_for(lambda: client.llen("priority") > 0, "no health check was sent", 15)
        message = json.loads(str(client.lindex("priority", 0)))
        assert message["headers"]["task"] == "tasks.priority.health_check"
        assert message["properties"]["priority"] == 0

        second = celery_process(environment, *arguments)
        second.wait_for_output("beat: Starting")
    assert first.stop() == 0
    released = first.wait_for_output(r"time=(\S+) .*Releasing lock")
    acquired = second.wait_for_output(r"time=(\S+) .*Acquired lock", within=15)
    assert acquired[1] >= released[1]
