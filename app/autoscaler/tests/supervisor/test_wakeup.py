"""What wakes a supervisor between two ticks, what does not, and what that costs; on a real Redis."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from celery import Celery
from celery_autoscaler.protocol.description import describe
from celery_autoscaler.protocol.overrides import Override
from celery_autoscaler.settings import Group, Settings
from celery_autoscaler.supervisor import wakeup as module
from celery_autoscaler.supervisor.loop import Supervisor
from celery_autoscaler.supervisor.wakeup import Wakeup
from redis import Redis
from support.processes.services import RedisServerFactory

GROUPS = {
    "mail": Group(name="mail", queues=("mail",), concurrency=2, min_workers=0, max_workers=4),
    "web": Group(name="web", queues=("web", "other"), min_workers=0, max_workers=4),
}
# Longer than any tick; a wait that ends by itself shows that nothing has woken it.
LONG = 20.0
QUIET = 1.0


class Woken:
    """A supervisor that only looks, and what wakes it."""

    def __init__(self, url: str, app: Celery) -> None:
        settings = Settings(groups=dict(GROUPS), hostname="here", launcher="systemd")
        self.redis: Any = Redis.from_url(url, decode_responses=True)
        self.supervisor = Supervisor(describe(app, "proj"), settings)
        self.context = self.supervisor.context
        self.wakeup: Wakeup = self.supervisor._wakeup
        self.look()
        self.wakeup.wait(0.2)

    def look(self, **seen: Any) -> None:
        """Look as a tick does; let every group be seen in a certain state, too."""
        fleet = self.supervisor._lookout.look(time.monotonic(), [])
        lengths = {item.name: item.length for item in fleet.lists}
        for state in self.context.groups.values():
            backlog = sum(lengths[queue] for queue in state.group.queues)
            state.seen = replace(state.seen, **{"backlog": backlog, **seen})
        self.wakeup.expect(fleet)

    def send(self, queue: str, messages: int = 1) -> None:
        """Put messages into a list, one after the other."""
        for _ in range(messages):
            self.redis.lpush(queue, "{}")

    def wakes(self, seconds: float = LONG) -> bool:
        """Wait; return whether a decision is due."""
        return self.wakeup.wait(seconds)

    def reads(self) -> int:
        """Return how many scripts the server has run, which read the lengths of lists."""
        return int(self.redis.info("commandstats").get("cmdstat_eval", {"calls": 0})["calls"])


@contextmanager
def woken_by(url: str, **transport_options: Any) -> Iterator[Woken]:
    """Make a supervisor that looks at a server."""
    with Celery("proj", broker=url, set_as_current=False) as app:
        app.conf.broker_transport_options = transport_options
        yield Woken(url, app)


@pytest.fixture
def woken(redis_url: str) -> Iterator[Woken]:
    """Return a supervisor that looks at the session's Redis."""
    with woken_by(redis_url) as woken:
        yield woken


def test_the_first_message_of_an_idle_group_wakes_at_once(woken: Woken) -> None:
    begin = time.monotonic()
    threading.Timer(0.3, woken.send, ("other",)).start()

    assert woken.wakes()
    assert time.monotonic() - begin < LONG / 2


def test_a_message_for_which_a_slot_is_free_wakes_nobody(woken: Woken) -> None:
    woken.look(ready=1)

    woken.send("mail", 2)
    assert not woken.wakes(QUIET)
    # A third one has none.
    woken.send("mail")
    assert woken.wakes()


def test_growth_beyond_what_the_last_decision_knew_wakes_again(woken: Woken) -> None:
    woken.send("web", 50)
    assert woken.wakes()
    woken.look()

    assert not woken.wakes(QUIET)
    woken.redis.rpop("web", 10)
    assert not woken.wakes(QUIET)
    woken.send("web", 11)
    assert woken.wakes()


def test_what_arrives_as_usual_is_expected(woken: Woken) -> None:
    woken.look(arrival_slow=20.0)

    woken.send("web", 20)
    assert not woken.wakes(QUIET)
    woken.send("web")
    assert woken.wakes()


@pytest.mark.parametrize("why", ["max_workers", "paused"])
def test_a_group_that_can_have_no_more_workers_wakes_nobody(woken: Woken, why: str) -> None:
    state = woken.context.groups["web"]
    if why == "paused":
        woken.context.overrides["web"] = Override(paused=True)
        state.decision = replace(state.decision, limit="paused")
    woken.look(ready=4 if why == "max_workers" else 0)
    before = woken.reads()

    woken.send("web", 100)

    assert not woken.wakes(QUIET)
    assert woken.reads() == before


def test_lists_of_priority_steps_behind_a_prefix_wake(redis_url: str) -> None:
    with woken_by(redis_url, global_keyprefix="app:", priority_steps=[0, 5]) as woken:
        woken.send("app:mail\x06\x165")

        assert woken.wakes()


def test_an_idle_fleet_costs_no_command(woken: Woken) -> None:
    woken.redis.ping()
    before = woken.redis.info("stats")["total_commands_processed"]

    assert not woken.wakes(2 * QUIET)

    # That question itself.
    assert woken.redis.info("stats")["total_commands_processed"] - before <= 1


