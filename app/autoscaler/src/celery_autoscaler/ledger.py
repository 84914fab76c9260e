"""What one worker process holds, on whichever connection it has: its messages, its session, its lease."""

import contextlib
import logging
import os
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from time import monotonic
from typing import TYPE_CHECKING, Any

from kombu.transport import redis
from redis import Redis
from redis.exceptions import ResponseError

from celery_autoscaler import recovery
from celery_autoscaler.keys import Keys, worker_name
from celery_autoscaler.outcomes import Outcomes
from celery_autoscaler.task_counts import TaskCounts

if TYPE_CHECKING:
    from celery_autoscaler.channel import Channel

logger = logging.getLogger(__name__)

# KEYS: the worker's hash, its fence, its record, the set of workers.
# ARGV: worker id, session, milliseconds of the lease.  Returns the tokens of the record.
# Invariant: a worker that is being rescued never comes back.
OPEN = """
if redis.call('EXISTS', KEYS[2]) == 1 then return redis.error_reply('FENCED') end
redis.call('HSET', KEYS[1], 'session', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
local now = redis.call('TIME')
redis.call('ZADD', KEYS[4], now[1] * 1000 + math.floor(now[2] / 1000) + ARGV[3], ARGV[1])
return redis.call('HKEYS', KEYS[3])
"""


class Fenced(Exception):  # noqa: N818 - a state, not an error
    """The worker's messages were given to others while it was silent."""


class Ledger:
    """What one worker process holds: the messages that it took and has not settled.

    Lives as long as the process; connections come and go. Acknowledgements may come from any thread.
    """

    def __init__(self, worker_id: str, lease: float) -> None:
        """Make the ledger of a worker whose lease lasts so many seconds."""
        self.worker_id = worker_id
        self.lease = lease
        self.keys = Keys()
        self.separator = ""
        self._client: recovery.Client = None
        self._server = ""
        self.pid = os.getpid()
        self.delivered: OrderedDict[str, Any] = OrderedDict()
        self.dirty: set[str] = set()
        self.unsent: set[str] = set()
        self.unreturned: dict[str, str | None] = {}
        self.fetches = 0
        # How many messages were taken from each list, by its name without prefix.
        self.taken: Counter[str] = Counter()
        # Tasks that ended with an error.
        self.failed = 0
        self.task_counts = TaskCounts()
        self.sessions = 0
        self.draining = False
        self.fenced = False
        self.closing = False
        self.outcomes = Outcomes()
        # Messages whose outcome waits to be told.
        self.telling: dict[str, Any] = {}
        # When the lease was last renewed, by the process's clock.
        self.renewed = 0.0
        # Tries a request again soon, where there is an event loop that must not wait for it.
        self.postpone: Callable[[Any], Any] | None = None
        # virtual.QoS looks for it.
        self.delivered.restored = False  # type: ignore[attr-defined]

    def bind(self, channel: "Channel") -> None:
        """Use the newest connection's settings for what is settled from now on."""
        self.keys = Keys(channel.global_keyprefix)
        self.separator = channel.sep
        server = channel.connection.client.as_uri(include_password=True)
        if server != self._server:
            self._server = server
            # Not kombu's prefixing client: these keys have the prefix, and scripts name keys that it misses.
            # Not the channel's pool: whoever loses its connection closes that, and others settle meanwhile.
            self._client = Redis(connection_pool=channel._get_pool())

    @property
    def client(self) -> recovery.Client:
        """The connection for everything but fetching, once there is one."""
        if self._client is None:
            raise RuntimeError("the worker has not connected yet")
        return self._client

    @property
    def silent(self) -> bool:
        """Whether the server has not confirmed the lease for so long that it may be over."""
        return monotonic() - self.renewed > self.lease

    def held(self) -> list[str]:
        """Return the tokens of the messages that are not settled."""
        return [token for token in [*self.delivered, *self.telling] if token not in self.dirty]

    def open_session(self) -> str:
        """Take or renew the lease on this connection, and put back what a lost reply left in the record.

        Raises:
            Fenced: The worker's messages were given to others.
        """
        self.flush()
        keys, worker = self.keys, self.worker_id
        self.sessions += 1
        session = str(self.sessions)
        sent = monotonic()
        try:
            recorded = self.client.register_script(OPEN)(
                keys=[keys.worker(worker), keys.rescued(worker), keys.unacked(worker), keys.workers],
                args=[worker, session, int(self.lease * 1000)],
            )
        except ResponseError as error:
            raise fenced_or(error) from error
        self.renewed = sent
        known = {*self.held(), *self.unsent, *self.unreturned}
        self.give_back([token for token in map(bytes.decode, recorded) if token not in known])
        return session

    def settle(self, token: str) -> None:
        """Delete the record of a message. If the server does not hear it, that is tried again later."""
        self.telling.pop(token, None)
        self.unsent.add(token)
        # Else the event loop would wait in vain for each of them; the heartbeat tries it.
        if not self.silent:
            self.flush()

    def make_room(self, token: str) -> None:
        """Let a message that is still held count against no prefetch any more."""
        message = self.delivered.pop(token, None)
        if message is not None:
            self.telling[token] = message

    def put_back_last(self, token: str, died: str | None) -> None:
        """Put a message back at the end of its list. If the server does not hear it, that is tried again."""
        self.telling.pop(token, None)
        self.unreturned[token] = died
        self.flush()

    def flush(self) -> None:
        """Send what the server has not heard yet."""
        settled, returned = list(self.unsent), list(self.unreturned.items())
        try:
            if settled:
                self.client.hdel(self.keys.unacked(self.worker_id), *settled)
                self.unsent.difference_update(settled)
            for token, died in returned:
                self.give_back([token], end="last", died=died)
                self.unreturned.pop(token, None)
        except redis.get_redis_error_classes().connection_errors:
            return

    def tell_task_counts(self) -> None:
        """Write down the counts of tasks for the supervisor of this host, if they have changed.

        Raises:
            redis.RedisError: The server does not answer, or is full; the next call tells them.
        """
        key = self.keys.task_counts(worker_name(self.worker_id).partition("@")[2])

        def send(text: str) -> None:
            with self.client.pipeline(transaction=False) as pipe:
                pipe.hset(key, self.worker_id, text).expire(key, recovery.DAY).execute()

        self.task_counts.tell(send)

    def close(self) -> None:
        """Put back what is left and give up the lease, at the end of the worker."""
        if self.fenced or self.pid != os.getpid() or self._client is None:
            return
        try:
            if held := self.held():
                logger.info("Giving back %d messages that were not finished", len(held))
                self.give_back(held)
                self.delivered.clear()
                self.telling.clear()
            self.flush()
            # A full server has no room for them, but the lease is given up all the same.
            with contextlib.suppress(ResponseError):
                self.tell_task_counts()
            if not self.unsent:
                with self.client.pipeline() as pipe:
                    pipe.zrem(self.keys.workers, self.worker_id).delete(
                        self.keys.worker(self.worker_id)
                    ).execute()
        except redis.get_redis_error_classes().connection_errors as error:
            logger.warning("The broker is away (%s): others give back what is left", error)

    def give_back(self, tokens: Iterable[str], **circumstances: Any) -> None:
        """Put messages back into their lists; see :func:`celery_autoscaler.recovery.give_back`."""
        recovery.give_back(
            self.client, self.keys, self.worker_id, tokens, separator=self.separator, **circumstances
        )


def fenced_or(error: ResponseError) -> Exception:
    """Return Fenced if that is what a step answered, else the error itself."""
    return Fenced() if "FENCED" in str(error) else error
