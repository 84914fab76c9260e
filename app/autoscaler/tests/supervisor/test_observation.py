"""One look at a real Redis shows lists, workers, other supervisors and wishes as they are."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery
from celery_autoscaler.operations.overrides import Sender, change, paused
from celery_autoscaler.protocol.broker import Broker, connect
from celery_autoscaler.protocol.overrides import Origin, Override
from celery_autoscaler.protocol.peers import PeerSeen
from celery_autoscaler.protocol.worker_seen import WorkerSeen
from celery_autoscaler.settings import Group
from celery_autoscaler.supervisor.eta_sample import PEEK
from celery_autoscaler.supervisor.observation import FleetSeen, ListSeen, Observer
from celery_autoscaler.supervisor.server_room import short_of
from redis import Redis
from support.processes.services import RedisServerFactory, wait_for

GROUPS = [Group(name="default", queues=("celery", "mails")), Group(name="slow", queues=("reports",))]
WORKER = "default-1@here:1700000000-1"
HEARTBEAT = {
    "host": "here", "group": "default", "pid": 42, "state": "running", "concurrency": 4, "active": 2,
    "reserved": 1, "scheduled": 3, "next_eta": 2e9, "processed": 77, "busy_seconds": "12.500",
    "taken": '{"celery": 80}', "running": '[["single.count", 1700000000.5]]', "memory": 1024, "release": "r1",
}  # fmt: skip

LOOKS = 5

MakeApp = Callable[..., Celery]


@pytest.fixture
def make_app(redis_url: str) -> Iterator[MakeApp]:
    """Return a function that makes an app with transport options of the test's choice."""
    with ExitStack() as stack:

        def make(url: str = redis_url, **options: Any) -> Celery:
            app = stack.enter_context(Celery("proj", broker=url, set_as_current=False))
            app.conf.broker_transport_options = options
            return app

        yield make


@pytest.fixture
def app(make_app: MakeApp) -> Celery:
    """Return an app as most are."""
    return make_app()


@pytest.fixture
def broker(app: Celery) -> Broker:
    """Return its broker, as the supervisor sees it."""
    return connect(app)


@pytest.fixture
def observer(broker: Broker) -> Observer:
    """Return an observer of two groups."""
    return Observer(broker, GROUPS)


def send(app: Celery, number: int = 1, queue: str = "celery", **options: Any) -> None:
    """Send tasks."""
    for _ in range(number):
        app.send_task("t", queue=queue, ignore_result=True, **options)


def lengths(seen: FleetSeen) -> dict[str, int]:
    """Return the lengths of the lists that are not empty."""
    return {item.name: item.length for item in seen.lists if item.length}


def of(seen: FleetSeen, name: str) -> ListSeen:
    """Return what is seen of a list."""
    return next(item for item in seen.lists if item.name == name)


def beat(broker: Broker, worker_id: str = WORKER, *, lease: float = 5.0, **changes: Any) -> None:
    """Write a heartbeat as the agent does."""
    broker.client.hset(broker.keys.worker(worker_id), mapping=HEARTBEAT | changes)
    broker.client.zadd(broker.keys.workers, {worker_id: (time.time() + lease) * 1000})


# --- Lists ---------------------------------------------------------------------------------------------


def test_the_lists_of_all_priority_steps_are_seen(app: Celery, observer: Observer) -> None:
    for priority in (0, 1, 3, 5, 9):
        send(app, priority=priority)
    send(app, 2, "reports")

    seen = observer.look()

    assert lengths(seen) == {
        "celery": 2, "celery\x06\x163": 2, "celery\x06\x169": 1, "reports": 2
    }  # fmt: skip
    assert len(seen.lists) == 3 * 4
    assert {item.queue for item in seen.lists if item.length} == {"celery", "reports"}


