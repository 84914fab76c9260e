"""A kombu channel that takes messages and records them in one step.

Plain kombu pops a message with ``BRPOP`` and writes it to ``unacked`` afterwards; a worker that dies in
between takes it along. Here one Lua step moves messages from the lists into the worker's own hash, so that
each message is in a list or in a hash at any time. The rest is kombu's: its event loop, its queue cycle, its
priority steps.

How it works, in the order of a message's life:

1. *Session*. On each new connection the worker renews its session (see :mod:`celery_autoscaler.ledger`).
   What its hash holds and the process does not know is the answer to a step whose reply got lost: it is put
   back.
2. *Fetch*. While the prefetch count allows, the channel sends :data:`FETCH` where kombu would send
   ``BRPOP``. The token that names a message in the hash becomes its delivery tag.
3. *Wait*. When the lists are empty, the server tells the channel as soon as one of them changes: the lists
   that ``FETCH`` looked at are tracked (``CLIENT TRACKING``), and any word on the wake-up connection means
   "fetch again". It needs no setting of the server's, and a busy worker gets no words. Where the server
   does not know tracking, the channel polls.
4. *Settle*. An acknowledgement deletes the record. One that the server did not hear is sent again.

A lost connection drops nothing: the process keeps its messages, the hash keeps their records.
"""

import contextlib
import logging
from queue import Empty
from time import monotonic
from typing import Any

from kombu.transport import redis, virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import loads
from redis import Connection, SSLConnection
from redis.exceptions import NoScriptError, OutOfMemoryError, ResponseError

from celery_autoscaler.ledger import Fenced, Ledger, fenced_or
from celery_autoscaler.server_state import (
    PlainConnection,
    Refused,
    SentinelConnection,
    SentinelTLSConnection,
    TLSConnection,
)

logger = logging.getLogger(__name__)

# Messages that one step takes at most: it must not hold the server up.
BATCH = 100
# Seconds between looks at the lists of a worker that would be woken; a safety net, as BRPOP's time-out is.
LOOK = 1.0
# Seconds between looks where nothing wakes the worker: the shortest, after activity, and the longest.
POLL = (0.002, 0.05)
# Seconds to wait before the next try when the server is full, or takes no writes.
FULL = 0.5

# KEYS: the worker's hash, its record, the lists by priority step and, within it, by queue.
# ARGV: session, number of messages wanted, number of queues, whether queues take turns, prefix of the tokens.
# Returns for each message the number of its list, its token, itself; or FENCED.
# Invariant: who has no lease, or an older session, takes nothing: a late command of a broken connection does
# no harm.
# Invariant: a message is recorded before it leaves its list. A full server refuses the record, and the step
# ends there, with nothing popped that is not recorded.
FETCH = """
if redis.call('HGET', KEYS[1], 'session') ~= ARGV[1] then return redis.error_reply('FENCED') end
if redis.call('EXISTS', unpack(KEYS, 3)) == 0 then return {} end
local wanted, queues, turns = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
local cycle = {}
for i = 1, queues do cycle[i] = i end
local taken = {}
for first = 2, #KEYS - queues, queues do
    local position = 1
    while position <= #cycle and #taken < 3 * wanted do
        local queue = cycle[position]
        local list = KEYS[first + queue]
        local message = redis.call('LINDEX', list, -1)
        if message then
            local token = ARGV[5] .. string.format('%03d', #taken / 3)
            local recorded = redis.pcall('HSET', KEYS[2], token, list .. '\\n' .. message)
            if type(recorded) == 'table' and recorded.err then
                if #taken == 0 then return recorded end
                return taken
            end
            redis.call('RPOP', list)
            taken[#taken + 1] = first + queue - 2
            taken[#taken + 1] = token
            taken[#taken + 1] = message
            if turns then
                table.insert(cycle, table.remove(cycle, position))
                position = 1
            end
        else
            position = position + 1
        end
    end
end
return taken
"""


class QoS(redis.QoS):  # type: ignore[misc]
    """Acknowledgements against the worker's own record."""

    def __init__(self, channel: "Channel", prefetch_count: int = 0) -> None:
        super().__init__(channel, prefetch_count)
        # What the process holds counts against the prefetch of whichever connection it has now.
        self.ledger = ledger = channel.ledger
        self._delivered = ledger.delivered
        self._dirty = ledger.dirty
        self._quick_ack = ledger.dirty.add
        self._quick_append = ledger.delivered.__setitem__

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a message as delivered. FETCH has recorded it."""
        virtual.QoS.append(self, message, delivery_tag)

    def ack(self, delivery_tag: str) -> None:
        """Settle a message."""
        self.ledger.settle(delivery_tag)
        virtual.QoS.ack(self, delivery_tag)

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Settle a message, or put it back at the end of its list."""
        if requeue:
            message = self.ledger.delivered.get(delivery_tag) or self.ledger.telling.get(delivery_tag)
            died = getattr(message, "died", None)
            self.ledger.put_back_last(delivery_tag, died)
            virtual.QoS.ack(self, delivery_tag)
        else:
            self.ack(delivery_tag)

    def restore_unacked_once(self, *_: Any, **__: Any) -> None:
        """Put back what the process holds when the worker ends; a lost connection is no reason to."""
        if self.ledger.closing:
            self.ledger.close()

    def restore_visible(self, *_: Any, **__: Any) -> None:
        """Do nothing: leases take the place of the visibility timeout."""


