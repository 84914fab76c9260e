"""The transport of a worker's connections: kombu's, with our channel and a poller that wakes up for it."""

from queue import Empty
from typing import Any

from celery.worker import state
from kombu.transport import redis

from celery_autoscaler.consuming import versions
from celery_autoscaler.consuming.channel import LOOK, Channel, SentinelChannel
from celery_autoscaler.consuming.ledger import Ledger


class Poller(versions.Poller):  # type: ignore[misc]
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
        """Hear wake-up words also while no message is wanted, or the socket would stay readable.

        Raises:
            Empty: There was no message.
        """
        channel, kind = self._fd_to_chan.get(fileno, (None, None))
        if kind == "WAKE":
            channel._on_wake()
            # Or who drains for a second, for replies, would restart that second with each word.
            raise Empty
        super().on_readable(fileno)

    def get(self, callback: Any, timeout: float | None = None) -> None:
        """Wait for an event, but not longer than until the next look.

        Raises:
            TimeoutError: The worker has to stop; Celery's loop without a hub would see it seconds later.
        """
        due = [channel.due_in() for channel in self._channels if channel.active_queues]
        if due and self.hub is None and state.should_stop is not None:
            raise TimeoutError
        if due:
            timeout = max(0.0, min([*due, LOOK if timeout is None else timeout]))
        super().get(callback, timeout)


class Transport(versions.Transport):  # type: ignore[misc]
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


def _turn() -> None:
    pass
