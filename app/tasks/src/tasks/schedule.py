"""What beat sends, and when (UTC).

RedBeat keeps the schedule in Redis, so that it survives a restart, and holds a lock there, so that only one
beat sends. Entries are changed at run time through `redbeat.RedBeatSchedulerEntry`; those named here are
rewritten whenever a beat starts.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from celery.schedules import crontab

from tasks.queues import Priority, route

HOUR = 3600


def beat_schedule() -> dict[str, dict[str, Any]]:
    """Return the periodic tasks. A message that no worker took before it `expires` (seconds) is dropped."""
    scheduled = route("scheduled", Priority.LOW)
    return {
        "cleanup-expired-sessions": {
            "task": "tasks.scheduled.cleanup_expired_sessions",
            "schedule": crontab(minute="0"),
            "options": {**scheduled, "expires": HOUR},
        },
        "generate-daily-reports": {
            "task": "tasks.scheduled.generate_daily_reports",
            "schedule": crontab(hour="2", minute="0"),
            "options": {**scheduled, "expires": 20 * HOUR},  # "yesterday" must stay the same day
        },
        "health-check": {
            "task": "tasks.priority.health_check",
            "schedule": timedelta(minutes=5),
            "options": {**route("priority", Priority.MOST_URGENT), "expires": 300},
        },
    }
