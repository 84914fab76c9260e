"""Keys of the fleet that hold another type than they should: they are set aside, and spoil nothing else."""

from typing import Any

from redis.exceptions import ResponseError

from celery_autoscaler.protocol.broker import Client
from celery_autoscaler.protocol.identity import host_of, worker_name
from celery_autoscaler.protocol.keys import Keys
from celery_autoscaler.protocol.reading import Refusal

KIND = "key"


def replies_of(pipe: Any) -> list[Any]:
    """Execute a pipeline; return its replies, errors of single keys that hold another type among them.

    Raises:
        redis.RedisError: The server does not answer, or refuses anything else.
    """
    replies: list[Any] = pipe.execute(raise_on_error=False)
    for reply in replies:
        if isinstance(reply, Exception) and not is_wrong_type(reply):
            raise reply
    return replies


def is_wrong_type(error: BaseException) -> bool:
    """Return whether a key holds another type than a command works on."""
    return isinstance(error, ResponseError) and "WRONGTYPE" in str(error)


def set_aside(client: Client, keys: Keys, key: str) -> Refusal:
    """Rename a key of the fleet that holds another type, so that the fleet can use it again.

    What it held cannot be the fleet's; it is kept under another name, one for each key.

    Raises:
        redis.RedisError: The server does not answer.
    """
    name = keys.without_prefix(key)
    aside = keys.set_aside(key)
    try:
        client.rename(key, aside)
    except ResponseError as error:
        # Another process was faster.
        if "no such key" not in str(error):
            raise
    return Refusal(KIND, name, f"it held another type, and was renamed to {keys.without_prefix(aside)}")


def set_aside_for(client: Client, keys: Keys, worker_id: str) -> list[Refusal]:
    """Set aside what a worker could not go on with: of its own keys, and of those that all workers share.

    Raises:
        redis.RedisError: The server does not answer.
    """
    kinds = {
        keys.worker(worker_id): b"hash",
        keys.unacked(worker_id): b"hash",
        keys.task_counts(host_of(worker_name(worker_id))): b"hash",
        keys.failures: b"stream",
        keys.failure_kinds: b"hash",
        keys.failure_examples: b"hash",
        keys.workers: b"zset",
        keys.drain: b"set",
    }
    with client.pipeline(transaction=False) as pipe:
        for key in kinds:
            pipe.type(key)
        found = zip(kinds.items(), pipe.execute(), strict=True)
    return [set_aside(client, keys, key) for (key, kind), is_kind in found if is_kind not in (kind, b"none")]
