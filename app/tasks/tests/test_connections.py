"""Through a sentinel, with ACL users there and at the server: workers, results, beat, the project's keys."""

from __future__ import annotations

import json
from typing import Any

import pytest
from redis import Redis, RedisError
from support.processes.celery_processes import CeleryFactory, Platform, WorkerFactory, forget_settings
from support.processes.services import RedisServerFactory, free_port, wait_for
from tasks.store import redis_client

USER, PASSWORD = "app", "p@ss;w/rd"
QUOTED = "p%40ss%3Bw%2Frd"
WITHIN = 30  # seconds


@pytest.fixture
def through_sentinel(
    redis_server_factory: RedisServerFactory, platform: Platform
) -> tuple[dict[str, str], Redis]:
    """Return settings that lead to a server by its sentinel only, and a client of the server."""
    user = ["--user", USER, "on", f">{PASSWORD}", "~*", "&*", "+@all"]
    server = redis_server_factory(*user, "--user", "default", "off")
    port = free_port()
    text = "\n".join(
        [
            f"port {port}",
            "bind 127.0.0.1",
            f"user {USER} on >{PASSWORD} &* +@all",
            "user default off",
            f"sentinel monitor fleet 127.0.0.1 {server.port} 1",
            f"sentinel auth-user fleet {USER}",
            f"sentinel auth-pass fleet {PASSWORD}",
        ]
    )
    start = f"printf '%s\\n' '{text}' >/tmp/sentinel.conf; exec redis-server /tmp/sentinel.conf --sentinel"
    server.container.exec_run(["sh", "-c", start], detach=True)

    def answers() -> bool:
        try:
            with Redis(port=port, username=USER, password=PASSWORD) as sentinel:
                return bool(sentinel.ping())
        except RedisError:
            return False

    wait_for(answers, "Sentinel does not answer")
    # The first of them does not answer.
    url = f"sentinel://{USER}:{QUOTED}@127.0.0.1:1/0;sentinel://{USER}:{QUOTED}@127.0.0.1:{port}/0"
    environment = platform.environment | {
        "CELERY_BROKER_URL": url,
        "CELERY_RESULT_BACKEND": url.replace("/0", "/1"),
        "CELERY_SENTINEL_MASTER": "fleet",
    }
    return environment, Redis(port=server.port, username=USER, password=PASSWORD, decode_responses=True)


def test_a_worker_executes_tasks_and_keeps_results_through_a_sentinel(
    through_sentinel: tuple[dict[str, str], Redis],
    celery_process: CeleryFactory,
    worker_process: WorkerFactory,
) -> None:
    environment, server = through_sentinel
    worker_process(environment, "default")
    call = celery_process(environment, "call", "tasks.default.echo", "--args", '["x"]')
    task_id = call.wait_for_output(r"(?m)^[0-9a-f-]{36}$")[0]

    server.select(1)

    def executed() -> bool:
        found: Any = server.get(f"celery-task-meta-{task_id}")
        return found is not None and json.loads(found)["status"] == "SUCCESS"

    wait_for(executed, "no result", WITHIN)
    # The worker's options are part of its answer.
    celery_process(environment, "inspect", "stats").wait_for_output("1 node online")


def test_beat_locks_its_schedule_through_a_sentinel(
    through_sentinel: tuple[dict[str, str], Redis], celery_process: CeleryFactory
) -> None:
    environment, server = through_sentinel
    celery_process(environment, "beat")
    wait_for(lambda: server.exists("redbeat::lock"), "beat takes no lock", WITHIN)


def test_the_projects_own_keys_are_on_the_primary(
    through_sentinel: tuple[dict[str, str], Redis], monkeypatch: pytest.MonkeyPatch
) -> None:
    environment, server = through_sentinel
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    forget_settings()
    try:
        redis_client().set("tests:sentinel", "seen")
    finally:
        forget_settings()
    assert server.get("tests:sentinel") == "seen"
