"""Acknowledgements of one channel, and what counts against its prefetch."""

from typing import TYPE_CHECKING, Any

from kombu.transport import redis

from celery_autoscaler.consuming.ledger import Ledger, Return

if TYPE_CHECKING:
    from celery_autoscaler.consuming.channel import Channel


class QoS(redis.QoS):  # type: ignore[misc]
    """Acknowledgements against the worker's own record, and the prefetch count of one channel."""

    def __init__(self, channel: "Channel", prefetch_count: int = 0) -> None:
        super().__init__(channel, prefetch_count)
        self.ledger: Ledger = channel.ledger
        # Tokens of what the channel's consumers have and have not settled.
        self.held: set[str] = set()

    def can_consume(self) -> bool:
        """Whether the prefetch count leaves room for a message."""
        return not self.prefetch_count or len(self.held) < self.prefetch_count

    def can_consume_max_estimate(self) -> int | None:
        """Return for how many messages the prefetch count leaves room; nothing if there is no limit."""
        return max(self.prefetch_count - len(self.held), 0) if self.prefetch_count else None

    def append(self, message: Any, delivery_tag: str) -> None:
        """Note a message as delivered. FETCH has recorded it."""
        message.delivery_tag = self.ledger.broadcast or delivery_tag
        self.ledger.deliver(message.delivery_tag, message, self.held)

    def get(self, delivery_tag: str) -> Any:
        """Return a message that is delivered and not settled."""
        return self.ledger.delivered[delivery_tag]

    def adopt(self, queue: str) -> None:
        """Count what a lost connection delivered from a queue that this channel consumes from now."""
        for token, message in list(self.ledger.delivered.items()):
            lost = getattr(message.channel, "connection", None) is not self.channel.connection
            if lost and message.delivery_info.get("queue") == queue:
                self.ledger.hand_over(token, self.held)

    def ack(self, delivery_tag: str) -> None:
        """Settle a message; one that was refused becomes a dead letter."""
        refused = getattr(self.ledger.delivered.get(delivery_tag), "refused", None)
        if refused is None:
            self.ledger.settle(delivery_tag)
        else:
            self.ledger.put_back(delivery_tag, Return(died=refused, max_redeliveries=-1))

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Settle a message, or put it back at the end of its list."""
        if requeue:
            died = getattr(self.ledger.delivered.get(delivery_tag), "died", None)
            self.ledger.put_back(delivery_tag, Return(died=died))
        else:
            self.ack(delivery_tag)

    def restore_unacked(self, *_: Any, **__: Any) -> None:
        """Put back what the channel's consumers have."""
        for token in list(self.held):
            self.ledger.put_back(token, Return())

    def restore_unacked_once(self, *_: Any, **__: Any) -> None:
        """Put back what the process holds when the worker ends; a lost connection is no reason to."""
        if self.ledger.closing:
            self.ledger.close()

    def restore_visible(self, *_: Any, **__: Any) -> None:
        """Do nothing: leases take the place of the visibility timeout."""
