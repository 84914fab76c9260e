"""Workers are replaced, hosts left and releases evaluated under load, each task counted by its id."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from celery_autoscaler.operations import release_gate
from celery_autoscaler.operations.overrides import Sender, change
from celery_autoscaler.operations.rollout import RolloutError, replace_workers, start_timeout
from celery_autoscaler.protocol.broker import Broker, connect
from celery_autoscaler.protocol.status import SupervisorStatus
from celery_autoscaler.supervisor.fleet_status import FleetStatus
from support.background import sampling
from support.processes.counted_tasks import Load
from support.processes.services import wait_for
from support.processes.supervisors import GROUP, SupervisedFleet


@pytest.fixture
def fleet(redis_url: str, tmp_path: Path) -> Iterator[SupervisedFleet]:
    """Return a fleet on the session's Redis."""
    with SupervisedFleet(tmp_path, redis_url, redis_url.replace("/0", "/1")) as made:
        yield made
        print(made.tails())  # noqa: T201  pytest shows it with a failure only


@pytest.fixture
def broker(fleet: SupervisedFleet) -> Broker:
    """Return the fleet's broker."""
    return connect(fleet.tasks.app)


@contextmanager
def counted(fleet: SupervisedFleet) -> Iterator[list[int]]:
    """Note how many workers take messages and how many live, until the block ends."""
    found: list[int] = []
    with sampling(lambda: found.append(len(fleet.consuming())), 0.05):
        yield found


@pytest.mark.parametrize("max_workers", [2, 4])
def test_workers_are_replaced_without_a_gap_and_without_a_task_lost_or_repeated(
    fleet: SupervisedFleet, broker: Broker, max_workers: int
) -> None:
    fleet.start(group={"min_workers": 2, "max_workers": max_workers})
    names = fleet.wait_for_workers(2)
    old = {fleet.pid_of(name) for name in names}
    said: list[str] = []

    with Load(fleet.tasks, 20.0, 0.1) as load, counted(fleet) as numbers:
        replace_workers(broker, names, said.append)
    outcome = fleet.tasks.settle(load.ids)

    assert outcome.exactly_once, outcome
    assert min(numbers) >= 2
    assert max(numbers) <= max_workers + 1
    assert not old & {fleet.pid_of(name) for name in fleet.living()}
    assert said[-1] == "2 of 2 workers replaced"
    assert not broker.client.exists(broker.keys.replace)


def test_workers_whose_successors_do_not_start_go_on(fleet: SupervisedFleet, broker: Broker) -> None:
    fleet.start(group={"min_workers": 2, "max_workers": 2})
    names = fleet.wait_for_workers(2)
    old = [fleet.pid_of(name) for name in names]
    app = fleet.folder / "single.py"
    app.write_text("raise SystemExit('no such setting: COLOUR')\n" + app.read_text())

    with pytest.raises(
        RolloutError, match=r"^here: 3 starts .* default failed: default-3 died; see the supervisor's log"
    ):
        replace_workers(broker, names, lambda _: None)

    assert [fleet.pid_of(name) for name in fleet.consuming()] == old
    assert not broker.client.exists(broker.keys.replace)


def test_what_nobody_would_replace_is_refused(fleet: SupervisedFleet, broker: Broker) -> None:
    supervisor = fleet.start()
    [name] = fleet.wait_for_workers(1)

    change(broker, GROUP, Sender("me"), paused=True)
    with pytest.raises(RolloutError, match="default is paused"):
        replace_workers(broker, [name], lambda _: None)
    change(broker, GROUP, Sender("me"), paused=None)
    supervisor.kill_alone()
    broker.client.delete(broker.keys.supervisors)
    with pytest.raises(RolloutError, match="here: no supervisor is alive") as refusal:
        replace_workers(broker, [name], lambda _: None)
    assert refusal.value.unsupervised


def test_a_start_may_take_as_long_as_on_the_slowest_host() -> None:
    hosts = {"a": SupervisorStatus(start_timeout=300.0), "b": SupervisorStatus(start_timeout=900.0)}

    assert start_timeout(FleetStatus(supervisors=hosts)) == 900.0


def test_a_host_is_left_by_its_workers_once_others_have_taken_over(
    fleet: SupervisedFleet, broker: Broker
) -> None:
    for host in ("left", "right"):
        fleet.start(host, group={"min_workers": 2, "max_workers": 4}, stabilisation=1)
    fleet.wait_for_workers(2)
    wait_for(lambda: any("@left" in name for name in fleet.consuming()), "no worker on the host", 20.0)

    with Load(fleet.tasks, 20.0, 0.1) as load, counted(fleet) as numbers:
        broker.client.hset(broker.keys.leaving, "left", "me")
        wait_for(lambda: not fleet.status("left")["workers"], "the host is not left", 30.0)
        left = fleet.consuming()
        broker.client.hdel(broker.keys.leaving, "left")
        wait_for(lambda: bool(fleet.status("left")["workers"]), "nothing comes back", 60.0)
    outcome = fleet.tasks.settle(load.ids)

    assert outcome.exactly_once, outcome
    assert min(numbers) >= 2
    assert {name.partition("@")[2] for name in left} == {"right"}


def test_a_host_that_nobody_can_relieve_is_left_all_the_same(fleet: SupervisedFleet, broker: Broker) -> None:
    fleet.start("alone", group={"min_workers": 2, "max_workers": 2})
    fleet.wait_for_workers(2)

    broker.client.hset(broker.keys.leaving, "alone", "me")

    fleet.wait_for_workers(0)
    assert fleet.status("alone")["state"] == "leaving"


def test_a_release_whose_tasks_fail_more_often_is_refused(fleet: SupervisedFleet, broker: Broker) -> None:
    fleet.environment["CELERY_APP_RELEASE"] = "new"
    fleet.start()
    fleet.wait_for_workers(1)
    good = release_gate.evaluate_release(
        broker, "new", "here", before=release_gate.Tally(), tolerance=0.05, seconds=0
    )

    for _ in range(release_gate.FEW_FAILURES):
        fleet.tasks.app.send_task("single.add", args=["not", 1])
    bad = release_gate.evaluate_release(
        broker, "new", "here", before=release_gate.Tally(100, 2), tolerance=0.05, seconds=30
    )
    usual = release_gate.evaluate_release(
        broker, "new", "here", before=release_gate.Tally(10, 10), tolerance=0.05, seconds=0
    )

    assert good.passed
    assert not bad.passed
    assert bad.reason.startswith("5 of 5 tasks failed in release new, 2 of 100 tasks failed before it; ")
    assert usual.passed


def test_a_host_that_runs_another_release_is_named(
    fleet: SupervisedFleet, broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(release_gate, "SHOWN_WITHIN_SECONDS", 1.0)
    fleet.environment["CELERY_APP_RELEASE"] = "old"
    fleet.start()
    [name] = fleet.wait_for_workers(1)

    verdict = release_gate.evaluate_release(
        broker, "new", "here", before=release_gate.Tally(), tolerance=0.05, seconds=0
    )

    assert not verdict.passed
    assert verdict.reason == f"{name} on here do not run release new"
