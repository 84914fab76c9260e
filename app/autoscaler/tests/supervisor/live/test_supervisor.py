"""The supervisor on a real Redis with real workers as its children, each task counted by its id."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from celery_autoscaler.operations.overrides import Sender, change
from celery_autoscaler.protocol.broker import connect
from celery_autoscaler.protocol.description import describe
from celery_autoscaler.settings import load
from celery_autoscaler.supervisor.loop import Supervisor
from support.processes.counted_tasks import Load
from support.processes.launched_workers import write_app
from support.processes.services import RedisServerFactory, wait_for
from support.processes.supervisors import GROUP, NewSupervisedFleet, Sampler, SupervisedFleet

# Seconds after which the others take over the share of a supervisor that is silent.
LEASE = 5.0


def test_a_burst_is_followed_to_the_maximum_and_back_to_the_minimum(fleet: SupervisedFleet) -> None:
    supervisor = fleet.start(stabilisation=2)
    fleet.wait_for_workers(1)

    ids = fleet.tasks.send(150, 0.2)
    fleet.wait_for_workers(3)
    outcome = fleet.tasks.settle(ids)
    fleet.wait_for_workers(1)

    assert outcome.exactly_once, outcome
    assert len(fleet.by_host()) == 1
    reasons = [entry["reason"] for entry in fleet.decisions()]
    assert any("tasks waiting" in reason and "Limited by max_workers = 3" in reason for reason in reasons), (
        reasons
    )
    assert any("been enough for" in reason for reason in reasons), reasons
    assert supervisor.stop() == 0
    assert fleet.living() == []
    assert "Supervisor stopped" in supervisor.output()


def test_a_supervisor_that_ticks_seldom_has_its_workers(fleet: SupervisedFleet) -> None:
    fleet.start(group={"min_workers": 2}, tick=6.0)

    fleet.wait_for_workers(2, within=90.0)


@pytest.mark.parametrize("min_workers", [0, 1])
def test_a_burst_is_decided_before_the_next_tick(fleet: SupervisedFleet, min_workers: int) -> None:
    tick = 4.0
    fleet.start(group={"concurrency": 1, "min_workers": min_workers}, tick=tick)
    if min_workers:
        fleet.wait_for_workers(1, within=60.0)

    def ticked(after: float) -> float:
        return wait_for(
            lambda: now if (now := float(fleet.status("here")["at"])) > after else None, "it does not tick"
        )

    # From the third tick on it acts; the next one has just been.
    at = 0.0
    for _ in range(4):
        at = ticked(at)

    ids = fleet.tasks.send(30, 0.2)

    def decided() -> float | None:
        times = [float(one["at"]) for one in fleet.decisions() if int(one["here"]) > 0]
        return next((time for time in times if time > at), None)

    assert wait_for(decided, "no worker is started") - at < tick / 2
    assert fleet.status("here")["at"] == at

    assert fleet.tasks.settle(ids, patience=60.0).exactly_once


def test_the_run_time_of_short_tasks_is_exact(fleet: SupervisedFleet) -> None:
    fleet.start(group={"max_workers": 1})
    [worker] = fleet.wait_for_workers(1)

    assert fleet.tasks.settle(fleet.tasks.send(60, 0.05)).exactly_once
    found: Any = fleet.tasks.redis.zrange("fleet:workers", 0, -1)
    [worker_id] = [name for name in found if name.startswith(f"{worker}:")]

    def mean() -> float | None:
        told: Any = fleet.tasks.redis.hget(f"fleet:worker:{worker_id}", "run_times")
        [(tasks, seconds, _)] = json.loads(told).values() or [(0, 0.0, 0.0)]
        return float(seconds) / tasks if tasks == 60 else None

    exact = wait_for(mean, "the worker does not tell the run time of all tasks")
    # A task sleeps for that long; looking once a second would find less as often as more.
    assert exact >= 0.05
    wait_for(
        lambda: fleet.status("here")["groups"][GROUP]["service_time"] == pytest.approx(exact, rel=0.02),
        "the supervisor goes by another run time",
    )


def test_a_task_behind_long_ones_on_the_only_worker_gets_another(fleet: SupervisedFleet) -> None:
    fleet.start(group={"max_workers": 2, "concurrency": 1, "target_wait": 5.0})
    fleet.wait_for_workers(1)
    # Quick tasks are all that is known of before.
    assert fleet.tasks.settle(fleet.tasks.send(5, 0.01)).exactly_once

    [long] = fleet.tasks.send(1, 25.0)
    wait_for(lambda: fleet.status("here")["groups"][GROUP]["busy"], "the long task does not run")
    [quick] = fleet.tasks.send(1, 0.01)

    wait_for(lambda: quick in fleet.tasks.ended(), "the quick task does not run")
    assert long not in fleet.tasks.ended()
    assert fleet.tasks.settle([long, quick], patience=60.0).exactly_once


def test_an_emergency_is_told_also_where_no_worker_may_join(fleet: SupervisedFleet) -> None:
    supervisor = fleet.start(group={"max_workers": 1}, queue_threshold=5)
    fleet.wait_for_workers(1)

    ids = fleet.tasks.send(30, 0.2)
    supervisor.wait_for_output(r"EMERGENCY: \d+ messages in queue celery are more than twice the threshold")
    wait_for(lambda: any(int(entry["emergency"]) for entry in fleet.decisions()), "it is not recorded")

    assert fleet.tasks.settle(ids).exactly_once


def test_workers_are_stopped_under_load_without_a_task_lost_or_repeated(fleet: SupervisedFleet) -> None:
    supervisor = fleet.start(group={"max_workers": 7, "target_wait": 1.0}, tick=0.5)
    broker = connect(fleet.tasks.app)

    with Load(fleet.tasks, 40.0, 0.05, total=2000) as load:
        for _ in range(5):
            change(broker, GROUP, Sender("test"), min_workers=7, max_workers=7)
            fleet.wait_for_workers(7, within=60.0)
            change(broker, GROUP, Sender("test"), min_workers=1, max_workers=1)
            fleet.wait_for_workers(1, within=60.0)
    outcome = fleet.tasks.settle(load.ids)

    wait_for(lambda: supervisor.output().count(" stopped in ") == 30, "not 30 workers have ended")
    assert outcome.sent == 2000
    assert outcome.exactly_once, outcome
    assert "SIGQUIT" not in supervisor.output()


def test_a_worker_that_is_killed_gets_its_tasks_back_at_once_and_is_replaced(fleet: SupervisedFleet) -> None:
    supervisor = fleet.start(group={"min_workers": 2, "max_workers": 2})
    victim = fleet.wait_for_workers(2)[0]
    ids = fleet.tasks.send(4, 3.0)
    fleet.tasks.wait_until_started(ids)

    fleet_before = fleet.tasks.left()
    pid = fleet.pid_of(victim)
    fleet_held = fleet.tasks.held(victim.partition("@")[0])
    assert len(fleet_held) == 2, fleet_before
    kill_group(pid)
    # Nobody waits for its lease to run out.
    supervisor.wait_for_output(f"Recovered 2 messages of the dead worker {victim}:.*: its processes are gone")

    outcome = fleet.tasks.settle(ids)
    assert outcome.lost == []
    assert sorted(outcome.started_again) == sorted(fleet_held)
    assert fleet.wait_for_workers(2)


def test_a_supervisor_that_is_killed_leaves_no_orphan_and_loses_no_task(fleet: SupervisedFleet) -> None:
    supervisor = fleet.start()
    ids = fleet.tasks.send(150, 0.2)
    fleet.wait_for_workers(3)

    supervisor.kill_alone()
    wait_for(lambda: not supervisor.descendants(), "its workers go on", 30.0)
    done = len(fleet.tasks.ended())
    fleet.start()
    outcome = fleet.tasks.settle(ids)

    assert 0 < done < len(ids)
    assert outcome.exactly_once, outcome


def test_a_broker_that_crashes_is_waited_for_without_a_start_or_a_stop(
    new_fleet: NewSupervisedFleet, redis_server_factory: RedisServerFactory
) -> None:
    server = redis_server_factory("--appendonly", "yes", "--appendfsync", "always")
    fleet = new_fleet(broker_url=server.url)
    supervisor = fleet.start()
    ids = fleet.tasks.send(150, 0.2)
    names = fleet.wait_for_workers(3)
    pids = {fleet.pid_of(name) for name in names}

    server.crash()
    supervisor.wait_for_output("Blind, starts and stops nothing")
    server.restart()
    supervisor.wait_for_output("Redis answers again")
    fleet.wait_for_workers(3)
    outcome = fleet.tasks.settle(ids)

    assert outcome.lost == []
    assert outcome.ended_again == []
    assert {fleet.pid_of(name) for name in names} == pids
    assert supervisor.output().count(" starts\n") == 3


def test_three_supervisors_share_the_work_and_keep_the_bounds_when_one_dies_and_one_freezes(
    fleet: SupervisedFleet,
) -> None:
    a, b, c = (fleet.start(host, group={"max_workers": 4, "concurrency": 1}) for host in ("a", "b", "c"))
    sampler = Sampler(fleet)
    with Load(fleet.tasks, 30.0, 0.1) as load:
        fleet.wait_for_workers(4)
        sampler.watch(1.0)
        c.descendants()
        c.kill()
        b.signal(signal.SIGSTOP)
        sampler.watch(2 * LEASE)
        b.signal(signal.SIGCONT)
        sampler.watch(3.0)
        fleet.wait_for_workers(4)
    outcome = fleet.tasks.settle(load.ids)

    assert outcome.lost == []
    assert outcome.ended_again == []
    assert sampler.most <= 4
    assert set(fleet.by_host()) == {"a", "b", "c"}
    assert a.process.poll() is None


def test_an_idle_group_goes_to_zero_and_wakes_on_the_first_message(fleet: SupervisedFleet) -> None:
    supervisor = fleet.start(group={"min_workers": 0}, stabilisation=2)
    supervisor.wait_for_output("Supervising")
    assert fleet.tasks.settle(fleet.tasks.send(1)).exactly_once
    fleet.wait_for_workers(0)
    starts = supervisor.output().count(" starts\n")

    later = fleet.tasks.send(2, countdown=12)
    wait_for(lambda: len(fleet.tasks.started()) == 3, "the tasks for later do not run", 30.0)
    outcome = fleet.tasks.settle(["task-000000", *later])

    assert outcome.exactly_once, outcome
    # One start for their time, not one a tick while they wait.
    assert supervisor.output().count(" starts\n") == starts + 1


def test_a_worker_that_an_operator_drains_ends_and_is_replaced(fleet: SupervisedFleet) -> None:
    supervisor = fleet.start(group={"max_workers": 1})
    [worker] = fleet.wait_for_workers(1)
    pid = fleet.pid_of(worker)

    fleet.tasks.redis.sadd("fleet:drain", worker)
    supervisor.wait_for_output("drained by an operator")
    supervisor.wait_for_output(" stopped in ")
    [replacement] = fleet.wait_for_workers(1)

    assert fleet.pid_of(replacement) != pid
    assert fleet.tasks.settle(fleet.tasks.send(3)).exactly_once


def test_a_task_longer_than_the_time_to_drain_is_given_back(fleet: SupervisedFleet) -> None:
    supervisor = fleet.start(group={"max_workers": 1, "concurrency": 1, "drain_timeout": 2.0})
    [worker] = fleet.wait_for_workers(1)
    ids = fleet.tasks.send(1, 12.0)
    fleet.tasks.wait_until_started(ids)

    fleet.tasks.redis.sadd("fleet:drain", worker)
    supervisor.wait_for_output("SIGQUIT: give back what runs")
    wait_for(lambda: fleet.tasks.started()[ids[0]] == 2, "the task does not begin again")
    outcome = fleet.tasks.settle(ids)

    assert outcome.lost == outcome.ended_again == []
    assert "SIGKILL" not in supervisor.output()


def test_a_worker_that_lives_but_takes_nothing_is_replaced(new_fleet: NewSupervisedFleet) -> None:
    fleet = new_fleet()
    supervisor = fleet.start(group={"max_workers": 1})
    ids = fleet.tasks.send(1, name="deafen")
    wait_for(lambda: fleet.tasks.counts.get("deaf") is not None, "no worker has become deaf")
    ids += fleet.tasks.send(5)

    # Its event loop stands still: it ends, and another one runs what it held.
    supervisor.wait_for_output("default-1 died; last output", 90.0)
    outcome = fleet.tasks.settle(ids[1:], patience=60.0)

    assert outcome.lost == []


def test_a_paused_fleet_is_left_alone_and_still_rescued(fleet: SupervisedFleet) -> None:
    fleet.start()
    [worker] = fleet.wait_for_workers(1)
    change(connect(fleet.tasks.app), GROUP, Sender("test"), paused=True)
    ids = fleet.tasks.send(30, 0.2)
    fleet.tasks.wait_until_started(ids[:4])

    kill_group(fleet.pid_of(worker))
    wait_for(lambda: fleet.tasks.left().keys() == {"celery"}, "its tasks are not given back")
    assert fleet.living() == []
    change(connect(fleet.tasks.app), GROUP, Sender("test"), paused=None)
    outcome = fleet.tasks.settle(ids)

    assert outcome.lost == []


def test_settings_are_read_again_and_running_workers_kept(fleet: SupervisedFleet) -> None:
    supervisor = fleet.start()
    [worker] = fleet.wait_for_workers(1)
    pid = fleet.pid_of(worker)
    config = supervisor.config.read_text()

    supervisor.config.write_text(config.replace("min_workers = 1", "min_workers = 2"))
    supervisor.signal(signal.SIGHUP)
    fleet.wait_for_workers(2)
    supervisor.config.write_text(config.replace("min_workers = 1", "min_workers = many"))
    supervisor.signal(signal.SIGHUP)
    supervisor.wait_for_output("Settings not reloaded")

    assert fleet.pid_of(worker) == pid
    assert len(fleet.wait_for_workers(2)) == 2


def test_an_idle_worker_is_stopped_before_a_busy_one(fleet: SupervisedFleet) -> None:
    supervisor = fleet.start(group={"concurrency": 1, "max_workers": 3})
    change(connect(fleet.tasks.app), GROUP, Sender("test"), min_workers=3)
    fleet.wait_for_workers(3)
    long = fleet.tasks.send(2, 8.0)
    fleet.tasks.wait_until_started(long)
    wait_for(lambda: fleet.status("here")["groups"][GROUP]["busy"] == 2, "they are not seen to run")
    busy = {str(fleet.tasks.counts.hget("by", name)).partition("@")[0] for name in long}

    change(connect(fleet.tasks.app), GROUP, Sender("test"), min_workers=1, max_workers=2)
    [first] = supervisor.wait_for_output(r"(default-\d) drains\n").groups()
    outcome = fleet.tasks.settle(long)

    assert first not in busy
    assert outcome.exactly_once, outcome


def test_the_manager_starts_and_stops_workers_by_hand(
    fleet: SupervisedFleet, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_app(tmp_path)
    variables = fleet.environment | {"BROKER": fleet.broker_url, "PYTHONPATH": str(tmp_path)}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    config = tmp_path / "manager.toml"
    config.write_text(fleet.config("here", group={"min_workers": 0}))
    change(connect(fleet.tasks.app), GROUP, Sender("test"), paused=True)
    manager = Supervisor(
        describe(fleet.tasks.app, "single"), load(describe(fleet.tasks.app, "proj"), str(config))
    )
    manager.start_monitoring()
    try:
        wait_for(lambda: manager.status.state == "paused", "it does not tick")
        assert manager.start_worker(GROUP) == "default-1"
        assert manager.start_worker(GROUP) == "default-2"
        fleet.wait_for_workers(2)
        wait_for(lambda: manager.get_worker_stats()["active"] == 2, "they are not seen")
        assert manager.get_worker_stats()["queues"] == {"celery": 0}
        manager.stop_worker("default-1")
        assert fleet.wait_for_workers(1) == ["default-2@here"]
        manager.stop_all_workers()
        assert manager.get_worker_stats()["total"] == 0
        assert fleet.living() == []
    finally:
        manager.stop_monitoring()


def kill_group(pid: int) -> None:
    """Kill a worker with all its processes."""
    os.killpg(pid, signal.SIGKILL)
