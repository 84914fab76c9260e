"""What the page shows of the past: history, failures."""

from __future__ import annotations

import time
from typing import Any

from celery import Celery
from celery_autoscaler.protocol.broker import connect
from celery_autoscaler.protocol.description import describe
from celery_autoscaler.settings import Settings
from celery_autoscaler.supervisor import history
from celery_autoscaler.supervisor.loop import Supervisor
from redis import Redis
from support.processes.supervisor_page import (
    GROUPS,
)


def test_history_is_written_by_one_supervisor_and_read_back(app: Celery, redis: Redis) -> None:
    made = [
        Supervisor(describe(app, "proj"), Settings(groups=GROUPS, hostname=host, memory_threshold=1))
        for host in "ab"
    ]
    app.send_task("t", queue="mails", ignore_result=True)
    # With its first look a supervisor sees nobody yet, not even itself.
    for _ in range(3):
        for supervisor in made:
            supervisor.tick()
            # The next look is one for another record.
            supervisor.publisher.recorder._slot -= 1
    for supervisor in made:
        supervisor.launcher.close()

    found = history.read(connect(app), 3600)

    assert redis.xlen("fleet:history") == 2
    assert found["default"]["waiting"] == [1, 1]
    assert found["slow"]["max_workers"] == [3, 3]


def test_of_a_long_time_the_worst_is_shown(app: Celery, redis: Redis) -> None:
    begin = int(time.time()) // 240 * 240 - 4800
    for number in range(48):
        redis.xadd(
            "fleet:history", {"default": f"1 0 0 4 {number} 0.5"}, id=f"{(begin + 10 * number) * 1000}-0"
        )

    found = history.read(connect(app), 86400, 360)["default"]

    assert found["waiting"] == [23, 47]


def test_a_day_of_history_is_bounded_and_small(app: Celery, redis: Redis) -> None:
    broker = connect(app)
    with broker.client.pipeline(transaction=False) as pipe:
        for number in range(history.RECORDS + 1000):
            record = {"default": f"12 1 0 40 {number} {number % 97 / 10:.4g}"}
            pipe.xadd(broker.keys.history, record, maxlen=history.RECORDS, approximate=True)
        pipe.execute()

    assert history.RECORDS <= redis.xlen("fleet:history") <= history.RECORDS + 100
    size: Any = redis.memory_usage("fleet:history", samples=0)
    assert 0 < size < 600_000
