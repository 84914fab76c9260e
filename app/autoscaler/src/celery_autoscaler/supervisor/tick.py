"""What one tick of a supervisor knows."""

from collections.abc import Mapping
from dataclasses import dataclass

from celery_autoscaler.supervisor.launchers import State
from celery_autoscaler.supervisor.observation import FleetSeen
from celery_autoscaler.supervisor.policy.limits import HostSeen


@dataclass(frozen=True)
class Tick:
    """What a supervisor knows when it acts. Nothing in it changes before the next tick."""

    now: float
    """By a steady clock, in seconds."""
    fleet: FleetSeen
    """What the broker shows."""
    host: HostSeen
    """What the host shows: CPU and memory."""
    states: Mapping[str, State]
    """What the launcher knows of this host's workers, by name."""
    sees_since: float
    """Since when the supervisor has seen the broker without a gap."""
