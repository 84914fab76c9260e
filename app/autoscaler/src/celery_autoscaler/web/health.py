"""Whether a supervisor works, for ``/healthz``: it ticks, its page is made, its groups have workers."""

import time

from celery_autoscaler.protocol.text import as_text
from celery_autoscaler.supervisor.loop import Supervisor
from celery_autoscaler.web.feed import Feed

# Seconds without a tick, or without a snapshot for open pages, after which the supervisor is not healthy.
LATE_SECONDS = 10.0


class Health:
    """Looks at a supervisor from outside of its thread."""

    def __init__(self, supervisor: Supervisor, feed: Feed) -> None:
        self.supervisor = supervisor
        self.feed = feed

    def problem(self) -> str:
        """Return what is wrong, in one line; nothing if nothing is."""
        late = self.late()
        if late > LATE_SECONDS:
            return f"the tick is late by {late:.0f} s"
        if (silent := self.feed.silent()) > LATE_SECONDS:
            return f"the page was last renewed {silent:.0f} s ago"
        # Blind it holds what runs, and a restart would not help; leaving it runs none on purpose.
        status = self.supervisor.status
        if status.state in ("blind", "leaving"):
            return ""
        for name, group in status.groups.items():
            if group.not_served:
                why = group.held_back or group.last_failure or "the log says more"
                return f"group {name} has had no worker for {group.unserved:.0f} s: {as_text(why, 500)}"
        return ""

    def late(self) -> float:
        """Return by how many seconds the tick is late."""
        return time.monotonic() - self.supervisor.last_tick - self.supervisor.settings.tick
