"""What the page of a supervisor shows, in a real browser as an operator opens it."""

from __future__ import annotations

import json
import math
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from celery import Celery
from celery_autoscaler.supervisor import history
from celery_autoscaler.web.feed import Feed
from playwright.sync_api import (
    expect,
)
from redis import Redis
from support.processes.counted_tasks import SEPARATOR, Load
from support.processes.services import RedisServerFactory
from support.processes.supervisor_page import (
    GROUPS,
    Opened,
    Supervise,
    decision,
    letter,
    neighbour,
    worker_status,
)
from support.processes.supervisors import SupervisedFleet

CACHE = Path(__file__).parents[4] / ".cache"


# What a page that shows it as markup would run.
EVIL = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"


def test_figures_are_those_of_redis(supervise: Supervise, app: Celery, redis: Redis, open_page: Any) -> None:
    for number, priority in ((7, 0), (4, 3), (2, 6)):
        for _ in range(number):
            app.send_task("t", queue="mails", priority=priority, ignore_result=True)
    app.send_task("t", queue="reports", countdown=600, ignore_result=True)
    neighbour(redis, {"running": [{"task": "proj.resize", "seconds": 83.0}]})

    opened = open_page(supervise())

    # The limit of memory lets no worker start for these.
    opened.verdict("Falling behind")
    expect(opened.page.locator("#groups article").first).to_contain_text("falling behind, limited by memory")
    waiting = redis.llen("mails"), redis.llen(f"mails{SEPARATOR}3"), redis.llen(f"mails{SEPARATOR}6")
    assert waiting == (7, 4, 2)
    assert opened.row("queues", "mails")[:4] == ["mails", "default", "13", "0"]
    steps = [row.split("\t") for row in opened.page.locator("#queues tr.step").all_inner_texts()]
    assert [(row[0], row[2]) for row in steps] == [
        ("priority step 0", "7"),
        ("priority step 3", "4"),
        ("priority step 6", "2"),
    ]
    assert opened.row("queues", "reports")[2:4] == ["0", "1"]
    assert "mails" in opened.page.locator("#slowest").inner_text()
    share = 4 / (4 + supervise.supervisor.host_seen.cpus)
    assert opened.row("hosts", "there")[2:7] == ["12 % of 4", "34 %", f"{100 * share:.0f} %", "1", "r1"]
    assert opened.row("workers", "default-1@there")[:4] == [
        "default-1@there", "ready", "proj.resize for 83 s", "7",
    ]  # fmt: skip
    # What is read aloud says the same.
    expect(opened.page.get_by_role("img", name="default: 13 tasks waiting, oldest")).to_have_count(1)


def test_pages_of_a_host_lead_to_each_other(supervise: Supervise, open_page: Any) -> None:
    pages = {"blog": "127.0.0.1:9542", "shop": "198.51.100.21:9543", "till": "unix:/run/till.socket"}
    opened = open_page(supervise(pages=pages))

    names = opened.page.get_by_role("navigation", name="Projects of this host").locator("a")
    expect(names).to_have_text(["blog", "celery", "shop", "till"])
    links = [name.get_attribute("href") for name in names.all()]
    assert links == ["http://127.0.0.1:9542/", None, "http://198.51.100.21:9543/", None]
    expect(opened.page.locator("#projects [aria-current=page]")).to_have_text("celery")


def test_a_page_of_the_only_project_of_a_host_names_none(supervise: Supervise, open_page: Any) -> None:
    opened = open_page(supervise())

    expect(opened.page.locator("#source")).to_contain_text("here")
    expect(opened.page.locator("#projects")).to_be_hidden()


def test_a_snapshot_costs_little(supervise: Supervise, redis: Redis, app: Celery) -> None:
    running = [{"task": "proj.resize", "seconds": 83.0}] * 4
    neighbour(redis, {}, workers=[worker_status(name=f"w-{n}@there", running=running) for n in range(50)])
    for number in range(20):
        app.send_task("t", queue="mails", priority=number % 3 * 3, ignore_result=True)
        decision(redis, time.time(), reason="so that there is something to read", here=1)
    supervise()
    feed = Feed(supervise.supervisor)

    costs = []
    for _ in range(20):
        begin = time.thread_time()
        text = json.dumps(feed.snapshot())
        costs.append(time.thread_time() - begin)

    assert text.count("proj.resize") == 200
    # One is made each second: under one percent of a core.
    assert sorted(costs)[10] < 0.01


