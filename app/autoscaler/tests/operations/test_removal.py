"""The keys of a project that is removed: all of them go, and nobody else's."""

from __future__ import annotations

import json
import time

import pytest
from celery import Celery
from celery_autoscaler.protocol.keys import Keys
from redis import Redis
from support.command_runs import Run

VICTIM = "victim@here:1"
OTHERS = ("celery", "mail", "_kombu.binding.celery", "fleeting", "celery-task-meta-1")


def fill(client: Redis, keys: Keys) -> None:
    """Write keys of a project: of some kinds, and of more than one step of the search."""
    client.hset(keys.supervisor("here"), "x", "1")
    client.xadd(keys.decisions, {"x": "1"})
    client.lpush(keys.dead_letter("celery"), "{}")
    client.mset({keys.set_aside(f"{keys.fleet}{number}"): "x" for number in range(1200)})


def names(client: Redis) -> set[str]:
    """The names of all keys."""
    return {str(name, "utf-8") for name in client.scan_iter(count=5000)}


@pytest.mark.parametrize("project", ["", "shop"])
def test_the_keys_of_a_project_are_deleted_and_no_others(
    run: Run, redis_url: str, project: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Redis.from_url(redis_url) as client:
        client.mset(dict.fromkeys(OTHERS, "x"))
        for other in ("" if project else "shop", "shopping"):
            fill(client, Keys(project=other))
        before = names(client)
        fill(client, Keys(project=project))
        if project:
            monkeypatch.setenv("CELERY_APP_PROJECT", project)

        assert run("delete-keys", "--yes") == "1203 keys and 0 messages deleted"

        assert names(client) == before


def test_messages_stay_unless_their_queue_is_named(run: Run, app: Celery, redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        for queue, priority in (("celery", 0), ("celery", 9), ("mail", 0)):
            app.send_task("x", queue=queue, priority=priority)
        waiting = names(client)
        assert {"celery", "mail"} < waiting

        assert run("delete-keys", "--yes") == "0 keys and 0 messages deleted"
        assert names(client) == waiting

        assert run("delete-keys", "--yes", "--queue", "celery") == "0 keys and 2 messages deleted"
        assert [name for name in names(client) if name.startswith("celery")] == []
        assert client.llen("mail") == 1


def test_what_a_dead_worker_holds_goes_back_first(run: Run, redis_url: str) -> None:
    keys, message = Keys(), json.dumps({"headers": {}, "properties": {}, "body": ""})
    with Redis.from_url(redis_url) as client:
        client.zadd(keys.workers, {VICTIM: 1})
        client.hset(keys.unacked(VICTIM), "1.000", f"celery\n{message}")

        run("delete-keys", "--yes")

        assert names(client) == {"celery"}


@pytest.mark.parametrize("kind", ["worker", "supervisor"])
def test_nothing_is_deleted_while_somebody_runs(refuse: Run, redis_url: str, kind: str) -> None:
    keys, end = Keys(), int((time.time() + 60) * 1000)
    with Redis.from_url(redis_url) as client:
        if kind == "worker":
            client.zadd(keys.workers, {VICTIM: end})
            client.hset(keys.worker(VICTIM), "x", "1")
        else:
            client.zadd(keys.supervisors, {"here": end})
        before = names(client)

        said = refuse("delete-keys", "--yes")

        assert "not stopped, or their lease has not run out: " in said
        assert ("victim@here" if kind == "worker" else "the supervisor of here") in said
        assert names(client) == before
