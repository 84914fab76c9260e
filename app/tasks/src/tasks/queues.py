"""Queues, priorities and routes."""

from __future__ import annotations

from enum import IntEnum

from kombu import Exchange, Queue

#: What kombu's Redis transport puts between a queue's name and its priority step.
PRIORITY_SEPARATOR = "\x06\x16"


class Priority(IntEnum):
    """How urgent a message is, from 0 to 9, by name; any number between two names is valid too.

    On Redis a SMALL number is urgent: a worker empties the lists of step 0 of all its queues before it looks
    at step 1, and so on. A message sent without a priority counts as 0, the most urgent; that is why every
    route below sets one. Within one step a queue is first in, first out.

    RabbitMQ has it the other way round: there 9 is the most urgent and 0 the least. Move this project to
    RabbitMQ and these values must be turned over (9 - value).

    Source: kombu/transport/redis.py (`_brpop_start`, `_q_for_pri`); RabbitMQ, "Classic Queues Support
    Priorities".
    """

    MOST_URGENT = 0
    URGENT = 2
    NORMAL = 5
    LOW = 7
    LEAST_URGENT = 9


#: One list in Redis for each step; kombu's own default lumps the ten priorities into four.
PRIORITY_STEPS = tuple(range(Priority.MOST_URGENT, Priority.LEAST_URGENT + 1))

DEFAULT_QUEUE = "default"

#: Queue → the priority of its tasks when the sender names none.
QUEUES = {
    DEFAULT_QUEUE: Priority.NORMAL,
    "cpu_intensive": Priority.NORMAL,
    "io_intensive": Priority.NORMAL,
    "priority": Priority.URGENT,
    "scheduled": Priority.LOW,
}


def declared_queues() -> list[Queue]:
    """Return the queues, each with a direct exchange and a routing key of its own name.

    Redis ignores `x-max-priority`; RabbitMQ needs it to have priorities at all.
    """
    return [
        Queue(
            name,
            Exchange(name, type="direct"),
            routing_key=name,
            queue_arguments={"x-max-priority": int(Priority.LEAST_URGENT)},
        )
        for name in QUEUES
    ]


def routes() -> dict[str, dict[str, str | int]]:
    """Return the route of each task: `tasks.<queue>.*` goes to <queue>, all else to the default queue.

    The routes set the priorities, too, and what the sender says goes before. `task_default_priority` must
    stay unset: it would override the routes, and not reach tasks sent by name only (`app.send_task`).
    """
    by_module = {f"tasks.{name}.*": route(name, priority) for name, priority in QUEUES.items()}
    return {
        "tasks.priority.health_check": route("priority", Priority.MOST_URGENT),
        **by_module,
        "*": route(DEFAULT_QUEUE, QUEUES[DEFAULT_QUEUE]),
    }


def route(queue: str, priority: Priority) -> dict[str, str | int]:
    """Return the options that send a message to this queue with this priority."""
    return {"queue": queue, "routing_key": queue, "priority": int(priority)}


def redis_keys(queue: str) -> list[str]:
    """Return the Redis lists that hold a queue's messages, most urgent first.

    Step 0 is the queue's plain name; the others carry the step behind a separator.
    """
    return [f"{queue}{PRIORITY_SEPARATOR}{step}" if step else queue for step in PRIORITY_STEPS]
