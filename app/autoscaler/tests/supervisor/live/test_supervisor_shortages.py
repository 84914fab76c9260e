"""The supervisor where hosts, Redis or programs are short of something, with real workers as its children."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import Any

import psutil
from support.processes.services import RedisServerFactory, wait_for
from support.processes.supervisors import GROUP, NewSupervisedFleet, SupervisedFleet


def test_a_host_that_is_short_of_memory_leaves_its_share_to_the_others(fleet: SupervisedFleet) -> None:
    fleet.start("rich")
    fleet.start("poor", memory_threshold=1)

    # More than two workers get done before the others may take over.
    ids = fleet.tasks.send(300, 0.2)
    fleet.wait_for_workers(3)
    outcome = fleet.tasks.settle(ids)

    assert outcome.exactly_once, outcome
    assert set(fleet.by_host()) == {"rich"}


def test_a_program_that_crashes_at_its_start_is_tried_later_each_time_and_quoted(
    new_fleet: NewSupervisedFleet,
) -> None:
    fleet = new_fleet(
        environment={"CRASH": "the database is on fire, hunter22 was wrong", "DB_PASSWORD": "hunter22"}
    )
    supervisor = fleet.start()

    supervisor.wait_for_output("crash loop: 5 workers failed", 60.0)

    output = supervisor.output()
    assert output.count("died; last output") == 5
    assert "last output: the database is on fire, (DB_PASSWORD) was wrong" in output
    assert fleet.living() == []
    status = fleet.status("here")
    assert status["groups"][GROUP]["limit"] == "back-off"
    assert status["groups"][GROUP]["last_failure"].startswith("default-1 died; see the supervisor's log")
    assert "hunter22" not in json.dumps([status, fleet.decisions()])


def test_a_program_that_starts_slowly_is_waited_for(new_fleet: NewSupervisedFleet) -> None:
    fleet = new_fleet(environment={"SLOW_START": "20"})
    supervisor = fleet.start(group={"max_workers": 1})
    ids = fleet.tasks.send(3)

    outcome = fleet.tasks.settle(ids, patience=60.0)

    assert outcome.exactly_once, outcome
    assert supervisor.output().count(" starts\n") == 1


def test_workers_that_eat_memory_are_joined_by_no_more_than_there_is_room_for(
    new_fleet: NewSupervisedFleet,
) -> None:
    memory = psutil.virtual_memory()
    fleet = new_fleet(environment={"EAT_MEMORY": str(memory.total // 8)})
    # Room for one worker that takes 12.5 %, not for two, whatever other tests take or give back meanwhile.
    supervisor = fleet.start(memory_threshold=memory.percent + 18)
    # A kernel that is busy takes its time to hand out gigabytes.
    fleet.wait_for_workers(1, within=120.0)

    ids = fleet.tasks.send(60, 0.2)
    supervisor.wait_for_output(r"held back: a worker takes \d+ MiB, \d+ MiB are left")
    outcome = fleet.tasks.settle(ids)

    assert outcome.exactly_once, outcome
    assert supervisor.output().count(" starts\n") == 1


def test_one_worker_after_the_other_is_given_up_while_memory_is_short(fleet: SupervisedFleet) -> None:
    supervisor = fleet.start()
    ids = fleet.tasks.send(100, 0.2)
    fleet.wait_for_workers(3)
    config = supervisor.config.read_text()

    supervisor.config.write_text(config.replace("memory_threshold = 100", "memory_threshold = 1"))
    supervisor.signal(signal.SIGHUP)
    fleet.wait_for_workers(2)
    fleet.wait_for_workers(1)
    outcome = fleet.tasks.settle(ids)

    assert supervisor.output().count("memory stays at") == 2

    assert outcome.exactly_once, outcome


def test_a_busy_cpu_allows_the_minimum_and_nobody_beyond(fleet: SupervisedFleet) -> None:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            fleet.start(cpu_threshold=1, group={"min_workers": 2})
            fleet.wait_for_workers(2)
            ids = fleet.tasks.send(60, 0.2)
            wait_for(
                lambda: fleet.status("here")["groups"][GROUP]["limit"] == "CPU", "the limit is not named"
            )

            outcome = fleet.tasks.settle(ids)
        finally:
            busy.kill()

    assert outcome.exactly_once, outcome
    assert len(set(fleet.tasks.counts.hvals("by"))) == 2
    assert any("CPU usage is" in entry["held_back"] for entry in fleet.decisions())


def test_no_worker_joins_a_redis_that_is_short_of_memory(
    new_fleet: NewSupervisedFleet, redis_server_factory: RedisServerFactory
) -> None:
    server = redis_server_factory()
    fleet = new_fleet(broker_url=server.url)
    supervisor = fleet.start()
    fleet.wait_for_workers(1)
    # So much that buffers of clients make no difference.
    fleet.tasks.redis.setrange("ballast", 20_000_000, "x")
    used: Any = fleet.tasks.redis.info("memory")
    fleet.tasks.redis.config_set("maxmemory", int(used["used_memory"] * 1.05))

    wait_for(lambda: bool(fleet.status("here")["redis"]), "the supervisor does not see it")
    ids = fleet.tasks.send(40, 0.3)
    supervisor.wait_for_output(r"held back: Redis uses \d+ % of its memory")
    alone = fleet.consuming()
    fleet.tasks.redis.config_set("maxmemory", 0)
    outcome = fleet.tasks.settle(ids)

    assert len(alone) == 1
    assert outcome.exactly_once, outcome
