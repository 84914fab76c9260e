"""The past is never shown as the present: by an open page, by one opened in an outage, or to a probe."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from celery import Celery
from celery_autoscaler.protocol.description import describe
from celery_autoscaler.settings import Group, Settings
from celery_autoscaler.supervisor.loop import Supervisor
from celery_autoscaler.web import feed as feeds
from celery_autoscaler.web.feed import Feed
from celery_autoscaler.web.health import LATE_SECONDS, Health
from celery_autoscaler.web.metrics import registry
from prometheus_client import generate_latest
from support.processes.services import RedisServerFactory, wait_for

GROUPS = {"default": Group(name="default", queues=("celery",), min_workers=1, max_workers=4)}
WITHIN = 30.0  # seconds


@pytest.fixture
def make() -> Iterator[Callable[[str], Supervisor]]:
    """Return a function that makes a supervisor of a broker, which starts no worker."""
    with ExitStack() as stack:

        def begin(url: str) -> Supervisor:
            app = stack.enter_context(Celery("proj", broker=url, set_as_current=False))
            made = Supervisor(
                describe(app, "proj"), Settings(groups=GROUPS, hostname="here", memory_threshold=1)
            )
            stack.callback(made.launcher.close)
            made.tick()
            return made

        yield begin


def snapshots(feed: Feed) -> Generator[dict[str, Any]]:
    """Yield what an open page is sent, without what is no snapshot."""
    subscription = feed.subscribe()
    try:
        for event in subscription:
            if event.startswith(b"data: "):
                yield json.loads(event.removeprefix(b"data: "))
    finally:
        subscription.close()


def is_closed(feed: Feed) -> bool:
    """Return whether no page is open, and nothing is made any more."""
    return not feed._runs


def test_a_peer_of_another_release_spoils_itself_alone(
    redis_url: str, make: Callable[[str], Supervisor]
) -> None:
    supervisor = make(redis_url)
    client = supervisor.broker.client
    for host, said in (("old", {"groups": {"default": {}}, "workers": [{}]}), ("odd", {"cpus": "many"})):
        client.hset(supervisor.broker.keys.supervisor(host), mapping={"status": json.dumps(said)})
        client.zadd(supervisor.broker.keys.supervisors, {host: (time.time() + 60) * 1000})

    feed = Feed(supervisor)
    feed.snapshot()
    snapshot = feed.snapshot()

    assert supervisor.context.unreadable.counts["status"] == 1
    assert [host["host"] for host in snapshot["hosts"]] == ["here", "odd", "old"]
    assert snapshot["groups"]["default"]["max_workers"] == 4
    assert any("status odd: cpus is of another type" in each["why"] for each in snapshot["also"])


def test_the_feed_survives_whatever_happens_to_a_picture(
    redis_url: str, make: Callable[[str], Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = make(redis_url)
    feed = Feed(supervisor)
    fails = iter([KeyError("cpus"), RecursionError(), ZeroDivisionError()])

    def snapshot(_: Feed) -> dict[str, Any]:
        error = next(fails, None)
        if error is not None:
            raise error
        return {"verdict": "fine"}

    monkeypatch.setattr(Feed, "snapshot", snapshot)
    monkeypatch.setattr(feeds, "EVERY_SECONDS", 0.05)
    shown = snapshots(feed)
    found = [next(shown) for _ in range(4)]
    shown.close()

    assert [each["verdict"] for each in found] == ["blind", "blind", "blind", "fine"]
    assert found[0]["why"].startswith("this page cannot be made (KeyError: 'cpus'); the log of here")
    assert found[0]["as_of"] == supervisor.status.at


def test_a_page_that_is_opened_later_is_not_shown_what_an_earlier_one_saw(
    redis_url: str, make: Callable[[str], Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = Feed(make(redis_url))
    monkeypatch.setattr(feeds, "EVERY_SECONDS", 0.05)
    numbers = iter(range(1000))
    monkeypatch.setattr(Feed, "snapshot", lambda _: {"number": next(numbers)})
    first = snapshots(feed)
    next(first)
    first.close()
    wait_for(lambda: is_closed(feed), "it makes snapshots for nobody", WITHIN)
    made = next(numbers)

    second = snapshots(feed)
    assert next(second)["number"] > made
    second.close()


def test_a_page_opened_in_an_outage_says_of_when_it_is(
    make: Callable[[str], Supervisor], redis_server_factory: RedisServerFactory
) -> None:
    server = redis_server_factory()
    supervisor = make(server.url)
    seen_at = supervisor.status.at
    server.kill()
    supervisor.tick()

    snapshot = Feed(supervisor).snapshot()

    assert snapshot["verdict"] == "blind"
    assert snapshot["why"].startswith("Redis does not answer; here starts and stops nothing: ")
    assert snapshot["as_of"] == seen_at
    assert snapshot["groups"]["default"]["max_workers"] == 4
    assert b"celery_autoscaler_workers{" not in generate_latest(registry(supervisor))
    assert b"celery_autoscaler_blind 1.0" in generate_latest(registry(supervisor))


def test_a_supervisor_that_hangs_is_not_shown_as_one_that_keeps_up(
    redis_url: str, make: Callable[[str], Supervisor]
) -> None:
    supervisor = make(redis_url)
    supervisor.last_tick = time.monotonic() - 60

    snapshot = Feed(supervisor).snapshot()

    assert (snapshot["verdict"], snapshot["as_of"]) == ("blind", supervisor.status.at)
    assert snapshot["why"] == "the supervisor of here hangs: it has not looked for 59 s"
    assert b"celery_autoscaler_blind 1.0" in generate_latest(registry(supervisor))


def test_health_is_that_of_the_page_and_of_the_groups_as_well(
    redis_url: str, make: Callable[[str], Supervisor], monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = make(redis_url)
    feed = Feed(supervisor)
    health = Health(supervisor, feed)
    # It has a minimum and no worker, but for a moment only.
    assert health.problem() == ""

    group = supervisor.status.groups["default"]
    group = replace(group, not_served=True, unserved=61.0, held_back="memory usage is \x1b[1m99 %")
    supervisor.context.status = replace(supervisor.status, groups={"default": group})
    assert health.problem() == "group default has had no worker for 61 s: memory usage is \\x1b[1m99 %"
    supervisor.context.status = replace(supervisor.status, state="leaving")
    assert health.problem() == ""

    monkeypatch.setattr(Feed, "_run", lambda _: None)
    subscription = feed.subscribe()
    assert health.problem() == ""
    feed._made_at -= LATE_SECONDS + 2
    assert health.problem().startswith("the page was last renewed ")
    subscription.close()
    assert health.problem() == ""
