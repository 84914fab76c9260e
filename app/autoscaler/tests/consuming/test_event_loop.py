"""A worker's event loop waits for no server without end, and its lease proves that it turns."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from support.processes.counted_tasks import SHORT_LEASE, Fleet, NewFleet
from support.processes.services import RedisServer, RedisServerFactory, wait_for
from support.processes.silent_deaths import Wire, gone_without_a_word

# Seconds that the end of an idle worker takes at most, three times over for a busy machine.
STOP = 3 * 3.0
# Seconds of the lease where the loop is to stand still for several of them.
BRIEF = 1.5
# So that a stall is not waited for because of the app's own time for a cold shutdown.
NO_GRACE = {"worker_soft_shutdown_timeout": 0.1}


@pytest.fixture
def server(redis_server_factory: RedisServerFactory) -> RedisServer:
    """Return a broker of the test's own; tasks are counted on another server."""
    return redis_server_factory()


@pytest.fixture
def wire(server: RedisServer) -> Iterator[Wire]:
    """Return a way to the broker that can be cut."""
    with closing(Wire(server)) as wire:
        yield wire


def heartbeat(fleet: Fleet, worker: str, field: str) -> str | None:
    for key in fleet.tasks.redis.scan_iter(match=f"fleet:worker:{worker}@*"):
        value = fleet.tasks.redis.hget(key, field)
        return None if value is None else str(value)
    return None


def alive(group: int) -> bool:
    """Whether a process of the group lives."""
    found = False
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, its_group = stat.read_text().rpartition(")")[2].split()[:3]
            found = found or (int(its_group) == group and state != "Z")
    return found


@pytest.mark.versions
def test_a_worker_whose_loop_stands_still_says_so_and_ends(fleet: Fleet) -> None:
    fleet.lease = BRIEF
    worker = fleet.start(name="stalled", concurrency=2, settings=NO_GRACE)
    running = fleet.tasks.send(1, 8 * BRIEF)
    fleet.tasks.wait_until_started(running)
    deaf = fleet.tasks.send(1, name="deafen")
    worker.wait_for_output("has been stuck")

    wait_for(lambda: heartbeat(fleet, "stalled", "state") == "stalled", "its heartbeat does not say so")
    waiting = fleet.tasks.send(3)
    assert worker.wait(60) == os.EX_SOFTWARE
    # Where it stood still.
    assert "in _hear" in worker.output()
    # Nothing of its runs on while others run it again.
    wait_for(lambda: not alive(worker.process.pid), "its children live on")
    fleet.start(name="other", concurrency=4)

    outcome = fleet.tasks.settle(running + waiting)
    assert not outcome.lost
    assert not outcome.ended_again
    assert outcome.started_again == running
    assert fleet.tasks.left() == {}
    assert not fleet.tasks.ended().keys() & set(deaf)


def test_a_task_in_the_main_process_may_hold_the_loop_up(fleet: Fleet) -> None:
    fleet.lease = BRIEF
    worker = fleet.start("-P", "solo", settings=NO_GRACE)
    ids = fleet.tasks.send(2, 7 * BRIEF)

    assert fleet.tasks.settle(ids).exactly_once
    assert worker.stop() == 0


@pytest.mark.parametrize("pool", ["prefork", "threads"])
@pytest.mark.versions
def test_connections_of_remote_control_may_die_without_a_word(
    server: RedisServer, new_fleet: NewFleet, wire: Wire, pool: str
) -> None:
    fleet = new_fleet(broker_url=server.url)
    tasks = fleet.tasks
    fleet.broker_url = wire.url
    worker = fleet.start("-E", "-P", pool, gossip=True)
    control = tasks.app.control
    # Each of the connections on which it answers and publishes is open from now on.
    assert wait_for(lambda: bool(control.ping(timeout=1.0, limit=1)), "no answer")
    assert tasks.settle(tasks.send(3)).exactly_once

    for _ in range(2):
        wire.cut()
        # It is told while its loop has not noticed yet, and has to answer on a dead connection.
        control.broadcast("ping", reply=False)
        ids = tasks.send(10)
        # What it may wait for one connection after the other.
        tasks.wait_until_ended(ids, within=3 * (1 + 5 * SHORT_LEASE))
        assert wait_for(lambda: bool(control.ping(timeout=2.0, limit=1)), "no answer")
        assert tasks.settle(ids).exactly_once

    wire.cut()
    began = time.monotonic()
    assert worker.stop() == 0
    assert time.monotonic() - began < STOP


@pytest.mark.parametrize("pool", ["prefork", "threads", "gevent"])
def test_an_idle_worker_ends_at_once_whatever_is_away(
    server: RedisServer,
    redis_server_factory: RedisServerFactory,
    new_fleet: NewFleet,
    pool: str,
) -> None:
    servers = {"broker": server, "results": redis_server_factory()}
    fleet = new_fleet(broker_url=server.url)
    worker = fleet.start("-P", pool, gossip=True, settings={"result_backend": servers["results"].url})
    assert fleet.tasks.settle(fleet.tasks.send(1)).exactly_once

    with ExitStack() as stack:
        for away in servers.values():
            stack.enter_context(gone_without_a_word(away))
        began = time.monotonic()
        status = worker.stop()
        took = time.monotonic() - began

    print(f"{pool}: {took:.1f} s")  # noqa: T201
    assert status == 0
    assert took < STOP
