"""A real worker: what it logs, records, refuses, and in which order it takes messages."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from celery.exceptions import QueueNotFound
from kombu import Producer
from redis import Redis
from support.processes.celery_processes import CeleryProcess, Platform, WorkerFactory
from support.processes.services import wait_for
from tasks import app, cpu_intensive, default, io_intensive, priority, scheduled
from tasks.queues import PRIORITY_STEPS, QUEUES, Priority

WITHIN = 20  # seconds


def line(worker: CeleryProcess, pattern: str) -> dict[str, Any]:
    """Return the pairs of the first log line that matches."""
    found = worker.wait_for_output(rf"(?m)^time=.*{pattern}.*$")[0]
    pairs = re.findall(r'(\w+)=("(?:[^"\\]|\\.)*"|\S*)', found)
    return {key: json.loads(value) if value.startswith('"') else value for key, value in pairs}


def test_each_task_is_logged_at_its_start_and_its_end(
    shared_worker: CeleryProcess, environment: dict[str, str]
) -> None:
    del environment
    result = io_intensive.wait.delay(0.2)
    assert result.get(timeout=WITHIN) == 0.2
    start = line(shared_worker, f'message="task started" id={result.id}')
    end = line(shared_worker, f'message="task ended" id={result.id}')
    assert (start["name"], start["state"]) == ("tasks.io_intensive.wait", "STARTED")
    assert (end["name"], end["state"], end["level"]) == ("tasks.io_intensive.wait", "SUCCESS", "INFO")
    assert 0.2 <= float(end["duration"]) < 5


def test_a_failure_is_logged_on_one_line_with_its_traceback(
    shared_worker: CeleryProcess, environment: dict[str, str]
) -> None:
    del environment
    result = default.fail.delay('with "quotes"\nand a second line')
    result.get(timeout=WITHIN, propagate=False)
    assert line(shared_worker, f'message="task ended" id={result.id}')["state"] == "FAILURE"
    error = line(shared_worker, f"level=ERROR .*{result.id}")
    assert "Traceback (most recent call last)" in error["traceback"]
    assert 'with "quotes"' in error["message"]


def test_every_line_after_the_banner_is_structured(
    shared_worker: CeleryProcess, environment: dict[str, str]
) -> None:
    del environment
    default.echo.delay().get(timeout=WITHIN)
    lines = shared_worker.output().splitlines()
    first = next(number for number, text in enumerate(lines) if text.startswith("time="))
    assert [text for text in lines[first:] if not text.startswith("time=")] == []
    assert "\x1b" not in shared_worker.output()


def test_a_record_names_the_queue(shared_worker: CeleryProcess, redis: Redis) -> None:
    del shared_worker
    result = priority.notify.delay("wake up", trace_key="tests:notified")
    result.get(timeout=WITHIN)

    def recorded() -> dict[str, Any] | None:
        records = [json.loads(str(text)) for text in redis.lrange("tasks:successes", 0, -1)]
        return next((each for each in records if each["id"] == result.id), None)

    # Another test's task may be recorded after it.
    record = wait_for(recorded, "no record", WITHIN)
    assert (record["queue"], record["args"]) == ("priority", ["wake up"])
    assert record["runtime"] > 0


def test_a_task_leaves_one_trace_of_each_execution(shared_worker: CeleryProcess, redis: Redis) -> None:
    del shared_worker
    redis.delete("tests:traced:started", "tests:traced:ended")
    sent = [default.echo.delay(number, trace_key="tests:traced") for number in range(20)]
    for result in sent:
        result.get(timeout=WITHIN)
    for key in ("tests:traced:started", "tests:traced:ended"):
        ids = redis.lrange(key, 0, -1)
        assert isinstance(ids, list)
        assert sorted(ids) == sorted(result.id for result in sent)


def test_sample_tasks_take_a_size(shared_worker: CeleryProcess, environment: dict[str, str]) -> None:
    del shared_worker, environment
    assert cpu_intensive.burn.apply_async((0.05,), queue="default").get(timeout=WITHIN) > 0
    assert len(cpu_intensive.digest.apply_async((1000,), queue="default").get(timeout=WITHIN)) == 64
    assert io_intensive.write_file.delay(3_000_000).get(timeout=WITHIN) == 3_000_000
    report = scheduled.generate_daily_reports.apply_async(("2024-01-01",), queue="default")
    assert report.get(timeout=WITHIN) == {"day": "2024-01-01", "logins": 0, "users": 0}


class Weapon:
    """Creates a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.target,)


