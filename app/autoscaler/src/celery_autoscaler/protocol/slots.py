"""How a supervisor tells a worker that stretches its number of slots."""

from celery_autoscaler.protocol.broker import Broker
from celery_autoscaler.protocol.script import script

# What names to a worker the slots that it may have at most.
MOST_SLOTS_VARIABLE = "CELERY_APP_MAX_CONCURRENCY"
TELL = script("protocol", "tell_slots")


def tell(broker: Broker, worker_id: str, slots: int) -> bool:
    """Tell a worker how many tasks it shall run at a time; return whether there is such a worker.

    It hears of it at once, and with the answer to each of its heartbeats.

    Raises:
        redis.RedisError: The server does not answer, or refuses.
    """
    keys = broker.keys
    told = broker.client.register_script(TELL)(
        keys=[keys.worker(worker_id)], args=[slots, keys.slots(worker_id)]
    )
    return bool(told)