class Channel(redis.Channel):  # type: ignore[misc]
    """Fetches where kombu's channel would block on ``BRPOP``."""

    QoS = QoS
    connection_class: type[Connection] = PlainConnection
    connection_class_ssl: type[SSLConnection] = TLSConnection

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._session: str | None = None
        self._session_socket: Any = None
        self._next_fetch = 0.0
        self._poll_interval = POLL[0]
        self._queues: list[str] = []
        self._lists: list[str] = []
        self._tracked: Any = None
        self._tracking_known = True
        super().__init__(*args, **kwargs)
        self.handlers["WAKE"] = self._on_wake
        self.ledger.bind(self)

    @property
    def ledger(self) -> Ledger:
        """The ledger of the worker to which the connection belongs."""
        ledger: Ledger = self.connection.ledger
        return ledger

    # --- Fetch -----------------------------------------------------------------------------------------

    def _brpop_start(self, *_: Any) -> None:
        """Send FETCH, if it is due; kombu calls this when nothing is in flight and messages are wanted."""
        ledger = self.ledger
        if ledger.fenced or ledger.draining or monotonic() < self._next_fetch:
            return
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        connection = self.client.connection
        # Not the session of an earlier connection: a step may still be under way there.
        if self._session is None or self._session_socket is not connection._sock:
            try:
                self._session = ledger.open_session()
                self._session_socket = connection._sock
            except Fenced:
                ledger.fenced = True
                return
            except (OutOfMemoryError, Refused):
                self._wait(FULL)
                return
            self._fetch_sha = ledger.client.script_load(FETCH)
        self._track(connection)
        ledger.fetches += 1
        self._queues = queues
        keys = ledger.keys
        self._lists = [self._q_for_pri(queue, step) for step in self.priority_steps for queue in queues]
        lists = [keys.prefix + name for name in self._lists]
        self._in_poll = connection
        self._brpop_sent_at = monotonic()
        connection.send_command(
            "EVALSHA",
            self._fetch_sha,
            2 + len(lists),
            keys.worker(ledger.worker_id),
            keys.unacked(ledger.worker_id),
            *lists,
            self._session,
            self._wanted(),
            len(queues),
            int(self.queue_order_strategy == "round_robin"),
            f"{ledger.fetches:012d}.",
        )

    def _wanted(self) -> int:
        """Return how many messages the prefetch count leaves room for."""
        # A worker that limits itself otherwise (worker_disable_prefetch) is asked again after each message.
        if "can_consume" in vars(self.qos):
            return 1
        room = self.qos.can_consume_max_estimate()
        return BATCH if room is None else min(room, BATCH)

    def _brpop_read(self, **_: Any) -> bool:
        """Read the reply to FETCH and deliver the messages."""
        try:
            taken = self._fetch_reply()
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()
        messages = list(zip(taken[::3], taken[1::3], taken[2::3], strict=True))
        self._schedule(len(messages))
        if not messages:
            raise Empty
        undeliverable = []
        for number, token, raw in messages:
            position = int(number) - 1
            self.ledger.taken[self._lists[position]] += 1
            queue = self._queues[position % len(self._queues)]
            if queue in self.connection._callbacks:
                self._queue_cycle.rotate(queue)
                self._deliver_one(queue, token.decode(), raw)
            else:
                undeliverable.append(token.decode())
        # Their consumer was cancelled while the command was under way.
        self.ledger.give_back(undeliverable)
        return True

    def _fetch_reply(self) -> list[Any]:
        try:
            reply: list[Any] = self.client.parse_response(self.client.connection, "EVALSHA")
        except NoScriptError:
            self._session = None
        except OutOfMemoryError:
            logger.warning("Redis is full: nothing is fetched until it has room")
            self._wait(FULL)
            raise Empty from None
        except Refused as error:
            logger.warning("Redis takes no writes: nothing is fetched until it does (%s)", error)
            self._wait(FULL)
            raise Empty from None
        except ResponseError as error:
            if isinstance(fenced_or(error), Fenced):
                # The lease ran out, or the server lost it. A new session tells who has the messages.
                self._session = None
            else:
                raise
        except self.connection_errors:
            self.client.connection.disconnect()
            raise
        else:
            return reply
        raise Empty

    def _deliver_one(self, queue: str, token: str, raw: bytes) -> None:
        try:
            message = loads(bytes_to_str(raw))
            message["properties"]["delivery_tag"] = token
            message["properties"].setdefault("delivery_info", {})["queue"] = queue
        except (ValueError, KeyError, TypeError):
            self.ledger.give_back([token], died="it is no message of Celery's", max_redeliveries=-1)
            return
        self.connection._deliver(message, queue)
        if token not in self.ledger.delivered and token not in self.ledger.telling:
            # A consumer without acknowledgements.
            self.ledger.settle(token)

    def _get(self, queue: str) -> Any:
        """Refuse to take a message without a record."""
        raise NotImplementedError("a worker's connection fetches by consuming only")

    # --- Wait ------------------------------------------------------------------------------------------

    def _schedule(self, taken: int) -> None:
        """Decide when to fetch next, after a reply with so many messages."""
        if taken:
            self._poll_interval = POLL[0]
            self._next_fetch = 0.0
        elif self._tracked is not None:
            self._wait(LOOK)
        else:
            self._wait(self._poll_interval)
            self._poll_interval = min(2 * self._poll_interval, POLL[1])

    def _wait(self, seconds: float) -> None:
        self._next_fetch = monotonic() + seconds
        self.connection.cycle.look_again(seconds)

    def _track(self, connection: Any) -> None:
        """Have the server tell the wake-up connection when a list changes that was seen empty."""
        if not self._tracking_known or self._tracked is connection._sock:
            return
        wake = self.wake_client.connection
        try:
            wake.send_command("CLIENT", "ID")
            wake_id = wake.read_response()
            # RESP2 passes the words on to subscribers only.
            wake.send_command("SUBSCRIBE", "__redis__:invalidate")
            connection.send_command("CLIENT", "TRACKING", "ON", "REDIRECT", wake_id, "NOLOOP")
            connection.read_response()
        except ResponseError as error:
            logger.info("The server does not tell when a list changes (%s): polling instead", error)
            self._tracking_known = False
        else:
            self._tracked = connection._sock

    @property
    def wake_client(self) -> Any:
        """Client that holds the wake-up connection."""
        if "wake_client" not in self.__dict__:
            self.__dict__["wake_client"] = self._create_client(asynchronous=True)
        return self.__dict__["wake_client"]

    def _on_wake(self) -> None:
        """Fetch again, whatever the word is."""
        connection = self.wake_client.connection
        if swallow(connection._sock):
            self._next_fetch = 0.0
        else:
            self._tracked = None
            connection.disconnect()

    def _close_clients(self) -> None:
        super()._close_clients()
        client = self.__dict__.pop("wake_client", None)
        if client is not None and client.connection is not None:
            client.connection.disconnect()