def test_steady_load_wakes_nobody_and_costs_a_few_readings(woken: Woken) -> None:
    woken.look(ready=4, arrival_slow=100.0)
    woken.context.groups["web"].group = replace(GROUPS["web"], max_workers=9)
    woken.look(ready=4, arrival_slow=100.0)
    done = threading.Event()

    def load() -> None:
        while not done.wait(0.005):
            woken.send("web")
            woken.redis.rpop("web")

    thread = threading.Thread(target=load)
    thread.start()
    try:
        woken.wakes(QUIET)
        before = woken.reads()
        assert not woken.wakes(4.0)
        assert woken.reads() - before <= 4.0 / module.LONGEST_SECONDS + 2
    finally:
        done.set()
        thread.join()


def test_a_flood_makes_at_most_ten_decisions_a_second(woken: Woken) -> None:
    done = threading.Event()

    def flood() -> None:
        while not done.is_set():
            woken.send("web", 20)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        decisions, end = 0, time.monotonic() + 3.0
        while (left := end - time.monotonic()) > 0:
            if woken.wakes(left):
                decisions += 1
                woken.look()
        assert 3 <= decisions <= 31
    finally:
        done.set()
        thread.join()


def test_a_database_that_is_emptied_is_read_again(woken: Woken) -> None:
    woken.send("web", 5)
    assert woken.wakes()
    woken.look()
    assert not woken.wakes(QUIET)

    woken.redis.flushall()
    assert not woken.wakes(QUIET)
    woken.look()
    woken.send("web")

    assert woken.wakes()


def test_another_thread_ends_the_wait(woken: Woken) -> None:
    threading.Timer(0.2, woken.wakeup.ring).start()
    begin = time.monotonic()

    assert not woken.wakes()
    assert time.monotonic() - begin < LONG / 2


def test_queues_of_new_settings_wake_and_those_of_old_ones_do_not(woken: Woken) -> None:
    group = Group(name="new", queues=("new",), min_workers=0)
    woken.context.use(replace(woken.context.settings, groups={"new": group}))
    woken.supervisor._lookout.forget_groups()
    woken.look()

    woken.send("web")
    assert not woken.wakes(QUIET)
    woken.send("new")
    assert woken.wakes()


# --- Servers that do not tell --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pubsub", "normal"])
def test_a_lost_connection_is_replaced_after_the_next_look(woken: Woken, kind: str) -> None:
    woken.redis.client_kill_filter(_type=kind, skipme=True)
    assert not woken.wakes(QUIET)

    woken.look()
    woken.send("web")
    assert woken.wakes()


def test_a_message_that_came_while_nobody_was_told_wakes_afterwards(woken: Woken) -> None:
    state = woken.context.groups["web"]
    woken.redis.client_kill_filter(_type="pubsub")
    assert not woken.wakes(QUIET)
    woken.send("web")

    # As if it had come after this look.
    fleet = woken.supervisor._lookout.look(time.monotonic(), [])
    state.seen = replace(state.seen, backlog=0)
    woken.wakeup.expect(fleet)

    assert woken.wakes()


def test_a_server_that_has_stopped_telling_is_noticed_by_two_looks(woken: Woken) -> None:
    watch: Any = woken.wakeup._watch
    watch._reader.send_command("CLIENT", "TRACKING", "OFF")
    watch._reader.read_response()
    woken.send("web", 3)
    assert not woken.wakes(QUIET)

    woken.look()
    woken.look()
    woken.look()
    woken.send("web")

    assert woken.wakes()


@pytest.mark.parametrize(
    "forbidden", [["-client|tracking"], ["resetchannels"], ["-client|id"], ["-subscribe"]]
)
def test_where_the_server_refuses_to_tell_ticks_go_on_alone(
    redis_server_factory: RedisServerFactory, forbidden: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    server = redis_server_factory()
    with Redis.from_url(server.url) as admin:
        admin.execute_command("ACL", "SETUSER", "app", "on", "nopass", "~*", "&*", "+@all", *forbidden)
    url = server.url.replace("redis://", "redis://app:any@")
    with caplog.at_level(logging.INFO), woken_by(url) as woken:
        for _ in range(3):
            woken.look()
            woken.send("web", 10)
            assert not woken.wakes(0.3)

        said = [record.getMessage() for record in caplog.records if "does not tell" in record.getMessage()]
        assert len(said) == 1
        # Once it does, that is found out.
        with Redis.from_url(server.url) as admin:
            admin.execute_command("ACL", "SETUSER", "app", "+@all", "&*")
        woken.wakeup._retry_at = time.monotonic()
        woken.look()
        woken.wakes(0.3)
        woken.send("web", 10)
        assert woken.wakes()


def test_without_a_server_there_are_no_words_and_no_errors(redis_server_factory: RedisServerFactory) -> None:
    server = redis_server_factory()
    with woken_by(server.url) as woken:
        server.kill()
        assert not woken.wakes(QUIET)
        woken.supervisor.tick()
        assert woken.supervisor.status.state == "blind"
        woken.wakeup.expect(woken.supervisor._lookout.sees)
        assert not woken.wakes(0.2)

        server.start()
        woken.look()
        woken.send("mail")
        assert woken.wakes()
