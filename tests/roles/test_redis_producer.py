"""The preset of those who only send tasks and read results, measured with Celery on a real Redis."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from celery import chord, group
from celery.result import GroupResult
from kombu.exceptions import OperationalError
from support.processes.services import RedisServer, wait_for
from support.role_files import evaluate

PASSWORD = "a-password-of-a-web-application"  # noqa: S105 -- of a server that lives for this test
QUEUES = ["celery", "other.queue"]
WITHIN = 60.0  # seconds

# The app of the worker and of the producers. Its settings have a producer call whatever a producer may call.
APP = """
import os
from celery import Celery

app = Celery("shop", broker=os.environ["BROKER"], backend=os.environ["RESULTS"])
app.conf.update(
    task_send_sent_event=True,
    task_track_started=True,
    result_extended=True,
    broker_transport_options={"queue_order_strategy": "priority"},
)

@app.task(name="add", shared=False)
def add(*numbers):
    return sum(number if isinstance(number, int) else sum(number) for number in numbers)
"""


@pytest.fixture(scope="module")
def rules() -> dict[str, list[str]]:
    """The rules of each user, as the role makes them."""
    users = [
        {"name": "web", "preset": "producer", "password": PASSWORD},
        {"name": "narrow", "preset": "producer", "password": PASSWORD, "queues": QUEUES},
    ]
    (found,) = evaluate("redis", "__redis_acl", [{"redis_users": users}])
    return {user["name"]: user["rules"] for user in found if user["name"] != "default"}


@pytest.fixture(scope="module")
def admin(redis_server: RedisServer, rules: dict[str, list[str]]) -> Iterator[Any]:
    """The server's administrator; the users are there."""
    redis_server.flush()
    client: Any = redis.Redis(host=redis_server.host, port=redis_server.port, decode_responses=True)
    for name, words in rules.items():
        client.execute_command("ACL", "SETUSER", name, "reset", "on", f">{PASSWORD}", *words)
    yield client
    client.execute_command("ACL", "DELUSER", *rules)
    client.close()


def environment(server: RedisServer, user: str) -> dict[str, str]:
    """The app's addresses; broker and results are two databases."""
    address = (
        f"redis://{user}:{PASSWORD}@{server.host}:{server.port}" if user else server.url.removesuffix("/0")
    )
    return {"BROKER": f"{address}/0", "RESULTS": f"{address}/1"}


@contextmanager
def producing(server: RedisServer, user: str) -> Iterator[Any]:
    """The app as a user has it."""
    module: dict[str, Any] = {"__name__": "shop"}
    with pytest.MonkeyPatch.context() as patched:
        for name, value in environment(server, user).items():
            patched.setenv(name, value)
        exec(APP, module)  # noqa: S102 -- our own text, which the worker runs as well
    with module["app"] as app:
        yield app
        # A result that is collected later has nothing to unsubscribe from a server that is gone.
        app.backend.result_consumer.subscribed_to.clear()


