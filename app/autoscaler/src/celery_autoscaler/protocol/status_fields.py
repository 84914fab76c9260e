"""What a supervisor says of its host, its groups and its workers: the fields of its status, read totally."""

from collections.abc import Mapping
from typing import Any

from celery_autoscaler.protocol.former import FORMER_NAMES, renamed
from celery_autoscaler.protocol.lenient import Trouble, flag, many, named, number, table, whole, words
from celery_autoscaler.protocol.readers import UnreadableError, read_mapping

# Bytes of a status: a host has thousands of workers at most.
MOST_STATUS = 16 * 2**20

QUEUE = table(
    {
        "messages": whole(),
        "future": whole(),
        "age": number(),
        "taken": whole(),
        "dead_letters": whole(),
    }
)
GROUP_FIELDS = table(
    {
        "target_wait": number(10.0, low=0.001),
        "min_workers": whole(),
        "max_workers": whole(),
        "concurrency": whole(1),
        "want": whole(),
        "reason": words(),
        "limit": words(),
        "emergency": flag,
        "held_back": words(),
        "failed_starts": whole(),
        "last_failure": words(),
        "ready": whole(),
        "starting": whole(),
        "draining": whole(),
        "busy": whole(),
        "held": whole(),
        "waiting": whole(),
        "future": whole(),
        "age": number(),
        "overdue": whole(),
        "overdue_age": number(),
        "unserved": number(),
        "not_served": flag,
        "arrivals": number(),
        "service_time": number(None),
        "startup": number(),
        "queues": named(QUEUE),
    }
)


def group(value: Any, name: str, trouble: Trouble) -> Any:
    """Read what is said of a group, also by a supervisor of the release before."""
    if isinstance(value, dict):
        value = renamed(value)
        limit = value.get("limit")
        value["limit"] = FORMER_NAMES.get(limit, limit) if isinstance(limit, str) else limit
    return GROUP_FIELDS(value, name, trouble)


WORKER = table(
    {
        "name": words("?"),
        "group": words(),
        "state": words("?"),
        "why": words(),
        "pid": whole(),
        "active": whole(),
        "reserved": whole(),
        "processed": whole(),
        "failed": whole(),
        "outdated": flag,
        "memory": whole(),
        "release": words(),
        "running": many(table({"task": words("?"), "seconds": number()})),
    }
)
TICK = table({"every": number(1.0), "took": number()})


def tick(value: Any, name: str, trouble: Trouble) -> Any:
    """Read how often a supervisor looks; one that does not say so has the default."""
    return TICK({} if value is None else value, name, trouble) or TICK({}, name, trouble)


HOST = table(
    {
        "host": words(),
        "at": number(),
        "state": words("?"),
        "why": words(),
        "pid": whole(),
        "tick": tick,
        "peers": many(words()),
        "redis": words(),
        "capacity": number(None),
        "cpus": number(1.0, low=0.01),
        "cpu": number(),
        "memory": number(),
        "memory_limit": number(),
        "groups": named(group),
        "workers": many(WORKER),
        "failures": named(whole()),
        "ended": named(whole()),
        "problems": many(words()),
        "unreadable": named(table({"count": whole(), "names": many(words())})),
    }
)


def read_status(host: str, text: str | bytes | None) -> tuple[dict[str, Any] | None, list[str]]:
    """Return a supervisor's status, and what in it could not be read; no status if nothing could.

    Args:
        host: The host that it is of; what the status itself says of that counts for nothing.
        text: The status as it stands in Redis.
    """
    try:
        value = read_mapping(text, MOST_STATUS)
    except UnreadableError as error:
        return None, [f"the status of {host} ({error})"]
    return checked_status(host, value)


def checked_status(host: str, value: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return a supervisor's status with all its fields, and the names of those that were wrong."""
    trouble = Trouble()
    status: dict[str, Any] = HOST(value, "", trouble)
    status["host"] = host
    if status["capacity"] is None:
        status["capacity"] = status["cpus"]
    return status, [f"{name} in the status of {host}" for name in trouble.named]
