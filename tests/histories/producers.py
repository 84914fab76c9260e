"""Sends the tasks of a history: envelopes as Celery makes them, pushed in one transaction a batch."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any

from celery import Celery, chain, chord, group
from celery.backends.redis import RedisBackend
from kombu import Connection, Queue
from kombu.exceptions import OperationalError
from kombu.transport import redis
from kombu.utils.json import dumps
from redis.exceptions import RedisError, ResponseError

from histories import app as application
from histories.events import Sent
from histories.kinds import KINDS
from histories.script import Step
from histories.servers import Servers, client_of

# Seconds for which an expiring task is worth something.
EXPIRES = 2.0
# Seconds until a task is due that is revoked at once.
REVOKED = 2.0
# Seconds after which a task meets its hard limit.
HARD_LIMIT = 1.0
# Characters of a large message.
LARGE = 300_000

# A producer that waits for a server sends nothing meanwhile: what it cannot send is forgotten.
IMPATIENT = {
    "max_retries": 1,
    "interval_start": 0.1,
    "interval_step": 0,
    "interval_max": 0.1,
    "socket_timeout": 5,
    "socket_connect_timeout": 5,
}

Message = dict[str, Any]


def _of_headers(name: str, value: object) -> Callable[[Message], None]:
    def change(message: Message) -> None:
        message["headers"][name] = value

    return change


def _of_message(name: str, value: object) -> Callable[[Message], None]:
    def change(message: Message) -> None:
        message[name] = value

    return change


# What may be wrong with a message, each in one place.
WRONG: tuple[Callable[[Message], None], ...] = (
    _of_message("body", "!"),
    _of_message("headers", ["task", "plain"]),
    _of_message("properties", None),
    _of_message("content-encoding", "no such encoding"),
    _of_message("content-type", "application/x-nothing"),
    _of_headers("task", ["plain"]),
    _of_headers("task", {}),
    _of_headers("timelimit", 3),
    _of_headers("retries", "many"),
    _of_headers("eta", "0001-01-01T00:00:00+14:00"),
    _of_headers("expires", "soon"),
    _of_headers("id", {"no": "id"}),
)


class Outbox(redis.Channel):  # type: ignore[misc]
    """A channel that keeps what is published for one push."""

    def _put(self, queue: str, message: Any, **_: Any) -> None:
        key = self._q_for_pri(queue, self._get_message_priority(message, reverse=False))
        self.connection.outbox.append((key, dumps(message)))


class OutboxTransport(redis.Transport):  # type: ignore[misc]
    """Kombu's Redis transport with that channel."""

    Channel = Outbox

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.outbox: list[tuple[str, str]] = []


class QuietBackend(RedisBackend):
    """Results that nobody waits for."""

    def on_task_call(self, producer: Any, task_id: str) -> None:
        """Listen for no result."""

    def remove_pending_result(self, result: Any) -> Any:
        """Listen to none no more."""
        return result