def test_a_burst_and_a_missed_target_wait_are_seen_at_once(
    supervise: Supervise, redis: Redis, app: Celery, open_page: Any
) -> None:
    opened = open_page(supervise())
    opened.verdict("Keeping up")
    with app.producer_pool.acquire(block=True) as producer:
        for _ in range(300):
            app.send_task("t", queue="quick", producer=producer, ignore_result=True)

    sent = time.monotonic()
    expect(opened.page.locator("#queues td", has_text=re.compile("^300$"))).to_be_visible(timeout=5000)

    assert time.monotonic() - sent < 5
    opened.verdict("Falling behind", within=15)
    expect(opened.page.locator("#slowest")).to_have_class("late")
    expect(opened.page.locator("#why")).to_contain_text("memory usage is")
    assert redis.llen("quick") == 300


def test_no_markup_comes_from_redis(supervise: Supervise, redis: Redis, open_page: Any) -> None:
    running = [{"task": f"task{EVIL}", "seconds": 1.0}]
    neighbour(redis, {"name": f"w{EVIL}@there", "release": EVIL, "running": running, "why": EVIL}, why=EVIL)
    redis.lpush("dead_letter:mails", letter(f"dead{EVIL}", f"('{EVIL}',)"))
    decision(redis, time.time(), reason=EVIL, by=EVIL)

    opened = open_page(supervise())
    opened.verdict("Dead letters")
    opened.page.get_by_role("button", name="View", exact=True).click()
    expect(opened.page.locator("#dead-letters td", has_text="dead<img")).to_contain_text(f"('{EVIL}',)")

    assert opened.row("workers", f"w{EVIL}@there")[2] == f"task{EVIL} for 1.0 s"
    assert EVIL in opened.decisions
    assert opened.page.locator("main img, main script").count() == 0
    assert opened.page.title() == "dead letters: Celery Fleet"
    policy = opened.page.request.get(opened.base).headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_that_nothing_is_seen_is_said_and_the_charts_come_when_it_is_over(
    supervise: Supervise, redis_server_factory: RedisServerFactory, open_page: Any
) -> None:
    server = redis_server_factory()
    with Celery("proj", broker=server.url, set_as_current=False) as app:
        base = supervise(app)
        opened = open_page("about:blank")
        opened.base = base
        opened.page.route("**/history*", lambda route: route.abort(), times=1)
        with opened.page.expect_console_message(lambda said: "ERR_FAILED" in said.text):
            opened.page.goto(base)
        opened.complaints.clear()
        opened.verdict("Keeping up")
        assert opened.page.locator("canvas").count() == 0

        server.kill()
        opened.verdict("Blind")
        expect(opened.page.locator("#why")).to_contain_text("here starts and stops nothing")
        expect(opened.page.locator("#as-of")).to_contain_text("Shown below: as of ")
        expect(opened.page.locator("body")).to_have_class("stale")
        late = open_page(base)
        late.verdict("Blind")
        expect(late.page.locator("#as-of")).to_contain_text("Shown below: as of ")
        assert late.row("queues", "mails")[1] == "default"
        # The history cannot be read.
        late.complaints.clear()
        server.start()
        for one in (opened, late):
            one.verdict("Keeping up")
            expect(one.page.locator("#as-of")).to_have_text("")
            expect(one.page.locator("canvas")).to_have_count(2 * len(GROUPS))
            one.complaints.clear()


def test_what_is_wrong_is_said_besides_the_worst_and_as_text(
    supervise: Supervise, redis: Redis, open_page: Any
) -> None:
    redis.lpush("dead_letter:mails", letter("t"))
    task = "t\x1b]0;x\x07\u202eevil"
    group = {
        "limit": "CPU",
        "held_back": "CPU usage is 99 %",
        "want": 3,
        "ready": 1,
        "max_workers": 4,
        "min_workers": 1,
    }
    neighbour(redis, {}, groups={"other": group}, failures={task: 14}, ended={task: 100})

    opened = open_page(supervise())
    opened.verdict("Failing")

    shown = "t\\x1b]0;x\\x07\\u202eevil"
    expect(opened.page.locator("#why")).to_have_text(
        f"14 of 100 executions of {shown} failed in the last hour (14 %); "
        f"fleet failures --task '{shown}' shows why"
    )
    expect(opened.page.locator("#also li")).to_have_text(
        [
            "dead letters: 1 message was put aside: queue mails",
            "unsafe settings: task_acks_late is off: a worker that is killed loses the tasks it runs",
        ]
    )
    assert opened.row("failures", shown) == [shown, "14 of 100"]
    expect(opened.page.locator("article", has_text="other").locator(".chip")).to_have_text("limited by CPU")


