"""What a running task sends waits for a broker that is away for a moment.

Celery tries a publication three times within a second. A task that retries itself then, or sends the next
task of its chain, ends: its message is settled, and the retry or the rest of the chain is lost, with nothing
but a line in the log. Here whatever a task sends waits until the broker takes it, as its result does. An app
that sets ``task_publish_retry`` or ``task_publish_retry_policy``, and a call with ``retry=False``, have what
they say.
"""

import logging
import time
from collections.abc import Callable
from functools import wraps
from typing import Any

from celery import Celery
from kombu.exceptions import OperationalError
from redis import exceptions as redis_errors

from celery_autoscaler.consuming.versions import value_set_for
from celery_autoscaler.protocol.server_state import is_refusal

logger = logging.getLogger(__name__)

# Seconds between two tries of a publication.
RETRY_SECONDS = 0.5
LOST = (OSError, redis_errors.ConnectionError, redis_errors.TimeoutError)
SETTINGS = ("task_publish_retry", "task_publish_retry_policy")


def wait_for_broker(app: Celery) -> None:
    """Have whatever the tasks of an app send in this process wait for its broker."""
    if not any(value_set_for(app.conf, name) for name in SETTINGS):
        amqp: Any = app.amqp
        amqp.send_task_message = waiting(app, amqp.send_task_message)


def waiting(app: Celery, send: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that sends as another one does, and waits while a task runs that asked for it."""

    @wraps(send)
    def send_and_wait(producer: Any, *arguments: Any, retry: bool | None = None, **options: Any) -> Any:
        tries = 0
        connection = producer.connection
        while True:
            try:
                return send(producer, *arguments, retry=retry, **options)
            except (OperationalError, *LOST, redis_errors.ResponseError, AttributeError) as error:
                # The event loop never waits: no task runs in it.
                waits = retry is not False and app.current_worker_task is not None
                if not waits or not (passes(error) or is_closed(producer)):
                    raise
                if not tries:
                    logger.warning("The broker accepts nothing (%s): messages of the task wait", error)
                tries += 1
                time.sleep(RETRY_SECONDS)
                # Its channel may be closed.
                connection.collect()
                producer.revive(connection)

    return send_and_wait


def is_closed(producer: Any) -> bool:
    """Return whether kombu has sent on a channel that it had closed.

    It connects again while it declares the queue, and goes on with the channel of the lost connection.
    """
    return getattr(producer._channel, "connection", producer) is None


def passes(error: Exception) -> bool:
    """Return whether the broker may take later what it has not taken now."""
    # Kombu says of a lost connection, or of a refusal, what its own class is for.
    cause = error.__cause__ if isinstance(error, OperationalError) and error.__cause__ else error
    return isinstance(cause, LOST) or is_refusal(cause)
