"""Tasks of the queue `scheduled`: the periodic work of beat (tasks/schedule.py)."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day

from tasks.celery import app
from tasks.db import get_db_connection


@app.task
def cleanup_expired_sessions(batch: int = 1000) -> int:
    """Delete the expired sessions; return how many.

    Each batch is a transaction of its own, so that locks stay short and an interrupted run keeps what it did.
    Rows that another run holds are left to it.
    """
    deleted = 0
    while True:
        with get_db_connection() as connection:
            count = connection.execute(
                """
                WITH expired AS (
                    SELECT id FROM sessions WHERE expires_at <= now()
                    ORDER BY expires_at LIMIT %s
                    FOR UPDATE SKIP LOCKED
                )
                DELETE FROM sessions USING expired WHERE sessions.id = expired.id
                """,
                [batch],
            ).rowcount
        deleted += count
        if count < batch:
            return deleted


@app.task
def generate_daily_reports(day: str | None = None) -> dict[str, str | int]:
    """Write the figures of one UTC day into `daily_reports` and return them; a second run writes the same.

    Args:
        day: ISO date (YYYY-MM-DD); yesterday if not given.

    Raises:
        ValueError: if `day` is no ISO date.
    """
    reported = date.fromisoformat(day) if day else datetime.now(UTC).date() - timedelta(days=1)
    begin = datetime.combine(reported, time_of_day.min, UTC)
    with get_db_connection() as connection:
        logins, users = connection.execute(
            """
            INSERT INTO daily_reports (day, logins, users)
            SELECT %(day)s, count(*), count(DISTINCT user_id) FROM logins
            WHERE logged_in_at >= %(begin)s AND logged_in_at < %(end)s
            ON CONFLICT (day) DO UPDATE
            SET logins = excluded.logins, users = excluded.users, generated_at = now()
            RETURNING logins, users
            """,
            {"day": reported, "begin": begin, "end": begin + timedelta(days=1)},
        ).fetchone() or (0, 0)
    return {"day": reported.isoformat(), "logins": logins, "users": users}
