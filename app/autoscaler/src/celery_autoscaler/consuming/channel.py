"""A kombu channel that takes messages and records them in one step.

Plain kombu pops a message with ``BRPOP`` and writes it to ``unacked`` afterwards; a worker that dies in
between takes it along. Here one Lua step moves messages from the lists into the worker's own hash, so that
each message is in a list or in a hash at any time. The rest is kombu's: its event loop, its queue cycle, its
priority steps.

How it works, in the order of a message's life:

1. *Session*. On each new connection the worker renews its session
   (see :mod:`celery_autoscaler.consuming.ledger`). What its hash holds and the process does not know is the
   answer to a step whose reply got lost: it is put back.
2. *Fetch*. While the prefetch count allows, the channel sends :data:`FETCH` where kombu would send
   ``BRPOP``. The token that names a message in the hash becomes its delivery tag.
3. *Wait*. When the lists are empty, the server tells the channel as soon as one of them changes: the lists
   that ``FETCH`` looked at are tracked (see :mod:`celery_autoscaler.protocol.tracking`), and any word on the
   wake-up connection means "fetch again". A busy worker gets no words. Where the server does not know
   tracking, the channel polls.
4. *Deliver*. Each message goes to its consumer by itself: what one of them meets there costs no other (see
   :mod:`celery_autoscaler.consuming.delivery`).
5. *Settle*. An acknowledgement deletes the record. One that the server did not hear is sent again.

A lost connection drops nothing: the process keeps its messages, the hash keeps their records.
"""

import contextlib
import logging
import re
from functools import partial
from queue import Empty
from time import monotonic
from typing import Any

from kombu.transport import redis
from kombu.utils.encoding import bytes_to_str
from redis.exceptions import NoScriptError, RedisError, ResponseError

from celery_autoscaler.consuming import delivery, versions
from celery_autoscaler.consuming.fetch import FETCH, FETCH_SHA
from celery_autoscaler.consuming.ledger import Fenced, Ledger, Return, fenced_or
from celery_autoscaler.consuming.qos import QoS
from celery_autoscaler.protocol import tracking
from celery_autoscaler.protocol.server_state import Refused, is_full, refusing, takes_no_writes

logger = logging.getLogger(__name__)

# Messages that one step takes at most: it must not hold the server up.
BATCH = 100
# Seconds between looks at the lists of a worker that would be woken; a safety net, as BRPOP's time-out is.
LOOK = 1.0
# Seconds between looks where nothing wakes the worker: the shortest, after activity, and the longest.
POLL = (0.002, 0.05)
# Seconds to wait before the next try when the server refuses commands for now.
REFUSED = 0.5
# Connections that a channel keeps: one fetches, one is woken, one hears broadcasts.
CONNECTIONS = 3


