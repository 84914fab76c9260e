"""What goes wrong in one part of a tick spoils that part alone, and is named once."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from celery_autoscaler.protocol.description import describe
from celery_autoscaler.protocol.overrides import Override
from celery_autoscaler.settings import Group, Settings
from celery_autoscaler.supervisor.faults import Faults
from celery_autoscaler.supervisor.launchers import LaunchError, State, StopSignal
from celery_autoscaler.supervisor.local import LocalWorker
from celery_autoscaler.supervisor.loop import Supervisor
from celery_autoscaler.supervisor.observation import Observer
from celery_autoscaler.supervisor.policy.law import GroupSeen
from celery_autoscaler.supervisor.policy.limits import SETTLE_SECONDS, HostSeen
from celery_autoscaler.supervisor.settings_check import check_supervisors
from celery_autoscaler.supervisor.tick import Tick
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError

GROUPS = {
    "old": Group(name="old", queues=("old",), min_workers=0),
    "web": Group(name="web", queues=("web",), min_workers=1, max_workers=2),
}


class Refusing:
    """A launcher whose service manager refuses some units, as systemd does for lack of a permission."""

    outlived = True
    gives_settings = False

    def __init__(self, states: dict[str, State], refused: str) -> None:
        self.states = states
        self.refused = refused
        self.calls: list[tuple[str, str]] = []

    def _call(self, what: str, worker: str) -> None:
        self.calls.append((what, worker))
        if worker.startswith(self.refused):
            raise LaunchError(f"systemd refuses {what} {worker}: Interactive authentication required.")

    def start(self, group: Group, worker: str) -> None:  # noqa: ARG002
        """Start a worker."""
        self._call("StartUnit", worker)
        self.states[worker] = State.RUNNING

    def workers(self) -> dict[str, State]:
        """Return all workers."""
        return dict(self.states)

    def send_signal(self, worker: str, how: StopSignal) -> None:  # noqa: ARG002
        """Stop a worker."""
        self._call("StopUnit", worker)
        self.states.pop(worker)

    def forget_failed(self, worker: str) -> None:
        """Clear a worker that has failed."""
        self._call("ResetFailedUnit", worker)
        self.states.pop(worker)

    def last_words(self, worker: str) -> list[str]:
        """Return what a worker printed."""
        return [f"no words of {worker}"]

    def where_to_look(self, worker: str) -> str:
        """Return where it stands."""
        return f"journal of {worker}"

    def close(self) -> None:
        """Hold nothing."""


@pytest.fixture
def supervisor(redis_url: str) -> Iterator[Supervisor]:
    """Return a supervisor on a real Redis, which starts no process."""
    with Celery("proj", broker=redis_url, set_as_current=False) as app:
        settings = Settings(
            groups={"web": GROUPS["web"]}, hostname="here", launcher="systemd", cpu_threshold=100.0,
            memory_threshold=100.0, tick=0.1,
        )  # fmt: skip
        yield Supervisor(describe(app, "proj"), settings)


def ticks(supervisor: Supervisor, number: int) -> None:
    """Let a supervisor look several times, its first looks among them."""
    for _ in range(number):
        time.sleep(supervisor.settings.tick)
        supervisor.tick()


def test_units_that_cannot_be_stopped_or_cleared_stop_nothing_else(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    states = {"old-1": State.RUNNING, "old-2": State.FAILED, "gone-1": State.RUNNING}
    launcher = supervisor.context.launcher = Refusing(states, refused="old-")

    ticks(supervisor, 6)

    # The group that has settings gets its worker; what is of no group any more ends as far as it may.
    assert ("StartUnit", "web-1") in launcher.calls
    assert set(states) == {"old-1", "old-2", "web-1"}
    assert supervisor.status.state == "supervising"
    assert supervisor.broker.client.smembers("fleet:drain") >= {b"old-1@here"}
    faults = supervisor.status.faults
    assert set(faults) == {"stopping old-1", "clearing old-2"}
    assert "systemd refuses StopUnit old-1: Interactive authentication required." in faults["stopping old-1"]
    named = [record for record in caplog.records if "Interactive authentication" in record.message]
    assert len(named) == 2
    assert not any(record.exc_info for record in named)
    # One that was refused is tried again now and then.
    assert launcher.calls.count(("StopUnit", "old-1")) == 1
    for worker in supervisor.local.values():
        worker.retry_at = 0.0
    launcher.refused = "none"
    ticks(supervisor, 2)
    assert set(states) == {"web-1"}
    assert supervisor.status.faults == {}


def test_a_unit_that_cannot_be_started_is_its_groups_matter_alone(supervisor: Supervisor) -> None:
    groups = GROUPS | {"old": Group(name="old", queues=("old",), min_workers=1)}
    supervisor.reload(
        supervisor.app, Settings(groups=groups, hostname="here", cpu_threshold=100.0, memory_threshold=100.0)
    )
    assert supervisor._reload is not None
    supervisor._apply(*supervisor._reload)
    launcher = supervisor.context.launcher = Refusing({}, refused="old-")

    ticks(supervisor, 5)

    status = supervisor.status.groups
    assert "web-1" in launcher.states
    assert "systemd refuses StartUnit old-1" in status["old"].last_failure
    assert status["old"].limit in {"failure", "back-off"}
    assert status["web"].limit not in {"failure", "back-off"}


def test_a_group_without_any_worker_is_told_once_a_start_would_have_ended(supervisor: Supervisor) -> None:
    supervisor.context.launcher = Refusing({}, refused="web-")
    ticks(supervisor, 4)
    state = supervisor.groups["web"]

    assert state.unserved(state.seen.now) > 0.0
    assert not supervisor.status.groups["web"].not_served
    assert state.is_not_served(state.seen.now + 60.0, start_timeout=300.0)
    state.seen = GroupSeen(now=state.seen.now, starting=1)
    assert not state.is_not_served(state.seen.now + 60.0, start_timeout=300.0)
    assert state.is_not_served(state.seen.now + 300.0, start_timeout=300.0)
    state.seen = GroupSeen(now=state.seen.now, ready=1)
    state.serve(1)
    assert state.unserved(state.seen.now + 300.0) == 0.0


@pytest.mark.parametrize(("start_timeout", "is_ended"), [(300.0, False), (200.0, True)])
def test_a_worker_may_take_as_long_to_start_as_the_settings_say(
    supervisor: Supervisor, start_timeout: float, is_ended: bool
) -> None:
    settings = Settings(groups=GROUPS, hostname="here", start_timeout=start_timeout, cpu_threshold=100.0)
    supervisor._apply(supervisor.app, settings)
    supervisor.context.launcher = Refusing({}, refused="none")
    ticks(supervisor, 4)
    supervisor.local["web-1"].since -= 250.0

    ticks(supervisor, 1)

    said = supervisor.status.groups["web"].last_failure
    assert ("web-1: it did not consume within 200 s of its start (start_timeout)" in said) is is_ended, said
    assert (supervisor.local["web-1"].stop_since is not None) is is_ended


def test_a_mistake_in_the_decision_of_one_group_stops_no_other(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor.context.launcher = Refusing({}, refused="none")
    supervisor.reload(
        supervisor.app, Settings(groups=GROUPS, hostname="here", cpu_threshold=100.0, memory_threshold=100.0)
    )
    assert supervisor._reload is not None
    supervisor._apply(*supervisor._reload)
    supervisor.groups["old"].law.decide = lambda *_: 1 // 0  # type: ignore[method-assign, assignment]

    ticks(supervisor, 5)

    assert ("StartUnit", "web-1") in supervisor.context.launcher.calls
    assert supervisor.status.faults == {
        "group old, decision": "ZeroDivisionError: integer division or modulo by zero"
    }
    [record] = [record for record in caplog.records if "ZeroDivisionError" in record.message]
    assert (record.levelname, record.exc_info is not None) == ("ERROR", True)


def test_a_mistake_outside_of_any_part_holds_everything_until_it_is_over(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor.context.launcher = Refusing({}, refused="none")
    with monkeypatch.context() as patch:
        patch.setattr(Observer, "look", lambda _: list[int]().pop())
        ticks(supervisor, 3)
        assert supervisor.status.state == "blind"
        assert "internal error, IndexError" in supervisor.status.why
    assert len([record for record in caplog.records if record.exc_info]) == 1

    ticks(supervisor, 1)
    assert supervisor.status.state == "supervising"


@pytest.mark.parametrize(
    "error", [NoConnection("away"), OutOfMemoryError("full"), ResponseError("READONLY x")]
)
def test_the_state_of_the_server_concerns_every_part(error: RedisError) -> None:
    faults = Faults()

    with pytest.raises(type(error)), faults.contained("a part"):
        raise error
    assert faults.status() == {}


@pytest.mark.parametrize(
    "error", [ResponseError("WRONGTYPE x"), ResponseError("NOPERM x"), ValueError("x"), RecursionError()]
)
def test_other_errors_are_shown_until_the_part_is_done_again(error: Exception) -> None:
    faults = Faults()

    for _ in range(3):
        with faults.contained("a part"):
            raise error
    assert faults.count == 1
    assert list(faults.status()) == ["a part"]
    with faults.contained("a part"):
        pass
    assert faults.status() == {}


def test_memory_that_is_short_takes_no_worker_of_an_operators_minimum(supervisor: Supervisor) -> None:
    context, now = supervisor.context, time.monotonic()
    context.launcher = Refusing({}, refused="none")
    supervisor.tick()
    seen = supervisor.seen
    assert seen is not None
    for number in (1, 2):
        name = f"web-{number}"
        context.local[name] = LocalWorker(name, "web", now, ready_at=now)
    supervisor.groups["web"].seen = GroupSeen(now=now, ready=2)
    context.host_limits.memory_threshold = 50.0

    def relieve() -> int:
        for second in (0.0, SETTLE_SECONDS + 1):
            supervisor.scaling.relieve(Tick(now + second, seen, HostSeen(memory=99.0), {}, now))
        return sum(worker.state == "draining" for worker in context.local.values())

    context.overrides = {"web": Override(min_workers=2)}
    assert relieve() == 0
    context.overrides = {}
    assert not context.broker.client.exists("fleet:decisions")
    context.host_limits._last, context.host_limits._short_since = -math.inf, None
    assert relieve() == 1
    [(_, record)] = context.broker.client.xrange("fleet:decisions")
    assert (record[b"here"], record[b"limit"]) == (b"-1", b"memory")


def test_a_clock_that_is_off_is_told_once(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor.context.launcher = Refusing({}, refused="none")
    ticks(supervisor, 1)
    assert abs(supervisor.status.clock_offset) < 1.0
    real = time.time
    monkeypatch.setattr("celery_autoscaler.supervisor.observation.time.time", lambda: real() - 120.0)
    supervisor._lookout.forget_groups()

    ticks(supervisor, 3)

    assert supervisor.status.clock_offset == pytest.approx(120.0, abs=1.0)
    told = [record.message for record in caplog.records if "clock" in record.message]
    assert told == [
        "The clock of here is 120.0 s behind that of Redis: tasks with an ETA start at the wrong time"
    ]
    findings: list[Any] = list(check_supervisors(supervisor.broker))
    assert str(findings[0]).startswith("warning: here: its clock is 120 s behind that of Redis")
