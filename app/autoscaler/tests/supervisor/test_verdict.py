"""What is said of a fleet first, and what is said besides; whatever stands in Redis, something is said."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from celery import Celery
from celery_autoscaler.operations.terminal import new_console, status_view
from celery_autoscaler.protocol.broker import Broker, connect
from celery_autoscaler.protocol.decision import DecisionRecord
from celery_autoscaler.protocol.status import SupervisorStatus
from celery_autoscaler.protocol.tallies import Tallies
from celery_autoscaler.supervisor import fleet_status
from celery_autoscaler.supervisor.fleet_status import FleetStatus, decisions
from celery_autoscaler.supervisor.host_counts import HostCounts
from celery_autoscaler.supervisor.verdict import limit_words
from hypothesis import given, settings
from hypothesis import strategies as st

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
FIELDS = st.sampled_from(
    [
        "host",
        "at",
        "state",
        "why",
        "tick",
        "peers",
        "cpus",
        "cpu",
        "memory",
        "capacity",
        "groups",
        "workers",
        "failures",
        "ended",
        "unreadable",
        "problems",
    ]
)
GROUP = st.sampled_from(
    [
        "target_wait",
        "min_workers",
        "max_workers",
        "concurrency",
        "ready",
        "busy",
        "held",
        "age",
        "reason",
        "queues",
        "waiting",
        "limit",
        "held_back",
        "service_time",
    ]
)

FAILS = "14 of 100 executions of t failed in the last hour (14 %); fleet failures --task t shows why"
FAILS_ALL = "9 executions of t failed in the last hour; fleet failures --task t shows why"
FAILS_MUCH = (
    "2000 of 1000000 executions of t failed in the last hour (0 %); fleet failures --task t shows why"
)


def status(group: dict[str, Any] | None = None, **host: Any) -> FleetStatus:
    """Return a fleet of one host and one group, which is well but for what is given."""
    well = {
        "min_workers": 1,
        "max_workers": 4,
        "want": 1,
        "ready": 1,
        "target_wait": 10.0,
        "reason": "nothing waits",
    }
    said = {"state": "supervising", "groups": {"web": well | (group or {})}} | host
    found, refused = SupervisorStatus.load("here", json.dumps(said))
    assert refused == []
    assert found is not None
    return FleetStatus({"here": found})


def text(shown: FleetStatus) -> str:
    """Return what the terminal shows first."""
    console = new_console()
    with console.capture() as captured:
        console.print(status_view(shown))
    return captured.get()


@pytest.mark.parametrize(
    ("group", "host", "word", "why"),
    [
        ({}, {}, "keeping up", "no tasks waiting"),
        ({"ready": 0, "starting": 1}, {}, "keeping up", "no tasks waiting"),
        ({"ready": 0, "limit": "paused"}, {}, "paused", "web: nothing waits"),
        ({"ready": 0}, {"state": "leaving"}, "no workers", "web: none of at least 1; drained: here"),
        (
            {"ready": 0, "min_workers": 0, "waiting": 3}, {"state": "leaving"},
            "no workers", "web: none of at least 0, 3 tasks waiting; drained: here",
        ),
        ({"ready": 0, "min_workers": 0}, {}, "keeping up", "no tasks waiting"),
        (
            {"ready": 0, "starting": 1, "failed_starts": 4, "last_failure": "web-1 died"}, {},
            "no workers", "web: none of at least 1; 4 starts failed: web-1 died",
        ),
        (
            {"age": 30.0, "waiting": 2, "overdue": 2}, {}, "falling behind",
            "the oldest task of web has waited 30 s, target wait 10 s; nothing waits; "
            "2 tasks whose ETA has come wait in workers",
        ),
        ({}, {"failures": {"t": 14}, "ended": {"t": 100}}, "failing", FAILS),
        ({}, {"failures": {"t": 14}, "ended": {"t": 1000}}, "keeping up", "no tasks waiting"),
        ({}, {"failures": {"t": 4}, "ended": {"t": 4}}, "keeping up", "no tasks waiting"),
        ({}, {"failures": {"t": 2000}, "ended": {"t": 10**6}}, "failing", FAILS_MUCH),
        ({}, {"failures": {"t": 9}}, "failing", FAILS_ALL),
        ({"queues": {"q": {"dead_letters": 4}}}, {}, "dead letters", "4 messages were put aside: queue q"),
        (
            {}, {"unreadable": {"worker": {"count": 1, "names": ["w@x:1: pid is no number"]}}},
            "unreadable", "unreadable in Redis: worker w@x:1: pid is no number",
        ),
    ],
)  # fmt: skip
def test_the_worst_is_said_first(group: dict[str, Any], host: dict[str, Any], word: str, why: str) -> None:
    shown = status(group, **host)

    assert shown.verdict == (word, why)
    assert text(shown).startswith(word.upper())


def test_each_pause_is_said_with_its_own_reason() -> None:
    groups = {
        name: {"limit": "paused", "reason": f"paused by {by}"}
        for name, by in (("mail", "anna"), ("video", "bob"), ("web", "anna"))
    }

    shown = status(None, groups=groups)

    assert [(finding.word, finding.why) for finding in shown.findings] == [
        ("paused", "mail, web: paused by anna"), ("paused", "video: paused by bob"),
    ]  # fmt: skip


def test_the_rest_is_said_besides() -> None:
    shown = status(
        {"age": 30.0, "ready": 0, "queues": {"q": {"dead_letters": 1}}}, failures={"t": 9}, state="leaving"
    )

    assert [finding.word for finding in shown.findings] == [
        "no workers", "falling behind", "failing", "dead letters", "leaving",
    ]  # fmt: skip
    assert [each["word"] for each in shown.as_dict()["also"]] == [
        "falling behind", "failing", "dead letters", "leaving",
    ]  # fmt: skip


BURST: dict[str, Any] = {"want": 4, "waiting": 400, "busy": 1, "service_time": 0.5, "age": 0.4}
LONG_WAIT = "tasks of web are expected to wait 200 s, target wait 10 s; nothing waits"


@pytest.mark.parametrize(
    ("limit", "word", "why"),
    [
        ({"limit": "CPU", "held_back": "CPU usage is 99 %"}, "falling behind",
         f"{LONG_WAIT}; held back: CPU usage is 99 %"),
        ({"limit": "memory", "held_back": "memory usage is 99 %"}, "falling behind",
         f"{LONG_WAIT}; held back: memory usage is 99 %"),
        ({"limit": "max_workers", "max_workers": 1, "want": 1}, "falling behind", LONG_WAIT),
        # Nothing but the maximum keeps a worker from being replaced, and the limit says something else.
        ({"limit": "CPU", "max_workers": 1, "want": 1}, "falling behind", LONG_WAIT),
        ({"limit": "throughput", "want": 1}, "falling behind", LONG_WAIT),
        # What runs them begins, or has time for them.
        ({"limit": "start slots", "held_back": "2 workers are starting"}, "keeping up", "400 tasks"),
        ({}, "keeping up", "400 tasks waiting, oldest 0.4 s"),
        ({"limit": "max_workers", "max_workers": 1, "waiting": 4, "concurrency": 4, "busy": 0,
          "service_time": 60}, "keeping up", "4 tasks waiting"),
        ({"limit": "CPU", "held_back": "CPU usage is 99 %", "waiting": 3}, "keeping up", "3 tasks waiting"),
    ],
)  # fmt: skip
def test_a_group_that_a_limit_will_make_late_does_not_keep_up(
    limit: dict[str, Any], word: str, why: str
) -> None:
    shown = status(BURST | limit)

    assert shown.verdict[0] == word
    assert shown.verdict[1].startswith(why)


def test_a_limit_of_one_host_is_said_beside_starts_on_another_one() -> None:
    def host(limit: str, held_back: str) -> SupervisorStatus:
        [found] = status(BURST | {"limit": limit, "held_back": held_back}).supervisors.values()
        return found

    shown = FleetStatus(
        {"a": host("start slots", "2 workers are starting"), "b": host("CPU", "CPU usage is 99 %")}
    )

    assert shown.verdict == ("falling behind", f"{LONG_WAIT}; held back: CPU usage is 99 %")


def test_failures_of_all_hosts_are_counted_together() -> None:
    hosts = {name: SupervisorStatus(failures={"t": 3}, ended={"t": 40}) for name in ("a", "b")}

    assert FleetStatus(hosts).verdict == (
        "failing",
        "6 of 80 executions of t failed in the last hour (8 %); fleet failures --task t shows why",
    )


def test_what_limits_a_group_is_said_in_a_few_words() -> None:
    def words(**group: Any) -> str:
        return limit_words(status({"want": 3, **group}).groups["web"])

    assert words(limit="CPU", held_back="CPU usage is 99 %") == "limited by CPU"
    assert words(limit="memory", held_back="memory usage is 99 %", want=4) == "limited by memory"
    assert words(limit="back-off", held_back="crash loop") == "starts fail"
    assert words(limit="max_workers", ready=4, want=4) == "at max_workers"
    # It wants its maximum and has not got it.
    assert words(limit="CPU", held_back="CPU usage is 99 %", want=4, max_workers=4) == "limited by CPU"
    assert words(limit="throughput", ready=3) == "limited by throughput"
    assert words(ready=3) == ""
    assert words(limit="another release's", held_back="whatever") == "held back"


def test_executions_of_the_last_hour_are_counted_of_tasks_that_fail() -> None:
    def told(**outcomes: int) -> dict[str, Tallies]:
        tallies = Tallies()
        tallies.of(("t", "q")).outcomes.update(outcomes)
        tallies.of(("fine", "q")).outcomes.update(succeeded=5)
        return {"w": tallies}

    counts = HostCounts()
    counts.update(0.0, {})
    counts.update(60.0, told(succeeded=8, failed=2))
    counts.update(120.0, told(succeeded=8, failed=3, retried=1))

    assert counts.failures() == {"t": 3}
    assert counts.ended() == {"t": 12}
    counts.update(3600.0 + 90.0, told(succeeded=8, failed=3, retried=1))
    assert counts.ended() == {"t": 2}


# --- Whatever stands in Redis --------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.dictionaries(FIELDS, JSON)
    | st.fixed_dictionaries(
        {"groups": st.dictionaries(st.text(), st.dictionaries(GROUP, JSON)), "workers": st.lists(JSON)}
    )
)
def test_any_status_is_read_shown_and_judged(said: dict[str, Any]) -> None:
    found, refused = SupervisorStatus.load("there", json.dumps(said).encode())

    if found is None:
        assert refused[0].name == "there"
        return
    shown = FleetStatus({"there": found}, unreadable=refused)
    assert text(shown)
    json.dumps(shown.as_dict(), allow_nan=False)


@pytest.fixture
def broker(redis_url: str) -> Iterator[Broker]:
    """Return a broker with one good supervisor."""
    with Celery("proj", broker=redis_url, set_as_current=False) as app:
        made = connect(app)
        supervisor(made, b"good", status().supervisors["here"].dump().encode())
        yield made


def supervisor(broker: Broker, host: bytes, said: bytes) -> None:
    """Let a supervisor have said something."""
    broker.client.hset(b"fleet:supervisor:" + host, mapping={"status": said})
    broker.client.zadd(broker.keys.supervisors, {host: (time.time() + 60) * 1000})


def test_one_bad_entry_spoils_itself_alone_and_is_named(broker: Broker) -> None:
    client, keys = broker.client, broker.keys
    supervisor(broker, b"deep", b"[" * 100_000)
    supervisor(broker, b"old", b'{"groups": {"web": {"age": 1}}, "workers": [1, {"name": "w@old"}]}')
    supervisor(broker, b"\xff", b"{}")
    client.set(keys.supervisor("text"), "no hash")
    client.zadd(keys.supervisors, {"text": (time.time() + 60) * 1000})
    client.zadd(keys.workers, {b"\xff@\xff:1": 1, "g-1@away:1": (time.time() + 60) * 1000})
    for fields in ({"at": "never"}, {"group": "web", "at": "nan"}, {"a": b"\xff"}):
        client.xadd(keys.decisions, fields)
    good: dict[Any, Any] = DecisionRecord(at=1.7e9, group="web", here=1).dump()
    client.xadd(keys.decisions, good)
    client.xadd(keys.decisions, good | {"seen": "[" * 100_000, "have": "x", "here": b"\xff"})

    found = fleet_status.fleet_status(broker)

    assert {"good", "old"} <= found.supervisors.keys()
    assert [worker.name for worker in found.workers] == ["w@old"]
    assert found.last_change is not None
    assert found.last_change.at == 1.7e9
    words = [finding.word for finding in found.findings]
    assert words[0] == "no supervisor"
    assert "away" in found.findings[0].why
    assert "unreadable" in words
    unreadable = [(each.kind, each.name, each.why) for each in found.unreadable]
    assert ("status", "deep", "it is nested too deep") in unreadable
    assert ("status", "old", "workers is of another type") in unreadable
    assert {("status", "text"), ("decision", "0-1")} <= {(kind, name) for kind, name, _ in unreadable} | {
        (kind, "0-1") for kind, _, _ in unreadable if kind == "decision"
    }
    assert len(list(decisions(broker, 10))) == 2
    assert text(found)


def test_keys_of_another_type_are_named(broker: Broker) -> None:
    for key in (broker.keys.supervisors, broker.keys.workers, broker.keys.decisions):
        broker.client.delete(key)
        broker.client.set(key, "text")

    found = fleet_status.fleet_status(broker)

    assert found.verdict[0] == "no supervisor"
    assert len(found.unreadable) == 3


def test_unsafe_settings_are_told_once_and_do_not_hide_that_the_fleet_keeps_up() -> None:
    [found] = status(problems=["task_acks_late is off", "queue x"]).supervisors.values()
    shown = FleetStatus({"here": found, "there": found})

    assert shown.verdict[0] == "keeping up"
    assert [(each["word"], each["why"]) for each in shown.as_dict()["also"]] == [
        ("unsafe settings", "task_acks_late is off"),
        ("unsafe settings", "queue x"),
    ]
    assert "task_acks_late is off" in text(shown)