class SentinelChannel(Channel, redis.SentinelChannel):  # type: ignore[misc]
    """The same on a server found through Sentinel."""

    connection_class = SentinelConnection
    connection_class_ssl = SentinelTLSConnection


class Poller(redis.MultiChannelPoller):  # type: ignore[misc]
    """Kombu's poller, that also listens on wake-up connections and looks again in time."""

    hub: Any = None

    def look_again(self, seconds: float) -> None:
        """Make the event loop turn once more, so late; the loop without a hub sees to it in :meth:`get`."""
        if self.hub is not None:
            self.hub.call_later(seconds, _turn)

    def on_poll_start(self) -> None:
        """Register the wake-up connections as well."""
        for channel in self._channels:
            if (
                channel.active_queues
                and channel._tracking_known
                and not self._client_registered(channel, channel.wake_client, "WAKE")
            ):
                self._register(channel, channel.wake_client, "WAKE")
                channel._tracked = None
                channel._next_fetch = 0.0
        super().on_poll_start()

    def on_readable(self, fileno: int) -> None:
        """Hear wake-up words also while no message is wanted, or the socket would stay readable."""
        channel, kind = self._fd_to_chan.get(fileno, (None, None))
        if kind == "WAKE":
            channel._on_wake()
        else:
            super().on_readable(fileno)

    def get(self, callback: Any, timeout: float | None = None) -> None:
        """Wait for an event, but not longer than until the next look."""
        due = [channel._next_fetch - monotonic() for channel in self._channels if channel.active_queues]
        if due:
            timeout = max(0.0, min([*due, LOOK if timeout is None else timeout]))
        super().get(callback, timeout)


class Transport(redis.Transport):  # type: ignore[misc]
    """Kombu's Redis transport with the channel above. A subclass names the ledger."""

    Channel = Channel
    ledger: Ledger

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.cycle = Poller()

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """Let the poller use the loop's timer."""
        self.cycle.hub = loop
        super().register_with_event_loop(connection, loop)


class SentinelTransport(Transport, redis.SentinelTransport):  # type: ignore[misc]
    """Kombu's Sentinel transport with the channel above."""

    Channel = SentinelChannel


# By the scheme of the broker's URL.
TRANSPORTS = {"redis": Transport, "rediss": Transport, "sentinel": SentinelTransport}


def transport_for(scheme: str, ledger: Ledger) -> type[Transport] | None:
    """Return the transport for a worker's connection, or nothing where the broker is not Redis."""
    base = TRANSPORTS.get(scheme)
    return type(base.__name__, (base,), {"ledger": ledger}) if base else None


def swallow(sock: Any) -> bool:
    """Read whatever a socket holds without waiting; return False if its other end is closed."""
    if sock is None:
        return False
    timeout = sock.gettimeout()
    sock.setblocking(False)
    try:
        with contextlib.suppress(BlockingIOError, OSError):
            while True:
                if not sock.recv(65536):
                    return False
    finally:
        sock.settimeout(timeout)
    return True


def _turn() -> None:
    pass