class Sender:
    """Sends tasks and remembers what it has sent."""

    def __init__(self, servers: Servers, broker_port: int, seed: int) -> None:
        """Send through a port of the proxy."""
        self.sent: list[Sent] = []
        self.refused = 0
        self._servers = servers
        self._chance = random.Random(seed)  # noqa: S311  not for secrets
        self._number = count()
        url = f"redis://127.0.0.1:{broker_port}/0"
        # One for each history: an app keeps its first connections.
        self.app = Celery("histories", broker=url, backend=servers.results.url, set_as_current=False)
        self.app.loader.override_backends = {"redis": f"{__name__}:{QuietBackend.__name__}"}
        self.app.conf.update(
            task_queues=application.app.conf.task_queues,
            task_default_queue=application.app.conf.task_default_queue,
            broker_transport_options=IMPATIENT,
        )
        self._connection = Connection(url, transport=OutboxTransport)
        self._producer = self.app.amqp.Producer(self._connection, auto_declare=False)
        self._client = client_of(broker_port)
        self._declare()

    def _declare(self) -> None:
        """Have every queue bound before the first fault."""
        channel = self._connection.default_channel
        for queue in [
            *self.app.amqp.queues.values(),
            Queue(application.EVENTS, routing_key=application.EVENTS),
        ]:
            queue(channel).declare()

    def close(self) -> None:
        """Close every connection."""
        self._connection.release()
        self._client.close()
        self.app.close()

    def send(self, step: Step) -> None:
        """Send the tasks of a step."""
        if KINDS[step.what].canvas:
            self._send_canvas(step)
            return
        names = [self._name() for _ in range(step.count)]
        at = self._servers.now()
        accepted: bool | None
        if step.what == "broadcast":
            accepted = self._broadcast(step, names)
        else:
            outbox: list[tuple[str, str]] = self._connection.transport.outbox
            outbox.clear()
            for name in names:
                self._publish(step, name)
            accepted = self._push(outbox, malformed=step.what == "malformed")
        if accepted is None:
            self.refused += len(names)
            return
        self.sent += [Sent(at, name, step.what, accepted) for name in names]
        if step.what == "revoked":
            self._quietly(lambda: self.app.control.revoke(names))

    def _name(self) -> str:
        return f"task-{next(self._number):06}"

    def _publish(self, step: Step, name: str) -> None:
        kind = KINDS[step.what]
        if step.what == "own consumer":
            self._producer.publish(name, exchange="", routing_key=application.EVENTS, retry=False)
            return
        arguments: dict[str, Any] = {"seconds": step.seconds}
        options: dict[str, Any] = {"queue": step.queue}
        if step.what in {"rate-limited", "rejected", "ignored", "failing", "stored", "killed child", "exits"}:
            arguments = {}
        match step.what:
            case "priority":
                options["priority"] = step.number
            case "large":
                arguments["load"] = "x" * LARGE
            case "eta":
                arguments, options["countdown"] = {}, step.seconds
            case "retry":
                arguments = {"times": step.number, "countdown": step.seconds}
            case "autoretry" | "requeued":
                arguments = {"times": step.number}
            case "expiring":
                options["expires"] = EXPIRES
            case "revoked":
                options["countdown"] = REVOKED
            case "hard limit":
                options["time_limit"] = HARD_LIMIT
        self.app.send_task(
            kind.task,
            kwargs=arguments,
            task_id=name,
            producer=self._producer,
            ignore_result=not kind.stored,
            retry=False,
            declare=[],
            **options,
        )

    def _push(self, messages: Iterable[tuple[str, str]], *, malformed: bool) -> bool | None:
        """Push all or none; return None if the server has refused them, False if nobody knows."""
        try:
            with self._client.pipeline(transaction=True) as pipe:
                for key, text in messages:
                    pipe.lpush(key, self._spoilt(text) if malformed else text)
                pipe.execute()
        except ResponseError:
            return None
        except RedisError:
            return False
        return True

    def _spoilt(self, text: str) -> str:
        message: Message = json.loads(text)
        self._chance.choice(WRONG)(message)
        return json.dumps(message)

    def _broadcast(self, step: Step, names: Iterable[str]) -> bool:
        def send() -> None:
            for name in names:
                self.app.send_task(
                    "plain", kwargs={"seconds": step.seconds}, task_id=name, queue=application.NEWS
                )

        return self._quietly(send)

    def _send_canvas(self, step: Step) -> None:
        """Send a chain, a group or a chord of three and more tasks."""
        at = self._servers.now()
        for _ in range(step.count):
            names = [self._name() for _ in range(step.number + 2)]
            tasks = [
                self.app.signature(
                    "stored", options={"task_id": name, "queue": step.queue, "ignore_result": False}
                )
                for name in names
            ]
            after: list[tuple[str, ...]] = [() for _ in names]
            if step.what == "chain":
                canvas: Any = chain(*tasks, app=self.app)
                after = [(), *((name,) for name in names[:-1])]
            elif step.what == "group":
                canvas = group(tasks, app=self.app)
            else:
                canvas = chord(tasks[:-1], tasks[-1], app=self.app)
                after[-1] = tuple(names[:-1])
            accepted = self._quietly(canvas.apply_async)
            self.sent += [
                Sent(at, name, step.what, accepted, of) for name, of in zip(names, after, strict=True)
            ]

    def _quietly(self, send: Callable[[], Any]) -> bool:
        """Send as any producer does; return whether the server has surely got it."""
        try:
            send()
        except (RedisError, OperationalError, OSError, AttributeError):
            # The last is kombu's way to say that its channel is closed.
            return False
        return True
