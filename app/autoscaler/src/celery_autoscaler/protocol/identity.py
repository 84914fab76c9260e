"""What a worker is called: ``group-n@host`` is its name, ``group-n@host:incarnation`` its id.

An id has no room for a version: its form never changes. It is written by a worker as it starts.
"""

from dataclasses import dataclass
from typing import Any

from celery_autoscaler.protocol.reading import Refusal, UnreadableError, read_text, shown

KIND = "worker"


def worker_name(worker_id: str) -> str:
    """Return Celery's name of a worker, ``name@host``, from its id; nothing of what is no id."""
    return worker_id.rpartition(":")[0]


def instance_of(name: str) -> str:
    """Return the name of a worker on its host, ``group-n``."""
    return name.partition("@")[0]


def host_of(name: str) -> str:
    """Return the host of a worker's name."""
    return name.partition("@")[2]


def group_of(name: str) -> str:
    """Return the group of a worker's name, also of its name on its host; a name without a number is one."""
    instance = instance_of(name)
    return instance.rpartition("-")[0] or instance


@dataclass(frozen=True)
class WorkerId:
    """One incarnation of a worker."""

    name: str
    """Celery's name of the worker, ``group-n@host``."""
    incarnation: str
    """Tells it from all others that have the name, before and after it."""

    @property
    def host(self) -> str:
        """Its host."""
        return host_of(self.name)

    @property
    def group(self) -> str:
        """Its group."""
        return group_of(self.name)

    def dump(self) -> str:
        """Return the id as keys and sets hold it."""
        return f"{self.name}:{self.incarnation}"

    @classmethod
    def load(cls, member: Any) -> "WorkerId | Refusal":
        """Read an id."""
        try:
            return cls(worker_name(read_worker_id(member)), read_text(member).rpartition(":")[2])
        except UnreadableError as error:
            return Refusal(KIND, shown(member), str(error))


def read_worker_id(member: Any) -> str:
    """Return the id of a worker, ``name@host:incarnation``, from a member of the set of workers.

    Raises:
        UnreadableError: It is none.
    """
    found = read_text(member)
    name, _, incarnation = found.rpartition(":")
    if not (incarnation and read_worker_name(name)):
        raise UnreadableError("it is no id of a worker, name@host:incarnation")
    return found


def read_worker_name(member: Any) -> str:
    """Return the name of a worker, ``name@host``.

    Raises:
        UnreadableError: It is none.
    """
    found = read_text(member)
    if not (instance_of(found) and host_of(found)):
        raise UnreadableError("it is no name of a worker, name@host")
    return found