class Channel(versions.Channel):  # type: ignore[misc]
    """Fetches where kombu's channel would block on ``BRPOP``."""

    QoS = QoS
    _in_poll: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._load_script = True
        self._next_fetch = 0.0
        self._refused_until = 0.0
        self._poll_interval = POLL[0]
        self._sent = ""
        self._fetch = ""
        self._queues: list[str] = []
        self._lists: list[str] = []
        self._tracked: Any = None
        self._subscribed: Any = None
        self._wake_id = 0
        self._tracking_known = True
        self._said = ""
        super().__init__(*args, **kwargs)
        self.handlers["WAKE"] = self._on_wake
        self.ledger.bind(self)

    @property
    def ledger(self) -> Ledger:
        """The ledger of the worker to which the connection belongs."""
        ledger: Ledger = self.connection.ledger
        return ledger

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        params: dict[str, Any] = super()._connparams(asynchronous)
        params["connection_class"] = refusing(params["connection_class"])
        return params

    def _get_pool(self, asynchronous: bool = False) -> Any:
        pool = super()._get_pool(asynchronous)
        if asynchronous:
            # The app's own limit is meant for kombu, which keeps fewer.
            pool.max_connections = max(pool.max_connections, CONNECTIONS)
        return pool

    def basic_consume(self, queue: str, *args: Any, **kwargs: Any) -> Any:
        """Consume from a queue; what a lost connection delivered from it counts as this channel's."""
        consumed = super().basic_consume(queue, *args, **kwargs)
        self.qos.adopt(queue)
        return consumed

    def close(self) -> None:
        """Close the channel without the reply to a step under way: what it took is put back."""
        self._in_poll = None
        super().close()

    # --- Fetch -----------------------------------------------------------------------------------------

    def _brpop_start(self, *_: Any) -> None:
        """Send FETCH, if it is due; kombu calls this when nothing is in flight and messages are wanted."""
        ledger = self.ledger
        if ledger.fenced or ledger.draining or ledger.ending or monotonic() < self._next_fetch:
            return
        queues = self._queue_cycle.consume(len(self.active_queues))
        if not queues:
            return
        if len(ledger.returning) > BATCH:
            self._wait(LOOK)
            return
        connection = self.client.connection
        try:
            self._prepare(connection)
        except Fenced:
            ledger.fenced = True
            return
        except (Refused, ResponseError) as error:
            self._pause(error)
            return
        ledger.fetches += 1
        self._queues = queues
        keys = ledger.keys
        self._lists = [self._q_for_pri(queue, step) for step in self.priority_steps for queue in queues]
        lists = [keys.prefix + name for name in self._lists]
        self._sent, self._fetch = ledger.session, f"{ledger.fetches:012d}"
        self._in_poll = connection
        ledger.fetching[self._fetch] = partial(self._awaits, connection, connection._sock)
        self._brpop_sent_at = monotonic()
        connection.send_command(
            "EVALSHA",
            FETCH_SHA,
            2 + len(lists),
            keys.worker(ledger.worker_id),
            keys.unacked(ledger.worker_id),
            *lists,
            self._sent,
            self._wanted(),
            len(queues),
            int(self.queue_order_strategy == "round_robin"),
            f"{self._fetch}.",
        )

    def _awaits(self, connection: Any, sock: Any) -> bool:
        """Whether the reply to a step that was sent there can still be read."""
        return self._in_poll is connection and connection._sock is sock

    def _prepare(self, connection: Any) -> None:
        """Make sure that messages may be taken.

        Raises:
            Fenced: The worker's messages were given to others.
            redis.RedisError: The server cannot be reached or refuses.
        """
        ledger = self.ledger
        if ledger.needs_session:
            ledger.open_session()
            self._load_script = True
        if self._load_script:
            ledger.client.script_load(FETCH)
            self._load_script = False
        self._track(connection)

    def _wanted(self) -> int:
        """Return how many messages the prefetch count leaves room for."""
        # A worker that limits itself otherwise (worker_disable_prefetch) is asked again after each message.
        if "can_consume" in vars(self.qos):
            return 1
        room = self.qos.can_consume_max_estimate()
        return BATCH if room is None else min(room, BATCH)

    def _brpop_read(self, **_: Any) -> bool:
        """Read the reply to FETCH and deliver the messages."""
        ledger = self.ledger
        try:
            taken = self._fetch_reply()
            messages = [
                (int(number) - 1, token.decode(), raw)
                for number, token, raw in zip(taken[::3], taken[1::3], taken[2::3], strict=True)
            ]
            ledger.receive([token for _, token, _ in messages], self._fetch)
        finally:
            self._in_poll = None
            self._flush_brpop_reauth()
        self._schedule(len(messages))
        if not messages:
            raise Empty
        for position, token, raw in messages:
            ledger.taken[self._lists[position]] += 1
            self._deliver_one(self._queues[position % len(self._queues)], token, raw)
        return True

    def _fetch_reply(self) -> list[Any]:
        try:
            reply: list[Any] = self.client.parse_response(self.client.connection, "EVALSHA")
        except NoScriptError:
            self._load_script = True
        except (Refused, ResponseError) as error:
            if isinstance(error, ResponseError) and isinstance(fenced_or(error), Fenced):
                # The lease ran out, or the server lost it. A new session tells who has the messages.
                self.ledger.end_session(self._sent)
            else:
                self._pause(error)
        except self.connection_errors:
            self.client.connection.disconnect()
            raise
        else:
            self._said = ""
            return reply
        self.ledger.receive((), self._fetch)
        raise Empty

    def _deliver_one(self, queue: str, token: str, raw: bytes) -> None:
        callback = self.connection._callbacks.get(queue)
        if callback is None or self.ledger.closing:
            # Its consumer was cancelled while the command was under way.
            self.ledger.put_back(token, Return(end="next"))
            return
        self._queue_cycle.rotate(queue)
        delivery.deliver(self.ledger, queue, token, raw, callback)

    def _receive_one(self, c: Any) -> Any:
        """Read a broadcast and deliver it."""
        try:
            response = c.parse_response()
        except self.connection_errors:
            self._in_listen = None
            raise
        if not isinstance(response, list | tuple):
            return None
        payload = self._handle_message(c, response)
        if not bytes_to_str(payload["type"]).endswith("message") or not payload["data"]:
            return None
        topic = bytes_to_str(payload["channel"])
        exchange = (topic.partition(".")[2] if topic[:1] == "/" else topic).split("/", 1)[0]
        queue = self._fanout_to_queue.get(exchange)
        # Nobody consumes it any more where there is none.
        if queue in self.connection._callbacks:
            token = self.ledger.unrecorded_token()
            delivery.deliver(
                self.ledger,
                queue,
                token,
                payload["data"],
                lambda message: self._deliver_fanout_message(message, exchange),
            )
        return True

    def _get(self, queue: str) -> Any:
        """Refuse to take a message without a record."""
        raise NotImplementedError("a worker's connection fetches by consuming only")

    # --- Wait ------------------------------------------------------------------------------------------

    def _schedule(self, taken: int) -> None:
        """Decide when to fetch next, after a reply with that number of messages."""
        if taken:
            self._poll_interval = POLL[0]
            self._next_fetch = 0.0
        elif self._tracked is not None:
            self._wait(LOOK)
        else:
            self._wait(self._poll_interval)
            self._poll_interval = min(2 * self._poll_interval, POLL[1])

    def due_in(self) -> float:
        """Return after how many seconds to look whether to fetch, where no event loop's timer does."""
        if self._in_poll:
            # The reply is an event.
            return LOOK
        if not self.qos.can_consume():
            # Room is none.
            return POLL[0]
        return max(0.0, self._next_fetch - monotonic())

    def _wait(self, seconds: float) -> None:
        self._next_fetch = monotonic() + seconds
        self.connection.cycle.look_again(seconds)

    def _pause(self, error: RedisError) -> None:
        """Fetch nothing for a moment because the server refuses, and say so when that begins."""
        text = paused(error)
        if text != self._said:
            logger.warning("%s", text)
        self._said = text
        self._wait(REFUSED)
        self._refused_until = self._next_fetch

    def _track(self, connection: Any) -> None:
        """Have the server tell the wake-up connection when a list changes that was seen empty."""
        if not self._tracking_known or self._tracked is connection._sock:
            return
        wake = self.wake_client.connection
        # Who has subscribed may ask for nothing else: its number is asked for once.
        subscribed = wake._sock is not None and self._subscribed is wake._sock
        try:
            if not subscribed:
                stretches = self.ledger.hear_slots is not None
                self._wake_id = tracking.hear(wake, self._slots_channel if stretches else "")
                self._subscribed = wake._sock
            tracking.track(connection, self._wake_id)
        except Refused:
            # Replies are left on it.
            wake.disconnect()
            raise
        except ResponseError as error:
            if subscribed:
                # The server has lost it: it is rebuilt before the next fetch.
                wake.disconnect()
                return
            logger.info("The server supports no CLIENT TRACKING (%s): polling instead", error)
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
        """Fetch again, whatever the word is; take in how many slots the worker shall have, if it says so."""
        connection = self.wake_client.connection
        words = swallow(connection._sock)
        if words is not None:
            self._next_fetch = self._refused_until
            if self.ledger.hear_slots is not None:
                for told in last_told(self._slots_channel, words):
                    self.ledger.hear_slots(told)
        else:
            self._tracked = None
            connection.disconnect()

    @property
    def _slots_channel(self) -> str:
        return self.ledger.keys.slots(self.ledger.worker_id)

    def _close_clients(self) -> None:
        super()._close_clients()
        client = self.__dict__.pop("wake_client", None)
        if client is not None and client.connection is not None:
            client.connection.disconnect()