@pytest.fixture(scope="module")
def worker(admin: Any, redis_server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A worker with all rights."""
    folder = tmp_path_factory.mktemp("shop")
    (folder / "shop.py").write_text(APP)
    command = [sys.executable, "-m", "celery", "-A", "shop", "worker", "--pool=solo", "--loglevel=error"]
    process = subprocess.Popen(
        [*command, "--without-gossip", "--without-mingle"],
        cwd=folder,
        env={**os.environ, **environment(redis_server, "")},
    )
    try:
        wait_for(lambda: admin.keys("_kombu.binding.celery.pidbox"), "the worker does not start", WITHIN)
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture(params=["web", "narrow"])
def producer(request: pytest.FixtureRequest, redis_server: RedisServer, admin: Any) -> Iterator[Any]:
    """The same app as a producer has it. What it was refused fails the test."""
    request.getfixturevalue("worker")
    admin.acl_log_reset()
    with producing(redis_server, request.param) as app:
        yield app
    refused = [(entry["username"], entry["context"], entry["object"]) for entry in admin.acl_log()]
    assert refused == []


def send(app: Any) -> Any:
    result = app.tasks["add"].delay(1, 2)
    value = result.get(timeout=WITHIN)
    assert result.state == "SUCCESS"
    result.forget()
    return value


def send_later_and_by_priority(app: Any) -> Any:
    task = app.tasks["add"]
    urgent = task.apply_async((1, 2), priority=9)
    return task.apply_async((urgent.get(timeout=WITHIN),), countdown=0.1).get(timeout=WITHIN)


def send_a_group(app: Any) -> Any:
    task = app.tasks["add"]
    sent: Any = group(task.s(number) for number in range(3)).delay()
    sent.save()
    restored = GroupResult.restore(sent.id, app=app)
    total = sum(restored.get(timeout=WITHIN))
    restored.forget()
    restored.delete()
    return total


def send_a_chord(app: Any) -> Any:
    task = app.tasks["add"]
    return chord([task.s(number) for number in range(3)])(task.s()).get(timeout=WITHIN)


def send_a_chain_with_a_chord(app: Any) -> Any:
    task = app.tasks["add"]
    header = group(task.s(number) for number in range(3))
    whole: Any = task.si(1) | header | task.s()
    return whole.delay().get(timeout=WITHIN) - 3


@pytest.mark.parametrize(
    "use", [send, send_later_and_by_priority, send_a_group, send_a_chord, send_a_chain_with_a_chord]
)
def test_a_producer_sends_and_reads_results(producer: Any, use: Callable[[Any], Any]) -> None:
    assert use(producer) == 3


def test_a_producer_sends_to_another_queue(producer: Any, admin: Any) -> None:
    for priority in (0, 9):
        producer.tasks["add"].apply_async((1,), queue="other.queue", priority=priority)

    assert [admin.llen(name) for name in ("other.queue", "other.queue\x06\x169")] == [1, 1]
    assert admin.delete("other.queue", "other.queue\x06\x169") == 2


@pytest.fixture
def web(redis_server: RedisServer, admin: Any) -> Iterator[Any]:
    """A connection of the producer that may send to any queue, beside keys of others."""
    admin.rpush("orders", "message")
    admin.set("session:1", "secret")
    client: Any = redis.Redis(
        host=redis_server.host, port=redis_server.port, username="web", password=PASSWORD
    )
    yield client
    client.close()
    admin.delete("orders", "session:1")


@pytest.mark.parametrize(
    "command",
    [
        "RPOP orders",
        "LPOP orders",
        "BRPOP orders 1",
        "LRANGE orders 0 -1",
        "LINDEX orders 0",
        "LREM orders 0 message",
        "LSET orders 0 other",
        "LMOVE orders celery-task-meta-x LEFT LEFT",
        "RENAME orders celery-task-meta-x",
        "COPY orders celery-task-meta-x",
        "SORT orders",
        "DEL orders",
        "EXPIRE orders 1",
        "GET session:1",
        "SET session:1 other",
        "SET celery-task-meta-x forged",
        "HGETALL unacked",
        "EVAL 1 0",
        "SCAN 0",
        "KEYS *",
        "RANDOMKEY",
        "DUMP orders",
        "MONITOR",
        "PSUBSCRIBE *",
        "SUBSCRIBE /0.celery.pidbox",
        "PUBLISH /0.celery.pidbox shutdown",
        "PUBLISH celery-task-meta-x forged",
        "CLIENT LIST",
        "CLIENT KILL ID 1",
        "CONFIG GET *",
        "ACL LIST",
        "INFO",
        "FLUSHDB",
        "SHUTDOWN NOSAVE",
    ],
)
def test_a_producer_takes_reads_and_administers_nothing_else(web: Any, command: str) -> None:
    with pytest.raises(redis.exceptions.NoPermissionError):
        web.execute_command(*command.split())


def test_a_producer_with_queues_sends_to_no_other(redis_server: RedisServer, admin: Any) -> None:
    with producing(redis_server, "narrow") as app:
        with pytest.raises((OperationalError, redis.exceptions.NoPermissionError)):
            app.tasks["add"].apply_async((1,), queue="celerys", retry=False)
        assert admin.llen("celerys") == 0


@pytest.mark.usefixtures("worker")
def test_a_producer_purges_and_controls_only_with_rules_of_its_own(
    redis_server: RedisServer, admin: Any
) -> None:
    with producing(redis_server, "web") as app:
        with pytest.raises(redis.exceptions.NoPermissionError):
            app.control.purge()
        with pytest.raises(redis.exceptions.NoPermissionError):
            app.control.inspect(timeout=1).ping()
        with pytest.raises((OperationalError, redis.exceptions.NoPermissionError)):
            app.control.revoke("an-id", retry=False)
        # As the role's README has it.
        admin.execute_command("ACL", "SETUSER", "web", "(&/*.celery.pidbox +publish)")
        app.control.revoke("an-id")
