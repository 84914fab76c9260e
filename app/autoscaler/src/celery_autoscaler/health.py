"""Whether a supervisor works, for ``/healthz``: it ticks, its page is made, its groups have workers."""

import time

from celery_autoscaler.feed import Feed
from celery_autoscaler.supervisor import Supervisor
from celery_autoscaler.text import as_text

# Seconds without a tick, or without a picture for open pages, after which the supervisor is not healthy.
LATE = 10.0
# Seconds that a group may be without a worker: starts take their time, and so does one that follows a crash.
UNSERVED = 60.0
# Of the group's own start-up time, where that is longer.
STARTS = 3.0


class Health:
    """Remembers since when a group has had no worker."""

    def __init__(self, supervisor: Supervisor, feed: Feed) -> None:
        self.supervisor = supervisor
        self.feed = feed
        self._unserved: dict[str, float] = {}

    def look(self) -> None:
        """See which groups have no worker; called about once a second."""
        now = time.monotonic()
        status = self.supervisor.status
        unserved = {}
        if status.get("state") != "leaving":
            for name, group in status.get("groups", {}).items():
                if group["minimum"] and not group["ready"] and group["limit"] != "paused":
                    unserved[name] = self._unserved.get(name, now)
        self._unserved = unserved

    def problem(self) -> str:
        """Return what is wrong, in one line; nothing if nothing is."""
        late = self.late()
        if late > LATE:
            return f"the tick is late by {late:.0f} s"
        if (silent := self.feed.silent()) > LATE:
            return f"the page was last renewed {silent:.0f} s ago"
        self.look()
        now = time.monotonic()
        for name, since in self._unserved.items():
            group = self.supervisor.status.get("groups", {}).get(name, {})
            if now - since > max(UNSERVED, STARTS * group.get("startup", 0.0)):
                why = group.get("held_back") or group.get("last_failure") or "see the log of the supervisor"
                return f"group {name} has had no worker for {now - since:.0f} s: {as_text(why, 500)}"
        return ""

    def late(self) -> float:
        """Return by how many seconds the tick is late."""
        return time.monotonic() - self.supervisor.last_tick - self.supervisor.settings.tick