def test_steps_and_separator_of_the_apps_own_choice_are_known(make_app: MakeApp) -> None:
    app = make_app(priority_steps=list(range(10)), sep=":", queue_order_strategy="priority")
    for priority in (0, 4, 7):
        send(app, priority=priority)

    assert lengths(Observer(connect(app), GROUPS).look()) == {"celery": 1, "celery:4": 1, "celery:7": 1}


def test_nothing_is_seen_of_who_has_another_prefix(app: Celery, make_app: MakeApp) -> None:
    ours = make_app(global_keyprefix="ours:")
    broker = connect(ours)
    send(app, 5)
    send(ours, 2)
    beat(connect(app), "default-9@there:1")
    beat(broker)
    change(broker, "default", Sender("ann"), max_workers=3)

    seen = Observer(broker, GROUPS).look()

    assert lengths(seen) == {"celery": 2}
    assert [worker.id for worker in seen.workers] == [WORKER]
    assert list(seen.overrides) == ["default"]
    assert Observer(connect(app), GROUPS).look().overrides == {}


# --- Tasks for later -----------------------------------------------------------------------------------


def test_tasks_for_later_are_told_apart(app: Celery, observer: Observer) -> None:
    send(app, 2)
    send(app, 3, countdown=600)
    send(app, 1, countdown=300)
    send(app, 1, eta=datetime.now(UTC) - timedelta(seconds=5))

    found = of(observer.look(), "celery")

    assert (found.length, found.future) == (7, 4)
    assert found.next_eta == pytest.approx(time.time() + 300, abs=10)


def test_a_task_whose_time_comes_is_for_now(app: Celery, observer: Observer) -> None:
    send(app, countdown=4.0)
    assert of(observer.look(), "celery").future == 1

    wait_for(lambda: of(observer.look(), "celery").future == 0, "its time does not come", 15.0)

    assert of(observer.look(), "celery") == ListSeen("celery", "celery", 1)


def test_a_long_list_is_judged_by_those_that_are_taken_next(broker: Broker, observer: Observer) -> None:
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    for number in range(10 * PEEK):
        eta = later if number % 4 == 0 and number < PEEK else None
        broker.client.lpush("celery", json.dumps({"headers": {"eta": eta}}))

    found = of(observer.look(), "celery")

    assert (found.length, found.future) == (1000, 250)
    assert found.next_eta == pytest.approx(time.time() + 3600, abs=60)


def test_a_list_that_does_not_change_is_not_read_again(
    app: Celery, broker: Broker, observer: Observer
) -> None:
    send(app, 2, countdown=600)

    def reads() -> int:
        return int(broker.client.info("commandstats").get("cmdstat_lindex", {"calls": 0})["calls"])

    assert of(observer.look(), "celery").future == 2
    before = reads()
    for _ in range(3):
        assert of(observer.look(), "celery").future == 2
    assert reads() == before
    send(app)
    assert of(observer.look(), "celery").future == 2
    assert reads() > before


# --- Workers -------------------------------------------------------------------------------------------


def test_a_heartbeat_is_read_at_the_first_look_that_can_see_it(broker: Broker, observer: Observer) -> None:
    observer.look()
    beat(broker)

    [worker] = observer.look().workers

    assert worker == WorkerSeen(
        id=WORKER, alive=True, host="here", group="default", pid=42, state="running", concurrency=4, active=2,
        reserved=1, scheduled=3, processed=77, busy_seconds=12.5, memory=1024, release="r1", next_eta=2e9,
        taken={"celery": 80}, running=(("single.count", 1700000000.5),), version=1,
    )  # fmt: skip
    assert (worker.name, worker.instance) == ("default-1@here", "default-1")


def test_a_heartbeat_is_read_anew_each_time(broker: Broker, observer: Observer) -> None:
    beat(broker)
    observer.look()
    beat(broker, processed=78, next_eta="", state="draining")

    [worker] = observer.look().workers

    assert (worker.processed, worker.next_eta, worker.state) == (78, None, "draining")


