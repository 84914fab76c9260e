"""What one worker process holds, on whichever connections it has: its messages, its session, its lease."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

from redis import Redis
from redis.exceptions import RedisError, ResponseError

from celery_autoscaler.consuming.failures import Failures
from celery_autoscaler.consuming.outcomes import Outcomes
from celery_autoscaler.consuming.task_counts import TaskCounts
from celery_autoscaler.protocol import recovery
from celery_autoscaler.protocol.broker import Broker, Client
from celery_autoscaler.protocol.identity import host_of, worker_name
from celery_autoscaler.protocol.keys import Keys, as_name
from celery_autoscaler.protocol.project import project_name
from celery_autoscaler.protocol.script import script
from celery_autoscaler.protocol.server_state import UNLIMITED, is_refusal
from celery_autoscaler.protocol.wrong_types import is_wrong_type, set_aside_for

if TYPE_CHECKING:
    from celery_autoscaler.consuming.channel import Channel

logger = logging.getLogger(__name__)

OPEN = script("consuming", "open_session")

CLOSE = script("consuming", "give_up_lease")

# What a worker may meet on the way to the server; whatever was to be sent is kept and sent later.
UNHEARD = (RedisError, OSError)
# Begins the token of a delivery that has no record: a broadcast.
UNRECORDED = "unrecorded."


class Fenced(Exception):  # noqa: N818 - a state, not an error
    """The worker's messages were given to others while it was silent."""


@dataclass(frozen=True)
class Return:
    """A message on its way back to its list, or to the dead letters."""

    died: str | None = None
    """Why it was not finished; nothing for a message that was never begun."""
    due: float = 0.0
    """When it is to be sent, by the process's clock."""
    end: Literal["next", "last"] = "last"
    """Whether it is the next to be taken, or the last."""
    max_redeliveries: int = recovery.MAX_REDELIVERIES
    """How often it may come back; -1 for the dead letters at once."""


