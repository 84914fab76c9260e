"""Which groups start workers first, how many at a time, and that what is told is what was done."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from celery_autoscaler.supervisor.policy.limits import STARTS_PER_CPU
from celery_autoscaler.supervisor.server_room import FIRST_CLIENTS, ClientsPerWorker, ClientsSeen
from redis import Redis
from support.processes.services import RedisServerFactory, wait_for
from support.processes.supervisors import GROUP, SupervisedFleet, Supervisor

SOLO = {"pool": "solo", "concurrency": 1}


@pytest.fixture
def fleet(redis_url: str, tmp_path: Path) -> Iterator[SupervisedFleet]:
    """Return a fleet; a failed test shows what its supervisors printed."""
    with ExitStack() as stack:
        fleet = stack.enter_context(SupervisedFleet(tmp_path, redis_url, redis_url.replace("/0", "/1")))
        stack.callback(lambda: print(fleet.tails()))  # noqa: T201  pytest shows it with a failure only
        yield fleet


def started(supervisor: Supervisor, group: str = "") -> int:
    """Return how many workers a supervisor has started."""
    return len(re.findall(rf"{group}[a-z]*-\d+ starts\n", supervisor.output()))


def test_a_group_that_hangs_at_its_start_keeps_no_other_from_its_workers(fleet: SupervisedFleet) -> None:
    (fleet.folder / "hang.py").write_text("import time\ntime.sleep(3600)\n")
    # By name and by its minimum it would be the first to take every start.
    hangs = {**SOLO, "queues": ["a"], "min_workers": 9, "max_workers": 9}
    config = fleet.config(
        "here",
        group={**SOLO, "max_workers": 1},
        others={"urgent": {**SOLO, "queues": ["urgent"], "min_workers": 0, "max_workers": 1}},
    )
    options = '[groups.aaa.options]\ninclude = "hang"\n'
    supervisor = Supervisor(
        fleet.folder,
        fleet.broker_url,
        "here",
        config.replace(
            f"[groups.{GROUP}]", "[groups.aaa]\n" + toml_of(hangs) + options + f"[groups.{GROUP}]"
        ),
        fleet.environment,
    )
    fleet.supervisors.append(supervisor)
    wait_for(lambda: started(supervisor, "aaa") >= 4, "the group that hangs starts none")

    urgent = fleet.tasks.send(1, queue="urgent")
    fleet.tasks.wait_until_ended(urgent)
    assert fleet.wait_for_workers(2) == ["default-1@here", "urgent-1@here"]

    group = fleet.status("here")["groups"]["aaa"]
    assert (group["limit"], group["ready"]) == ("start slots", 0)
    assert f"{STARTS_PER_CPU} per CPU at a time" in group["held_back"]


def toml_of(settings: dict[str, Any]) -> str:
    """Return settings of a group as TOML."""
    return "".join(f"{name} = {str(value).lower() if isinstance(value, bool) else repr(value)}\n"
                   for name, value in settings.items())  # fmt: skip


def test_what_is_written_down_is_what_was_started(fleet: SupervisedFleet) -> None:
    supervisor = fleet.start(
        group={**SOLO, "queues": ["celery", "slow"], "min_workers": 0, "max_workers": 9},
        queue_threshold=10_000,
    )
    supervisor.wait_for_output("Supervising")

    ids = fleet.tasks.send(60, 1.0)
    fleet.tasks.wait_until_ended(ids[:30], within=60.0)

    records = [entry for entry in fleet.decisions() if entry["group"] == GROUP]
    told = sum(int(entry["here"]) for entry in records if int(entry["here"]) > 0)
    assert told == started(supervisor)
    partial = [entry for entry in records if re.match(r"started \d of \d \(", entry["held_back"])]
    for entry in partial:
        assert entry["held_back"].startswith(f"started {entry['here']} of ")
    slots = [entry for entry in partial if entry["limit"] == "start slots"]
    assert slots, records
    assert f"({STARTS_PER_CPU} per CPU at a time)" in slots[0]["held_back"]
    # The log tells the same.
    assert f"here +{slots[0]['here']}" in supervisor.output()


def test_workers_leave_clients_of_redis_to_others(
    redis_server_factory: RedisServerFactory, redis_url: str, tmp_path: Path
) -> None:
    server = redis_server_factory("--maxclients", "60")
    with SupervisedFleet(tmp_path, server.url, redis_url.replace("/0", "/1")) as fleet:
        supervisor = fleet.start(group={**SOLO, "max_workers": 20}, queue_threshold=10_000)
        supervisor.wait_for_output("Supervising")

        ids = fleet.tasks.send(100, 0.5)
        limited: dict[str, Any] = wait_for(
            lambda: group if (group := fleet.status("here")["groups"][GROUP])["limit"] == "Redis" else None,
            "nothing keeps the workers back",
            60.0,
        )
        fleet.tasks.wait_until_ended(ids[:20], within=60.0)

        with Redis.from_url(server.url) as redis:
            stats: Any = redis.info("stats")
        assert stats["rejected_connections"] == 0
        assert 1 <= len(fleet.consuming()) <= 6
        assert re.search(r"Redis has \d+ of at most 60 clients", limited["held_back"])


# --- Clients of a worker -------------------------------------------------------------------------------


def test_the_clients_of_a_worker_are_measured_where_their_number_settles() -> None:
    measured = ClientsPerWorker()
    assert (measured.value, measured.is_measured) == (FIRST_CLIENTS, False)

    measured.update(20, 1, settled=True)
    measured.update(25, 1, settled=False)
    measured.update(34, 3, settled=True)
    assert (measured.value, measured.is_measured) == (7.0, True)
    # Others who came or left at the same time.
    measured.update(900, 4, settled=True)
    measured.update(10, 5, settled=True)
    assert measured.value == 7.0


@pytest.mark.parametrize(
    ("connected", "starting", "hosts", "turn", "room"),
    [
        (100, 0, 1, 0, 85),
        (100, 5, 1, 0, 80),
        (100, 5, 3, 0, 27),
        (100, 5, 3, 2, 26),
        (945, 0, 1, 0, 0),
        (940, 0, 2, 0, 1),
        (940, 0, 2, 1, 0),
        (2000, 0, 1, 0, 0),
    ],
)
def test_each_host_has_its_part_of_the_clients_that_are_free(
    connected: int, starting: int, hosts: int, turn: int, room: int
) -> None:
    assert ClientsPerWorker().room(ClientsSeen(connected, 1000), starting, hosts, turn) == room


def test_a_server_that_tells_no_limit_limits_nothing() -> None:
    assert ClientsPerWorker().room(ClientsSeen(100), 5, 1, 0) is None