@pytest.mark.parametrize(
    ("serializer", "content_type"),
    [("pickle", "application/x-python-serialize"), ("yaml", "application/x-yaml")],
)
def test_a_message_that_is_not_json_is_refused(
    shared_worker: CeleryProcess, redis: Redis, tmp_path: Path, serializer: str, content_type: str
) -> None:
    body: Any = ((), {}, {})
    if serializer == "pickle":
        body = ((Weapon(tmp_path / "fired"),), {}, {})
    with app.connection_for_write() as connection:
        Producer(connection).publish(
            body,
            exchange="default",
            routing_key="default",
            serializer=serializer,
            headers={"task": "tasks.default.echo", "id": serializer, "lang": "py"},
        )
    shared_worker.wait_for_output(f"Refusing to deserialize .*{content_type}")
    assert default.echo.delay("still alive").get(timeout=WITHIN) == "still alive"
    assert not (tmp_path / "fired").exists()
    assert wait_for(lambda: redis.hlen("unacked") == 0, "the message was kept", WITHIN)


def test_urgent_messages_overtake_across_queues(
    platform: Platform, redis: Redis, worker_process: WorkerFactory
) -> None:
    redis.delete("tests:order:started")
    sent: dict[object, int] = {}
    for step in reversed(PRIORITY_STEPS):  # the least urgent first
        for queue in ("cpu_intensive", "scheduled"):
            keywords = {"trace_key": "tests:order"}
            sent[default.echo.apply_async(kwargs=keywords, queue=queue, priority=step).id] = step
    named = app.send_task("tasks.cpu_intensive.digest", (1,))  # by name, without a priority
    assert redis.llen(f"cpu_intensive\x06\x16{Priority.NORMAL}") == 2
    worker_process(platform.environment, "cpu_intensive,scheduled", pool="solo")
    assert len(named.get(timeout=WITHIN)) == 64
    assert wait_for(lambda: redis.llen("tests:order:started") == len(sent), "not all were run", WITHIN)
    ids = redis.lrange("tests:order:started", 0, -1)
    assert isinstance(ids, list)
    assert [sent[task_id] for task_id in ids] == sorted(sent.values())


def test_a_message_without_a_priority_counts_as_most_urgent(redis: Redis) -> None:
    with app.connection_for_write() as connection:
        queue = app.amqp.queues["cpu_intensive"]
        Producer(connection).publish(
            {}, exchange=queue.exchange, routing_key="cpu_intensive", declare=[queue]
        )
    assert redis.llen("cpu_intensive") == 1
    redis.delete("cpu_intensive")


@pytest.mark.usefixtures("environment")
@pytest.mark.parametrize(
    ("name", "queue", "level"),
    [
        ("tasks.default.echo", "default", Priority.NORMAL),
        ("tasks.cpu_intensive.burn", "cpu_intensive", Priority.NORMAL),
        ("tasks.io_intensive.wait", "io_intensive", Priority.NORMAL),
        ("tasks.priority.notify", "priority", Priority.URGENT),
        ("tasks.priority.health_check", "priority", Priority.MOST_URGENT),
        ("tasks.scheduled.cleanup_expired_sessions", "scheduled", Priority.LOW),
        ("somebody.elses", "default", Priority.NORMAL),
    ],
)
def test_routes(name: str, queue: str, level: Priority) -> None:
    route = app.amqp.router.route({}, name)
    assert route["queue"].name == queue
    assert route["queue"].exchange.name == queue
    assert route["queue"].exchange.type == "direct"
    assert route["queue"].routing_key == queue
    assert route["queue"].queue_arguments == {"x-max-priority": 9}
    assert route["priority"] == level


@pytest.mark.usefixtures("environment")
def test_each_queue_has_its_module_of_tasks() -> None:
    app.loader.import_default_modules()
    modules = {name.rpartition(".")[0] for name in app.tasks if name.startswith("tasks.")}
    assert modules == {f"tasks.{queue}" for queue in QUEUES}


@pytest.mark.usefixtures("environment")
def test_a_misspelt_queue_is_an_error() -> None:
    with pytest.raises(QueueNotFound, match="prioritty"):
        default.echo.apply_async(queue="prioritty")


@pytest.mark.usefixtures("environment")
def test_the_configuration_is_what_the_tasks_rely_on() -> None:
    wanted = {
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        "timezone": "UTC",
        "enable_utc": True,
        "result_expires": 3600,
        "worker_prefetch_multiplier": 1,
        "worker_max_tasks_per_child": 1000,
        "worker_disable_rate_limits": False,
        "worker_send_task_events": True,
        "task_send_sent_event": True,
        "worker_hijack_root_logger": False,
        "worker_log_color": False,
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_default_priority": None,
        "broker_connection_retry_on_startup": True,
    }
    assert {name: app.conf[name] for name in wanted} == wanted