def test_a_worker_of_an_older_release_may_say_less(broker: Broker, observer: Observer) -> None:
    broker.client.hset(broker.keys.worker(WORKER), "state", "running")
    broker.client.zadd(broker.keys.workers, {WORKER: (time.time() + 5) * 1000})

    [worker] = observer.look().workers

    assert (worker.alive, worker.state, worker.concurrency, worker.processed) == (True, "running", 1, 0)


def test_a_lease_that_has_run_out_is_seen(broker: Broker, observer: Observer) -> None:
    beat(broker)
    beat(broker, "default-2@here:1", lease=-0.1)

    seen = observer.look()

    assert seen.expired == ["default-2@here:1"]
    assert {worker.name: worker.alive for worker in seen.workers} == {
        "default-1@here": True, "default-2@here": False
    }  # fmt: skip


def test_workers_that_shall_drain_are_seen(broker: Broker, observer: Observer) -> None:
    broker.client.sadd(broker.keys.drain, "default-1@here")

    assert observer.look().draining == {"default-1@here"}


def test_claims_are_seen_while_they_stand(broker: Broker, observer: Observer) -> None:
    now = time.time() * 1000
    broker.client.zadd(broker.keys.claims("slow"), {"slow-1@here": now + 5000, "slow-2@here": now - 100})

    assert observer.look().claims == {"default": [], "slow": ["slow-1@here"]}


# --- Supervisors and operators -------------------------------------------------------------------------


def test_supervisors_are_seen_while_their_lease_lives(broker: Broker, observer: Observer) -> None:
    keys, now = broker.keys, time.time() * 1000
    broker.client.zadd(keys.supervisors, {"here": now + 5000, "dead": now - 100, "leaving": now + 5000})
    for host in ("here", "dead"):
        limits = json.dumps({"default": 3, "slow": None})
        broker.client.hset(keys.supervisor(host), mapping={"weight": 2.0, "limits": limits})

    expected = [PeerSeen("here", 2.0, {"default": 3, "slow": None})]
    assert observer.look().peers == expected
    assert observer.look().peers == expected


def test_what_operators_want_is_seen(broker: Broker, observer: Observer) -> None:
    change(broker, "default", Sender("ann"), min_workers=2, max_workers=5)
    change(broker, "*", Sender("bob"), paused=True)

    seen = observer.look().overrides
    assert {group: replace(each, pause=Origin(), scale=Origin()) for group, each in seen.items()} == {
        "default": Override(min_workers=2, max_workers=5, by="ann"),
        "*": Override(paused=True, by="bob"),
    }
    assert (seen["default"].scale.by, seen["*"].pause.by) == ("ann", "bob")

    change(broker, "default", Sender("ann"), min_workers=None)
    change(broker, "*", Sender("bob"), paused=None)
    [(group, override)] = observer.look().overrides.items()
    assert (group, override.max_workers, override.bounds_words) == ("default", 5, "max_workers 5 set by ann")


def test_what_is_set_for_a_while_ends_by_itself_in_the_decision_and_in_redis(
    broker: Broker, observer: Observer
) -> None:
    change(broker, "default", Sender("ann"), max_workers=7)
    change(broker, "default", Sender("bob", "sale", 7200), min_workers=3)
    change(broker, "default", Sender("ann", "provider down", 1), paused=True)

    seen = observer.look().overrides["default"]
    assert seen.pause_words == "paused by ann for 1 more second: provider down"
    assert seen.bounds_words == "min_workers 3, max_workers 7 set by bob for 120 more minutes: sale"
    assert broker.client.hlen(broker.keys.overrides) == 0

    wait_for(lambda: not observer.look().overrides["default"].paused, "the pause does not end", 10.0)
    wait_for(lambda: not broker.client.exists(broker.keys.timed_pause("default")), "its key stays", 10.0)
    assert observer.look().overrides["default"].min_workers == 3

    change(broker, "default", Sender("ann"), min_workers=None, max_workers=None)
    assert observer.look().overrides == {}
    assert list(broker.client.scan_iter(match="fleet:*")) == []


