"""How workers are started and stopped."""

from enum import Enum
from typing import Protocol

from celery_autoscaler.settings import Group


class State(Enum):
    """What a launcher knows of a worker; only the heartbeat shows whether it consumes."""

    RUNNING = "running"
    STOPPING = "stopping"
    """Asked to end."""
    FAILED = "failed"
    """Ended without having been asked to."""


class StopSignal(Enum):
    """How a worker is made to end, the milder ways first."""

    TERM = "SIGTERM: finish what runs"
    QUIT = "SIGQUIT: give back what runs"
    KILL = "SIGKILL"


class Launcher(Protocol):
    """Starts and stops the workers of this host. No call waits for a worker."""

    outlived: bool
    """Whether the workers go on when the supervisor ends."""

    gives_settings: bool
    """Whether workers are started with the settings of their group; else their units have their own."""

    def start(self, group: Group, worker: str) -> None:
        """Start a worker, ``<group>-<n>``."""

    def workers(self) -> dict[str, State]:
        """Return the workers that there are, by name; one that has ended when asked to is gone."""

    def send_signal(self, worker: str, how: StopSignal) -> None:
        """Make a worker end."""

    def forget_failed(self, worker: str) -> None:
        """Forget a worker that has failed, so that its name can be used again."""

    def last_words(self, worker: str) -> list[str]:
        """Return the last lines that a worker printed, as it printed them."""

    def where_to_look(self, worker: str) -> str:
        """Return where all that a worker printed can be read."""

    def close(self) -> None:
        """Let go of what the launcher holds; it starts and stops nothing any more."""


class LaunchError(Exception):
    """A worker could not be started or stopped: one line that says why."""


# Lines of a worker's output that are looked at when it has failed, and that are worth showing.
LAST_WORDS, SHOWN_WORDS = 30, 5
