"""Find records that belong to no worker, so that somebody gives their messages back.

Recovery looks at the set of workers. A record whose worker is not in that set would be seen by nobody:
the set was deleted, its server lost what it had not written yet, an older release gave a lease up too early.

To look for such records is to go through the names of all keys. So it is done in small steps, one at a time
in the whole fleet, by processes in turn: each looks at a few thousand names, the next goes on from there.
What is found is entered into the set of workers as one whose lease runs out soon. A worker that lives after
all renews it until then; one that does not is rescued like all others.
"""

import logging
import re
import time
from collections.abc import Iterator

from redis.exceptions import RedisError

from celery_autoscaler.protocol.broker import Client
from celery_autoscaler.protocol.keys import Keys, as_bytes, as_name
from celery_autoscaler.protocol.script import script
from celery_autoscaler.protocol.text import as_text

logger = logging.getLogger(__name__)

# Seconds between two tries of each member, for which a step is the only one of the fleet, and names that it
# looks at: about a millisecond of Redis.
EVERY = 5.0
TURN = 4.5
NAMES = 2000
# Seconds until what was found is rescued: more than the pause between two heartbeats of a living worker.
GRACE = 5.0
# Seconds between two looks of somebody who does not want to wait so long.
LOOK_AGAIN = 2.0

SEARCH = script("protocol", "search_orphans")


class Searcher:
    """Takes its part in the search, whenever it is asked to; most of the time it does nothing."""

    def __init__(self) -> None:
        self.found = 0
        """How many such records the fleet has found so far."""
        self._next = 0.0

    def search(self, client: Client, keys: Keys) -> None:
        """Make the next step of the fleet's search, if it is due and no other process makes it; never raise.

        A server that is away or full has its other callers say so.
        """
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + EVERY
        before = len(as_bytes(keys.unacked("")))
        try:
            found, self.found = client.register_script(SEARCH)(
                keys=[keys.search_turn, keys.search_position, keys.workers, keys.orphans],
                args=[int(TURN * 1000), pattern(keys), NAMES, before, int(GRACE * 1000)],
            )
        except (RedisError, OSError) as error:
            logger.debug("No search for records that belong to no worker: %s", error)
            return
        for worker_id in map(as_name, found):
            logger.warning(
                "The record of %s belongs to no worker: its messages are given back", as_text(worker_id)
            )


def orphans(client: Client, keys: Keys) -> Iterator[tuple[str, int]]:
    """Yield the ids of workers that are in no set of workers and still have a record, with its messages.

    It goes through the names of all keys.
    """
    prefix = keys.unacked("")
    for name in client.scan_iter(match=pattern(keys), count=1000):
        worker_id = as_name(name).removeprefix(prefix)
        if client.zscore(keys.workers, as_bytes(worker_id)) is None and client.type(name) == b"hash":
            yield worker_id, int(client.hlen(name))


def forsaken(client: Client, keys: Keys) -> list[str]:
    """Return the ids of such workers, after a second look: a living one enters itself with each heartbeat."""
    found = {worker_id for worker_id, _ in orphans(client, keys)}
    if not found:
        return []
    time.sleep(LOOK_AGAIN)
    return sorted(found.intersection(worker_id for worker_id, _ in orphans(client, keys)))


def pattern(keys: Keys) -> bytes:
    """Return the pattern of the names of all records, whatever characters the prefix has."""
    return re.sub(rb"([\[\]*?^\\-])", rb"\\\1", as_bytes(keys.unacked(""))) + b"*"