class SentinelChannel(Channel, redis.SentinelChannel):  # type: ignore[misc]
    """The same on a server found through Sentinel."""


def swallow(sock: Any) -> bytes | None:
    """Return whatever a socket holds, without waiting; None if its other end is closed."""
    if sock is None:
        return None
    timeout = sock.gettimeout()
    sock.setblocking(False)
    words = b""
    try:
        with contextlib.suppress(BlockingIOError, OSError):
            while True:
                more = sock.recv(65536)
                if not more:
                    return None
                words += more
    finally:
        sock.settimeout(timeout)
    return words


def last_told(channel: str, words: bytes) -> list[bytes]:
    """Return the last number that was published on a channel, if words of the server hold one as a whole.

    Whatever is cut or misread is heard again with the next heartbeat.
    """
    message = re.escape(channel.encode(errors="surrogateescape")) + rb"\r\n\$\d+\r\n(\d+)\r\n"
    return re.findall(message, words)[-1:]


def paused(error: RedisError) -> str:
    """Say why nothing is fetched for now."""
    if is_full(error):
        return "Redis is full: nothing is fetched until it has room"
    if takes_no_writes(error):
        return f"Redis takes no writes: nothing is fetched until it does ({error})"
    return f"Redis refuses commands: nothing is fetched until it obeys ({error})"
