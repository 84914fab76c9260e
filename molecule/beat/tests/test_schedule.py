"""What beat sends, where to, and what comes of it."""

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from celery.schedules import BaseSchedule, crontab, schedule
from support.hosts.beat_schedule import Shorten, stored_entry, wait_for_messages
from support.hosts.deployed_app import redis
from support.processes.services import wait_for
from tasks.settings import settings
from tasks.store import HEALTH
from testinfra.host import Host

testinfra_hosts = ["ansible://beat1"]
units = ["celery-beat", "celery-worker@general-1"]

WORKER = "celery-worker@general-1"


@dataclass(frozen=True)
class Periodic:
    """An expected entry of the schedule."""

    task: str
    schedule: BaseSchedule
    queue: str
    priority: int
    expires: int

    @property
    def key(self) -> str:
        """The list in Redis into which beat puts the messages."""
        return f"{self.queue}\x06\x16{self.priority}" if self.priority else self.queue


SCHEDULE = {
    "cleanup-expired-sessions": Periodic(
        "tasks.scheduled.cleanup_expired_sessions", crontab(minute="0"), "scheduled", 7, 3600
    ),
    "generate-daily-reports": Periodic(
        "tasks.scheduled.generate_daily_reports", crontab(hour="2", minute="0"), "scheduled", 7, 72000
    ),
    "health-check": Periodic(
        "tasks.priority.health_check", schedule(timedelta(minutes=5)), "priority", 0, 300
    ),
}


@pytest.fixture
def worker_stopped(host: Host) -> Iterator[None]:
    """Stop the worker until the test ends, so that messages stay where beat puts them."""
    host.check_output(f"systemctl stop {WORKER}")
    yield
    host.check_output(f"systemctl start {WORKER}")


@pytest.fixture
def database() -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """Return a connection to the app's database; each statement is a transaction."""
    with psycopg.connect(**settings().connection_parameters(), autocommit=True) as connection:
        yield connection


def test_nothing_else_is_scheduled() -> None:
    assert redis().smembers("redbeat::statics") == set(SCHEDULE)


@pytest.mark.parametrize("name", SCHEDULE)
def test_the_schedule_is_what_was_configured(name: str) -> None:
    entry, expected = stored_entry(name), SCHEDULE[name]

    assert entry.enabled
    assert (entry.task, entry.schedule) == (expected.task, expected.schedule)
    assert entry.options == {
        "queue": expected.queue,
        "routing_key": expected.queue,
        "priority": expected.priority,
        "expires": expected.expires,
    }


@pytest.mark.parametrize(
    ("name", "period", "offset"),
    [
        ("cleanup-expired-sessions", 3600, 0),
        ("generate-daily-reports", 86400, 2 * 3600),
    ],
)
def test_a_crontab_is_met_in_utc(name: str, period: int, offset: int) -> None:
    _, remaining = stored_entry(name).is_due()
    due = round(time.time() + remaining)

    assert due % period == offset
    assert 0 <= remaining <= period


@pytest.mark.usefixtures("worker_stopped")
@pytest.mark.parametrize("name", SCHEDULE)
def test_a_task_is_sent_on_time_into_its_queue(shortened: Shorten, name: str) -> None:
    key = SCHEDULE[name].key

    with shortened(name, seconds=1):
        intervals = wait_for_messages(key, 4)

    redis().delete(key)
    assert all(0.9 < interval < 3 for interval in intervals)


def test_expired_sessions_are_deleted(
    shortened: Shorten, database: psycopg.Connection[tuple[Any, ...]]
) -> None:
    database.execute("DELETE FROM sessions WHERE user_id < 0")
    database.execute(
        "INSERT INTO sessions (user_id, expires_at)"
        " VALUES (-1, now() - interval '1 second'), (-2, now() + interval '1 hour')"
    )

    with shortened("cleanup-expired-sessions", seconds=1):
        wait_for(lambda: left(database) == [-2], "the expired session is still there")


def left(database: psycopg.Connection[tuple[Any, ...]]) -> list[int]:
    """Return the users of the test's sessions."""
    rows = database.execute("SELECT user_id FROM sessions WHERE user_id < 0").fetchall()
    return [row[0] for row in rows]


def test_the_report_of_yesterday_is_written(
    shortened: Shorten, database: psycopg.Connection[tuple[Any, ...]]
) -> None:
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    database.execute("DELETE FROM daily_reports")
    database.execute("DELETE FROM logins WHERE logged_in_at < date_trunc('day', now(), 'UTC')")
    for user in (-1, -1, -2):
        database.execute(
            "INSERT INTO logins (user_id, logged_in_at)"
            " VALUES (%s, date_trunc('day', now(), 'UTC') - interval '1 second')",
            [user],
        )

    with shortened("generate-daily-reports", seconds=1):
        report = wait_for(
            lambda: database.execute("SELECT day, logins, users FROM daily_reports").fetchone(), "no report"
        )

    assert report == (yesterday, 3, 2)


def test_the_health_of_the_platform_is_known(shortened: Shorten) -> None:
    redis().delete(HEALTH)

    with shortened("health-check", seconds=1):
        answer = json.loads(str(wait_for(lambda: redis().get(HEALTH), "no answer")))

    assert answer["healthy"], answer
    assert {part for part in answer if isinstance(answer[part], dict)} == {
        "broker",
        "database",
        "disk",
        "queues",
    }
