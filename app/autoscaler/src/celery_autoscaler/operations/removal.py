"""Remove what a fleet has in its broker, once none of its workers and supervisors runs."""

import re
from collections.abc import Iterable, Iterator
from itertools import islice

from celery_autoscaler.operations.actions import Refused
from celery_autoscaler.protocol import orphans, recovery
from celery_autoscaler.protocol.broker import Broker
from celery_autoscaler.protocol.identity import worker_name
from celery_autoscaler.protocol.keys import Keys, as_bytes
from celery_autoscaler.protocol.lease import leased_workers
from celery_autoscaler.protocol.text import listed

CHUNK = 500


def delete_keys(broker: Broker, queues: Iterable[str] = ()) -> tuple[int, int]:
    """Give back what dead workers hold, then delete the keys of the project, and queues with their messages.

    Returns:
        How many keys and how many messages were deleted.

    Raises:
        Refused: A worker or a supervisor has a lease: it would write new ones.
    """
    ids = [*leased_workers(broker.client, broker.keys), *orphans.forsaken(broker.client, broker.keys)]
    alive = [worker_name(worker_id) for worker_id in ids if recovery.recover(broker, worker_id) is None]
    seconds, _ = broker.client.time()
    hosts = broker.client.zrangebyscore(broker.keys.supervisors, seconds * 1000, "+inf")
    alive += [f"the supervisor of {host.decode(errors='replace')}" for host in hosts]
    if alive:
        raise Refused(f"not stopped, or their lease has not run out: {listed(alive)}")
    messages = sum(_delete_queue(broker, queue) for queue in queues)
    return _unlink(broker, own_keys(broker)), messages


def own_keys(broker: Broker) -> Iterator[bytes]:
    """Yield the names of the keys of the project, and of no other one."""
    keys = broker.keys
    others = as_bytes(f"{keys.prefix}{Keys().fleet}project:")
    for start in {keys.fleet, keys.dead_letter("")}:
        pattern = re.sub(r"([*?\[\]\\])", r"\\\1", start) + "*"
        for name in broker.client.scan_iter(match=as_bytes(pattern), count=1000):
            if keys.project or not name.startswith(others):
                yield name


def _unlink(broker: Broker, names: Iterator[bytes]) -> int:
    found = 0
    while chunk := list(islice(names, CHUNK)):
        found += int(broker.client.unlink(*chunk))
    return found


def _delete_queue(broker: Broker, queue: str) -> int:
    lists = [as_bytes(f"{broker.keys.prefix}{name}") for name in broker.lists(queue)]
    with broker.client.pipeline() as pipe:
        for name in lists:
            pipe.llen(name)
        pipe.unlink(*lists)
        *lengths, _ = pipe.execute()
    return sum(map(int, lengths))