class Ledger:
    """What one worker process holds: the messages that it took and has not settled.

    Lives as long as the process; connections and channels come and go, and share it. Acknowledgements may
    come from any thread.

    Each message that the worker's record in Redis holds is in one of four places at any time, so that nothing
    is recorded and forgotten: `fetching` (its reply has not been read), `incoming` (no consumer has it yet),
    `delivered`, or `unsent` and `returning` (Redis has not heard yet that it is settled).
    """

    def __init__(self, worker_id: str, lease: float) -> None:
        """Make the ledger of a worker with a lease of that number of seconds."""
        self.worker_id = worker_id
        self.lease = lease
        self.keys = Keys()
        self.separator = ""
        self._client: Client = None
        self._server = ""
        self.pid = os.getpid()
        # Prefix of the tokens of a step under way → whether its reply can still be read.
        self.fetching: dict[str, Callable[[], bool]] = {}
        self.incoming: dict[str, None] = {}
        self.delivered: dict[str, Any] = {}
        # Token of a delivered message → the tokens that count against the prefetch of its channel.
        self.holders: dict[str, set[str]] = {}
        self.unsent: set[str] = set()
        self.returning: dict[str, Return] = {}
        self.fetches = 0
        self._unrecorded = 0
        # Token of the broadcast that is being delivered.
        self.broadcast: str | None = None
        # How many messages were taken from each list, by its name without prefix.
        self.taken: Counter[str] = Counter()
        # Tasks that ended with an error.
        self.failed = 0
        self.task_counts = TaskCounts()
        self.failures = Failures()
        self.sessions = 0
        self._is_open = False
        self._unheard = ""
        self.draining = False
        self.fenced = False
        # Whether the worker waits for its tasks and takes no others.
        self.ending = False
        self.closing = False
        self.outcomes = Outcomes()
        # When the lease was last renewed, by the process's clock.
        self.renewed = 0.0
        # Takes the number of slots that a worker that stretches is told.
        self.hear_slots: Callable[[bytes], None] | None = None
        # Tries a request again soon, where there is an event loop that must not wait for it.
        self.postpone: Callable[[Any], Any] | None = None

    def bind(self, channel: "Channel") -> None:
        """Use the newest connection's settings for what is settled from now on."""
        self.keys = Keys(channel.global_keyprefix, project_name())
        self.separator = channel.sep
        server = channel.connection.client.as_uri(include_password=True)
        if server != self._server:
            self._server = server
            # Not kombu's prefixing client: these keys have the prefix, and scripts name keys that it misses.
            # Not the channel's pool: a thread closes that with its connection, and others settle meanwhile.
            # Nor with its limit: each thread that settles needs a connection.
            pool = channel._get_pool()
            pool.max_connections = UNLIMITED
            pool.connection_kwargs["encoding_errors"] = "surrogateescape"
            self._client = Redis(connection_pool=pool)

    @property
    def client(self) -> Client:
        """The connection for everything but fetching, once there is one."""
        if self._client is None:
            raise RuntimeError("the worker has not connected yet")
        return self._client

    @property
    def broker(self) -> Broker:
        """The broker as those functions take it that serve workers and supervisors."""
        return Broker(self.client, self.keys, self.separator)

    @property
    def silent(self) -> bool:
        """Whether the server has not confirmed the lease for so long that it may be over."""
        return monotonic() - self.renewed > self.lease

    @property
    def session(self) -> str:
        """The session with which messages are taken, on every channel."""
        return str(self.sessions)

    @property
    def needs_session(self) -> bool:
        """Whether messages may not be taken before there is a new session.

        There is none, or the connection of a step is lost: it may still be under way, and nobody would hear
        what it takes.
        """
        return not self._is_open or not all(can_be_read() for can_be_read in list(self.fetching.values()))

    def end_session(self, session: str) -> None:
        """Note that the server no longer knows a session; a newer one may be open already."""
        if session == self.session:
            self._is_open = False

    def held(self) -> list[str]:
        """Return the tokens of the messages that consumers have and that are not settled."""
        return list(self.delivered)

    def held_in_redis(self) -> int:
        """Return how many messages the record holds, as far as the process knows."""
        recorded = sum(not token.startswith(UNRECORDED) for token in self.held())
        return recorded + len(self.incoming) + len(self.unsent) + len(self.returning)

    def is_known(self, token: str) -> bool:
        """Whether the process knows of a recorded message, or will when it has read a reply."""
        reply = self.fetching.get(token.partition(".")[0])
        if reply is not None and reply():
            return True
        # In the order in which messages pass through them: other threads move some meanwhile.
        return any(token in place for place in (self.incoming, self.delivered, self.returning, self.unsent))

    # --- Sessions --------------------------------------------------------------------------------------

    def open_session(self) -> None:
        """Take or renew the lease, and put back what a lost reply left in the record.

        Steps sent before with an older session take nothing from now on.

        Raises:
            Fenced: The worker's messages were given to others.
            redis.RedisError: The server cannot be reached or refuses.
        """
        self.flush()
        keys, worker = self.keys, self.worker_id
        self.sessions += 1
        self._is_open = False
        sent = monotonic()
        try:
            recorded = self.client.register_script(OPEN)(
                keys=[keys.worker(worker), keys.rescued(worker), keys.unacked(worker), keys.workers],
                args=[worker, self.session, int(self.lease * 1000)],
            )
        except ResponseError as error:
            self.heal(error)
            raise fenced_or(error) from error
        self.renewed = sent
        self._is_open = True
        self.fetching = {fetch: can_be_read for fetch, can_be_read in self.fetching.items() if can_be_read()}
        self._put_back_unknown(recorded)

    def heal(self, error: ResponseError) -> None:
        """Set aside what keeps the worker from its keys, if that is what the server answers.

        Raises:
            redis.RedisError: The server cannot be reached or refuses.
        """
        if is_wrong_type(error):
            for refusal in set_aside_for(self.client, self.keys, self.worker_id):
                logger.error("Key %s: %s", refusal.name, refusal.why)

    def reconcile(self) -> None:
        """Put back what the record holds and this process does not know.

        Raises:
            redis.RedisError: The server cannot be reached or refuses.
        """
        self._put_back_unknown(self.client.hkeys(self.keys.unacked(self.worker_id)))

    def _put_back_unknown(self, recorded: Iterable[bytes]) -> None:
        lost = [token for token in map(as_name, recorded) if not self.is_known(token)]
        if lost:
            logger.info("Returning %d messages whose delivery was lost", len(lost))
            self.give_back(lost)

    # --- Messages --------------------------------------------------------------------------------------

    def receive(self, tokens: Iterable[str], fetch: str) -> None:
        """Take in the messages of a reply, before anything else happens to any of them."""
        self.incoming.update(dict.fromkeys(tokens))
        self.fetching.pop(fetch, None)

    def deliver(self, token: str, message: Any, holder: set[str]) -> None:
        """Note that a consumer has a message; it counts against the prefetch of its channel."""
        self.delivered[token] = message
        self.holders[token] = holder
        holder.add(token)
        self.incoming.pop(token, None)

    def hand_over(self, token: str, holder: set[str]) -> None:
        """Let a message count against the prefetch of another channel."""
        former = self.holders.get(token)
        if former is None or former is holder:
            return
        self.holders[token] = holder
        holder.add(token)
        former.discard(token)
        if token not in self.delivered:
            # Another thread has settled it meanwhile.
            self.holders.pop(token, None)
            holder.discard(token)

    def release(self, token: str) -> None:
        """Let a message no longer count against a prefetch: it is settled, or on its way back."""
        self.delivered.pop(token, None)
        self.incoming.pop(token, None)
        holder = self.holders.pop(token, None)
        if holder is not None:
            holder.discard(token)

    def settle(self, token: str) -> None:
        """Delete the record of a message. If the server does not hear it, that is tried again later."""
        if token.startswith(UNRECORDED):
            self.release(token)
            return
        self.unsent.add(token)
        self.release(token)
        # Else the event loop would wait for each of them until it times out; the heartbeat tries it.
        if not self.silent:
            self.flush()

    def make_room(self, token: str) -> None:
        """Let a message that is still held count against no prefetch any more."""
        holder = self.holders.pop(token, None)
        if holder is not None:
            holder.discard(token)

    def put_back(self, token: str, how: Return) -> None:
        """Put a message back at the end of its list, or aside. If the server does not hear it, try again."""
        if token.startswith(UNRECORDED):
            self.release(token)
            return
        self.returning[token] = how
        self.release(token)
        if not self.silent:
            self.flush()

    def offer(self, tokens: Iterable[str]) -> set[str]:
        """Put back messages that were never begun, the next to be taken; return those that stay.

        They stay if the server takes no writes. If it is not heard whether it took them, that is tried again.
        """
        tokens = set(tokens)
        kept: set[str] = set()
        try:
            self.give_back(tokens)
        except UNHEARD as error:
            if is_refusal(error) or isinstance(error, ResponseError):
                kept = self._recorded_of(tokens)
            else:
                self.returning.update(dict.fromkeys(tokens, Return(end="next")))
        for token in tokens - kept:
            self.release(token)
        return kept

    def _recorded_of(self, tokens: set[str]) -> set[str]:
        """Return which messages the record still holds: all of them, if that cannot be asked."""
        ordered = list(tokens)
        try:
            records = self.client.hmget(self.keys.unacked(self.worker_id), ordered)
        except UNHEARD:
            self.returning.update(dict.fromkeys(tokens, Return(end="next")))
            return set()
        return {token for token, record in zip(ordered, records, strict=True) if record is not None}

    def unrecorded_token(self) -> str:
        """Return a token for a message that is in no list and in no record."""
        self._unrecorded += 1
        return f"{UNRECORDED}{self._unrecorded}"

    def flush(self) -> None:
        """Send what the server has not heard yet, as far as it is due; keep what it does not hear now."""
        if not self.unsent and not self.returning:
            return
        try:
            self._send(monotonic())
        except UNHEARD as error:
            self._say_unheard(error)

    def _send(self, now: float) -> None:
        if settled := list(self.unsent):
            self.client.hdel(self.keys.unacked(self.worker_id), *settled)
            self.unsent.difference_update(settled)
        for token, how in list(self.returning.items()):
            if how.due <= now:
                self.give_back([token], end=how.end, died=how.died, max_redeliveries=how.max_redeliveries)
                self.returning.pop(token, None)
        self._unheard = ""

    def _say_unheard(self, error: Exception) -> None:
        """Log an answer of the server's that keeps messages from being settled, once."""
        text = str(error)
        if isinstance(error, ResponseError) and not is_refusal(error) and text != self._unheard:
            logger.error("Redis refused acknowledgements, sending them again: %s", text)
        self._unheard = text

    def tell_task_counts(self) -> None:
        """Write down the counts of tasks for the supervisor of this host, if they have changed, and failures.

        Raises:
            redis.RedisError: The server does not answer, or is full; the next call reports them.
        """
        key = self.keys.task_counts(host_of(worker_name(self.worker_id)))

        def send(text: str) -> None:
            with self.client.pipeline(transaction=False) as pipe:
                pipe.hset(key, self.worker_id, text).expire(key, recovery.DAY).execute()

        self.task_counts.tell(send)
        self.failures.tell(lambda report: report.send(self.client, self.keys, self.worker_id), self.worker_id)

    def give_back(self, tokens: Iterable[str], **circumstances: Any) -> None:
        """Put messages back into their lists; see :func:`celery_autoscaler.protocol.recovery.give_back`."""
        recovery.give_back(self.broker, self.worker_id, tokens, **circumstances)

    # --- The end ---------------------------------------------------------------------------------------

    def close(self) -> None:
        """Put back what the record holds, and give up the lease if it is empty then; never raise."""
        if self.fenced or self.pid != os.getpid() or self._client is None:
            return
        try:
            self._close()
        except UNHEARD as error:
            logger.warning("The broker is unreachable (%s): other workers give back what is left", error)
        except Exception:  # the caller that closes the worker has more to close
            logger.exception("Other workers give back what is left")

    def _close(self) -> None:
        self._send(float("inf"))
        keys, worker = self.keys, self.worker_id
        # Not what the process believes that it holds: a reply may have got lost.
        recorded = [as_name(token) for token in self.client.hkeys(keys.unacked(worker))]
        if recorded:
            logger.info("Giving back %d messages that were not finished", len(recorded))
            self.give_back(recorded)
        for token in self.held():
            self.release(token)
        try:
            self.tell_task_counts()
        except UNHEARD as error:
            # A full server has no room for them, but the lease is still given up.
            logger.debug("The last counts of tasks are lost: %s", error)
        left = self.client.register_script(CLOSE)(
            keys=[keys.unacked(worker), keys.worker(worker), keys.workers], args=[worker]
        )
        if left:
            logger.warning("%d messages left: other workers give them back once the lease expires", left)


def fenced_or(error: ResponseError) -> Exception:
    """Return Fenced if that is what a step answered, else the error itself."""
    return Fenced() if "FENCED" in str(error) else error
