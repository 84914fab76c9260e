"""Names of the Redis keys that the fleet owns, in the database of the app's broker.

All of them stand behind the app's ``global_keyprefix``, as its queues do.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Keys:
    """The fleet's keys behind one prefix."""

    prefix: str = ""

    @property
    def workers(self) -> str:
        """Sorted set: worker id → end of its lease, in milliseconds of the server's clock."""
        return f"{self.prefix}fleet:workers"

    def worker(self, worker_id: str) -> str:
        """Hash that lives as long as the worker's lease: its session and its heartbeat."""
        return f"{self.prefix}fleet:worker:{worker_id}"

    def unacked(self, worker_id: str) -> str:
        """Hash: token → name of the list, a line feed, the message as it stood in the list."""
        return f"{self.prefix}fleet:unacked:{worker_id}"

    def rescued(self, worker_id: str) -> str:
        """String that exists once somebody began to give the worker's messages back: the fence."""
        return f"{self.prefix}fleet:rescued:{worker_id}"

    @property
    def drain(self) -> str:
        """Set of the names of workers that shall take nothing new."""
        return f"{self.prefix}fleet:drain"

    def dead_letter(self, queue: str) -> str:
        """List of the messages of a queue that came back too often, the newest first."""
        return f"{self.prefix}dead_letter:{queue}"

    def without_prefix(self, key: str) -> str:
        """Return the name of a key as the app knows it."""
        return key.removeprefix(self.prefix)


def worker_name(worker_id: str) -> str:
    """Return Celery's name of a worker, ``name@host``, from its id ``name@host:incarnation``."""
    return worker_id.rpartition(":")[0]
