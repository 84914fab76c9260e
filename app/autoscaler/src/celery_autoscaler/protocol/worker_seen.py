"""A worker as others see it: its lease, and its heartbeat. Workers start without this module."""

from collections.abc import Mapping
from dataclasses import dataclass

from celery_autoscaler.protocol.heartbeat import MOST_MESSAGES, Heartbeat, fields
from celery_autoscaler.protocol.identity import KIND, instance_of, worker_name
from celery_autoscaler.protocol.reading import Refusal, UnreadableError, read_whole


@dataclass(frozen=True)
class WorkerSeen(Heartbeat):
    """A worker, as its lease and its heartbeat show it."""

    id: str = ""
    alive: bool = True
    """Whether its lease lives."""
    told: int = 0
    """Slots that its supervisor told it to have; 0 if none did."""

    @classmethod
    def see(
        cls, worker_id: str, alive: bool, found: Mapping[bytes, bytes]
    ) -> "tuple[WorkerSeen, list[Refusal]]":
        """Return a worker from its lease and its hash, and the fields of that that cannot be read."""
        refused: list[Refusal] = []
        try:
            told = read_whole(found.get(b"slots", 0), 0, MOST_MESSAGES)
        except UnreadableError as error:
            told = 0
            refused.append(Refusal(KIND, f"{worker_id} slots", str(error)))
        return cls(id=worker_id, alive=alive, told=told, **fields(worker_id, found, refused)), refused

    @property
    def slots(self) -> int:
        """Tasks that it runs at a time, or will within a moment."""
        return self.told if self.told and self.max_concurrency else self.concurrency

    @property
    def name(self) -> str:
        """Celery's name of the worker, ``group-n@host``."""
        return worker_name(self.id)

    @property
    def instance(self) -> str:
        """Its name on its host, ``group-n``."""
        return instance_of(self.id)

    @property
    def holds_nothing(self) -> bool:
        """Whether it has no message at all: none that runs, is reserved, or waits for an ETA or a rate."""
        return not (self.active or self.reserved or self.scheduled or self.held)