def test_what_takes_the_place_of_what_ends_by_itself_stays(broker: Broker, observer: Observer) -> None:
    change(broker, "*", Sender("ann", "", 1), paused=True)
    change(broker, "*", Sender("bob"), paused=True)

    assert paused(broker) == {"*"}
    assert broker.client.exists(broker.keys.timed_pause("*")) == 0
    assert observer.look().overrides["*"].pause_words == "paused by bob"
    change(broker, "*", Sender("bob"), paused=False)
    assert paused(broker) == set()


def test_an_end_that_redis_has_passed_counts_whether_its_key_stays_or_not(
    broker: Broker, observer: Observer
) -> None:
    value = Override(paused=True, pause=Origin("ann", until=1.0)).dump()
    broker.client.set(broker.keys.timed_pause("default"), value)
    broker.client.hset(broker.keys.overrides, "default", value)

    assert observer.look().overrides == {}
    assert paused(broker) == set()


@pytest.mark.parametrize(
    "value", ["no json", "[]", '{"pause": 3, "paused": true}', '{"pause": {"until": "x"}}']
)
def test_what_cannot_be_read_of_it_is_named_and_ignored(
    broker: Broker, observer: Observer, value: str
) -> None:
    broker.client.set(broker.keys.timed_pause("default"), value)
    broker.client.lpush(broker.keys.timed_bounds("default"), "a list")

    seen = observer.look()

    assert seen.overrides == {}
    assert [refusal.name for refusal in seen.refusals] == ["default"]
    assert [aside.name for aside in seen.set_aside] == ["fleet:bounds:default"]


# --- The server ----------------------------------------------------------------------------------------


def test_a_server_that_is_full_is_named(redis_server_factory: RedisServerFactory, make_app: MakeApp) -> None:
    server = redis_server_factory("--maxmemory", "900kb")

    seen = Observer(connect(make_app(server.url)), GROUPS).look()

    assert seen.short.startswith("Redis uses ")
    assert seen.short.endswith(" % of its memory")


@pytest.mark.parametrize(
    ("memory", "clients", "words"),
    [
        ({"maxmemory": 0, "used_memory": 10**9}, {"connected_clients": 10}, ""),
        ({"maxmemory": 1000, "used_memory": 900}, {"connected_clients": 10}, ""),
        ({"maxmemory": 1000, "used_memory": 901}, {"connected_clients": 10}, "Redis uses 90 % of its memory"),
        ({"used_memory": 1}, {"connected_clients": 9950, "maxclients": 10000}, ""),
        (
            {"used_memory": 1},
            {"connected_clients": 9951, "maxclients": 10000},
            "Redis has 9951 of at most 10000 clients",
        ),
        (
            {"used_memory": 1},
            {"connected_clients": 91, "maxclients": 100},
            "Redis has 91 of at most 100 clients",
        ),
    ],
)
def test_what_a_server_is_short_of(memory: dict[str, int], clients: dict[str, int], words: str) -> None:
    assert short_of(memory, clients) == words


def test_a_look_is_one_round_trip_once_all_is_known(
    app: Celery, broker: Broker, observer: Observer, redis_url: str
) -> None:
    send(app, 3)
    send(app, 3, countdown=600)
    broker.client.zadd(broker.keys.supervisors, {"here": (time.time() + 60) * 1000})
    broker.client.hset(broker.keys.supervisor("here"), mapping={"weight": 1, "limits": "{}"})
    for number in range(20):
        beat(broker, f"default-{number}@here:1", lease=60.0)
    observer.look()
    with Redis.from_url(redis_url) as other:

        def trips() -> int:
            return int(other.info("stats")["total_reads_processed"])

        trips()
        before = trips()
        for _ in range(LOOKS):
            observer.look()

        # The second question is one of its own.
        assert trips() - before == LOOKS + 1