def test_the_token_that_reads_shows_the_page_and_asks_for_the_other_one_to_act(
    supervise: Supervise, tmp_path: Path, redis: Redis, open_page: Any
) -> None:
    (tmp_path / "act").write_text("acts")
    (tmp_path / "read").write_text("reads")
    base = supervise(token_file=str(tmp_path / "act"), read_token_file=str(tmp_path / "read"))
    opened = open_page(base)

    opened.page.get_by_role("textbox", name="Token").fill("another")
    opened.page.get_by_role("button", name="Open").click()
    expect(opened.page.locator("#login-title")).to_contain_text("This token is not the supervisor's.")
    opened.page.get_by_role("textbox", name="Token").fill("reads")
    opened.page.get_by_role("button", name="Open").click()
    opened.verdict("Keeping up")
    opened.page.get_by_role("button", name="Pause slow").click()
    expect(opened.page.locator("#login-title")).to_contain_text("This token may only read.")
    assert redis.hlen("fleet:overrides") == 0
    opened.page.get_by_role("textbox", name="Token").fill("acts")
    opened.page.get_by_role("button", name="Open").click()

    expect(opened.page.locator("#said")).to_have_text("slow: paused")
    assert all("401" in complaint or "403" in complaint for complaint in opened.complaints)
    opened.complaints.clear()


def test_a_working_fleet_at_desk_and_phone(redis_url: str, tmp_path: Path, open_page: Any) -> None:
    counts_url = urlsplit(redis_url)._replace(path="/1").geturl()
    options = {"broker_transport_options": {"priority_steps": [0, 3, 6]}}
    with SupervisedFleet(tmp_path, redis_url, counts_url, options) as fleet:
        made_up_hour(fleet.tasks.redis)
        supervisor = fleet.start(http="127.0.0.1:19541", group={"max_workers": 4, "target_wait": 4.0})
        fleet.wait_for_workers(1)
        fleet.tasks.send(3, "a", 1, name="add")
        fleet.tasks.redis.lpush("dead_letter:celery", letter("proj.resize", queue="celery"))
        with Load(fleet.tasks, 20.0, 0.5, priority=3):
            opened = open_page("http://127.0.0.1:19541/", device_scale_factor=1)
            opened.verdict("Falling behind", within=20)
            expect(opened.page.locator("#workers tr")).to_have_count(4, timeout=20_000)
            expect(opened.page.locator("#workers")).to_contain_text("single.count for")
            paint = opened.page.evaluate(
                "performance.getEntriesByName('first-contentful-paint')[0].startTime"
            )
            keep_screenshot(opened, "page-desk.png")
            phone = open_page(
                "http://127.0.0.1:19541/", viewport={"width": 390, "height": 844}, color_scheme="dark"
            )
            phone.verdict("Falling behind")
            wide = phone.page.evaluate("document.documentElement.scrollWidth")
            keep_screenshot(phone, "page-phone.png", full_page=True)
        assert supervisor.process.poll() is None

    assert paint < 1000
    assert sum(opened.sizes) < 150_000
    assert wide == 390


def keep_screenshot(opened: Opened, name: str, **options: Any) -> None:
    """Keep a screenshot of a page for people to look at."""
    CACHE.mkdir(exist_ok=True)
    # The next figures are there, and with them the rates.
    opened.page.wait_for_timeout(1500)
    opened.page.screenshot(path=CACHE / name, **options)


def made_up_hour(redis: Redis) -> None:
    """Write an hour of records with two bursts."""
    now = int(time.time())
    for at in range(now - 3600, now - 10, history.EVERY_SECONDS):
        ago = (now - at) / 60
        load = sum(math.exp(-(((ago - peak) / 3) ** 2)) for peak in (18, 42))
        ready = 1 + round(3 * min(1.0, 1.4 * load))
        figures = (ready, int(0.1 < load < 0.3), 0, 4, int(180 * load), f"{0.2 + 5.5 * load:.3g}")
        redis.xadd("fleet:history", {"default": " ".join(map(str, figures))}, id=f"{at * 1000}-0")
    for peak in (42, 18):
        for ago, have, want, reason in (
            (peak + 3.5, 1, 3, "52 tasks waiting, oldest 1.6 s"),
            (peak + 2, 3, 4, "130 tasks waiting, oldest 3.9 s. Limited by max_workers = 4"),
            (peak - 4, 4, 1, "1 worker has been enough for 60 s. No tasks waiting, none running"),
        ):
            decision(redis, now - 60 * ago, have=have, want=want, here=want - have, reason=reason)
