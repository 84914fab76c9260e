"""What the parts of one supervisor share: settings, connections, groups, workers, and the last look."""

from dataclasses import dataclass, field, replace
from typing import Any

from celery import Celery

from celery_autoscaler import limits, policy
from celery_autoscaler.broker import Broker, connect
from celery_autoscaler.estimates import Pace
from celery_autoscaler.group_state import GroupState
from celery_autoscaler.launchers import Launcher
from celery_autoscaler.local import LocalWorker
from celery_autoscaler.observation import Seen
from celery_autoscaler.settings import Settings
from celery_autoscaler.task_counts import HostCounts

# Seconds that a supervisor's heartbeat stands: then the others take over its share.
LEASE = 5.0


@dataclass
class Counts:
    """What has happened since the supervisor started, for the metrics."""

    started: dict[str, int] = field(default_factory=dict)
    stopped: dict[str, int] = field(default_factory=dict)
    died: dict[str, int] = field(default_factory=dict)
    recovered: int = 0


class Context:
    """The state of one supervisor."""

    def __init__(self, app: Celery, settings: Settings, launcher: Launcher) -> None:
        self.app = app
        self.settings = settings
        self.host = settings.host
        self.launcher = launcher
        self.counts = Counts()
        self.task_counts = HostCounts()
        self.pace = Pace()
        self.brakes = limits.Brakes(settings.cpu_threshold, settings.memory_threshold)
        self.local: dict[str, LocalWorker] = {}
        self.groups: dict[str, GroupState] = {}
        self.seen: Seen | None = None
        self.host_seen = limits.HostSeen()
        self.tick_seconds = 0.0
        self.status: dict[str, Any] = {"host": self.host, "state": "starting"}
        self._broker: Broker | None = None

    @property
    def broker(self) -> Broker:
        """The connection to the broker."""
        if self._broker is None:
            self._broker = connect(self.app)
        return self._broker

    def override(self, group: str) -> policy.Override:
        """Return what operators have set for a group; what is set for all pauses it too."""
        overrides = self.seen.overrides if self.seen else {}
        own, every = overrides.get(group, policy.Override()), overrides.get("*", policy.Override())
        return replace(own, paused=True, by=every.by) if every.paused else own

    def count(self, group: str | None, *states: str) -> int:
        """Return how many workers of this host are in one of some states."""
        return sum(w.state in states and group in (None, w.group) for w in self.local.values())
