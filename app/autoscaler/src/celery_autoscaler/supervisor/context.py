"""What the parts of one supervisor share: settings, connections, groups, workers, and the last look."""

import time
from dataclasses import dataclass, field

from celery_autoscaler.protocol.broker import Broker, connect
from celery_autoscaler.protocol.description import Description
from celery_autoscaler.protocol.overrides import Override
from celery_autoscaler.protocol.status import VERSION, SupervisorStatus, TickStatus
from celery_autoscaler.settings import Group, Settings
from celery_autoscaler.supervisor.faults import Faults
from celery_autoscaler.supervisor.group_state import GroupState
from celery_autoscaler.supervisor.host_counts import HostCounts
from celery_autoscaler.supervisor.launchers import Launcher
from celery_autoscaler.supervisor.local import LocalWorker
from celery_autoscaler.supervisor.observation import FleetSeen
from celery_autoscaler.supervisor.policy import law, limits
from celery_autoscaler.supervisor.policy.bounds import bounds
from celery_autoscaler.supervisor.policy.estimates import SlowdownDetector
from celery_autoscaler.supervisor.server_room import ClientsPerWorker
from celery_autoscaler.supervisor.settings_check import check_settings, errors
from celery_autoscaler.supervisor.unreadable import UnreadableLog

# A supervisor whose heartbeat is older has lost its share to the others, unless it ticks seldom.
SUPERVISOR_LEASE_SECONDS = 5.0
LEASE_TICKS = 3


@dataclass
class Counts:
    """What has happened since the supervisor started, for the metrics."""

    started: dict[str, int] = field(default_factory=dict)
    stopped: dict[str, int] = field(default_factory=dict)
    died: dict[str, int] = field(default_factory=dict)
    recovered: int = 0
    orphans: int = 0
    """Records that the fleet found to belong to no worker."""


class Context:
    """The state of one supervisor."""

    def __init__(self, app: Description, settings: Settings, launcher: Launcher) -> None:
        self.app = app
        self.settings = settings
        self.host = settings.host
        self.launcher = launcher
        self.counts = Counts()
        self.task_counts = HostCounts()
        self.slowdown = SlowdownDetector()
        self.host_limits = limits.HostLimits(settings.cpu_threshold, settings.memory_threshold)
        self.local: dict[str, LocalWorker] = {}
        self.groups: dict[str, GroupState] = {}
        self.overrides: dict[str, Override] = {}
        self.seen: FleetSeen | None = None
        self.unreadable = UnreadableLog()
        self.problems: list[str] = []
        """Settings by which tasks can be lost, doubled or left waiting."""
        self.faults = Faults()
        self.clients_per_worker = ClientsPerWorker()
        self.host_seen = limits.HostSeen()
        self.tick_seconds = 0.0
        self.status = SupervisorStatus(host=self.host, version=VERSION, state="starting")
        self._broker: Broker | None = None

    @property
    def broker(self) -> Broker:
        """The connection to the broker."""
        if self._broker is None:
            self._broker = connect(self.app)
        return self._broker

    def use(self, settings: Settings) -> None:
        """Use settings; what is known of groups that remain is kept."""
        self.settings = settings
        with self.faults.contained("check of the settings"):
            self.problems = errors(check_settings(self.app, settings))
        self.host_limits.cpu_threshold = settings.cpu_threshold
        self.host_limits.memory_threshold = settings.memory_threshold
        kept, self.groups = self.groups, {}
        for name, group in settings.groups.items():
            state = kept.get(name) or GroupState(group, law.GroupPolicy(), quiet_since=time.monotonic())
            state.group = group
            state.law.stabilisation = settings.stabilisation
            state.law.queue_threshold = settings.queue_threshold
            self.groups[name] = state

    def override(self, group: str) -> Override:
        """Return what operators have set for a group, as far as it can be in force."""
        return self.overrides.get(group, Override())

    def bounds(self, group: Group) -> tuple[int, int]:
        """Return the minimum and the maximum of a group that are in force."""
        return bounds(group, self.override(group.name))

    def count(self, group: str | None, *states: str) -> int:
        """Return how many workers of this host are in one of some states."""
        return sum(w.state in states and group in (None, w.group) for w in self.local.values())

    @property
    def lease(self) -> float:
        """Seconds after a tick for which the others count on this supervisor."""
        return max(SUPERVISOR_LEASE_SECONDS, LEASE_TICKS * self.settings.tick)

    def tick_status(self) -> TickStatus:
        """Return how often this supervisor looks, and how long the last tick took."""
        return TickStatus(self.settings.tick, round(self.tick_seconds, 4))
