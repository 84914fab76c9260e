"""The page of a supervisor in a real browser, as an operator opens it."""

from __future__ import annotations

import http.client
import json
import logging
import math
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from celery import Celery
from celery_autoscaler.operations import dead_letters
from celery_autoscaler.protocol.broker import connect
from celery_autoscaler.protocol.dead_letter import DeadLetter
from celery_autoscaler.settings import Group, Settings
from celery_autoscaler.supervisor import fleet_status, history
from celery_autoscaler.supervisor.loop import Supervisor
from celery_autoscaler.web.endpoints import serve
from celery_autoscaler.web.feed import READERS, Feed, failures
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Error,
    Page,
    Request,
    Response,
    expect,
    sync_playwright,
)
from redis import Redis
from support.processes.counted_tasks import SEPARATOR, Load
from support.processes.services import RedisServerFactory, wait_for
from support.processes.supervisors import SupervisedFleet

CACHE = Path(__file__).parents[4] / ".cache"
GROUPS = {
    "default": Group(name="default", queues=("celery", "mails"), min_workers=0, max_workers=4),
    "quick": Group(name="quick", queues=("quick",), min_workers=0, target_wait=1.0),
    "slow": Group(name="slow", queues=("reports",), min_workers=0, max_workers=3, target_wait=60.0),
}
# What a page that shows it as markup would run.
EVIL = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
LOCAL = "127.0.0.1:0"
TOO_MANY = "slow: min_workers 4 is more than its max_workers 3: set both"
NO_QUEUE = "no queue named 'nobody'; there are: celery, mails, quick, reports"

# --- A browser and a supervisor ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Return the distribution's Chromium."""
    path = shutil.which("chromium")
    assert path, "Chromium is missing: run scripts/browser"
    with sync_playwright() as playwright:
        # The sandbox of Chromium refuses to run as root.
        made = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield made
        made.close()


@dataclass
class Opened:
    """An open page, and what went over the network for it."""

    page: Page
    base: str
    requests: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def keep_request(self, request: Request) -> None:
        """Note a request."""
        self.requests.append(request.url)

    def keep_size(self, response: Response) -> None:
        """Note the bytes of a file."""
        if not response.url.endswith("/events"):
            self.sizes.append(int(response.headers.get("content-length", 0)))

    def keep_error(self, error: Error) -> None:
        """Note what the page's code did not expect."""
        self.complaints.append(str(error))

    def keep_message(self, said: ConsoleMessage) -> None:
        """Note an error that the browser reports."""
        if said.type == "error":
            self.complaints.append(said.text)

    def verdict(self, word: str, within: float = 10.0) -> None:
        """Wait until the page says so."""
        expect(self.page.locator("#verdict")).to_have_text(word, timeout=1000 * within)

    def row(self, table: str, name: str) -> list[str]:
        """Return the cells of the first row of a table that has such a name."""
        found = self.page.locator(f"#{table} tr", has=self.page.get_by_text(name, exact=True)).first
        return found.locator("td").all_inner_texts()

    def agree(self, *answers: str) -> None:
        """Click such buttons of the questions that follow, one after the other."""
        for text in answers:
            self.page.locator("#ask").get_by_role("button", name=text, exact=True).click()

    @property
    def decisions(self) -> str:
        """What the page lists of decisions and wishes."""
        return self.page.locator("#decisions").inner_text()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Opened]]:
    """Return a function that opens a page; in the end none may have complained or gone elsewhere."""
    opened: list[Opened] = []
    with ExitStack() as stack:

        def begin(base: str, **options: Any) -> Opened:
            context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | options))
            stack.callback(context.close)
            made = Opened(context.new_page(), base)
            opened.append(made)
            made.page.on("request", made.keep_request)
            made.page.on("response", made.keep_size)
            made.page.on("pageerror", made.keep_error)
            made.page.on("console", made.keep_message)
            made.page.goto(base)
            return made

        yield begin
        for one in opened:
            assert one.complaints == []
            assert [url for url in one.requests if not url.startswith(one.base)] == []


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    """Return an app with three priority steps."""
    with Celery("proj", broker=redis_url, set_as_current=False) as made:
        made.conf.broker_transport_options = {"priority_steps": [0, 3, 6]}
        yield made


@pytest.fixture
def redis(redis_url: str) -> Iterator[Redis]:
    """Return a connection of the test's own."""
    with closing(Redis.from_url(redis_url, decode_responses=True)) as made:
        yield made


class Supervise:
    """Runs supervisors that start no worker, and serves their pages."""

    def __init__(self, app: Celery, stack: ExitStack) -> None:
        self.app = app
        self.stack = stack
        self.supervisor: Supervisor

    def __call__(
        self, app: Celery | None = None, http: str = LOCAL, token_file: str = "", read_token_file: str = ""
    ) -> str:
        """Start one; return the address of its page."""
        # There is always more memory in use than that.
        settings = Settings(
            groups=GROUPS,
            hostname="here",
            memory_threshold=1,
            tick=0.5,
            http=http,
            token_file=token_file,
            read_token_file=read_token_file,
        )
        self.supervisor = Supervisor(app or self.app, "proj", settings)
        self.supervisor.start_monitoring()
        self.stack.callback(self.supervisor.stop_monitoring)
        server = serve(self.supervisor, settings)
        assert server is not None
        self.stack.callback(server.server_close)
        self.stack.callback(server.shutdown)
        return f"http://127.0.0.1:{server.server_address[1]}/"


@pytest.fixture
def supervise(app: Celery) -> Iterator[Supervise]:
    """Return a function that starts a supervisor and returns the address of its page."""
    with ExitStack() as stack:
        yield Supervise(app, stack)


def letter(task: str, arguments: str = "()", queue: str = "mails") -> str:
    """Return a dead letter as it stands in Redis."""
    message = json.dumps({"headers": {"task": task, "id": "1", "argsrepr": arguments}, "properties": {}})
    return json.dumps(asdict(DeadLetter(queue, "2026-11-25T10:00:00+00:00", "died", "w@here", 3, message)))


def decision(redis: Redis, at: float, **fields: str | int) -> None:
    """Let a supervisor have decided something."""
    entry: dict[Any, Any] = (
        fleet_status.NOTHING_MOVED | {"at": at, "group": "default", "host": "here"} | fields
    )
    redis.xadd("fleet:decisions", entry)


def worker_status(**fields: Any) -> dict[str, Any]:
    """Return what a supervisor says of a worker."""
    return {
        "name": "default-1@there", "group": "default", "state": "ready", "why": "", "pid": 1, "active": 1,
        "reserved": 0, "processed": 7, "failed": 0, "outdated": False, "memory": 2**26, "release": "r1",
        "running": [],
    } | fields  # fmt: skip


def neighbour(redis: Redis, worker: Mapping[str, Any], **status: Any) -> None:
    """Let another supervisor say that it has a worker."""
    said = {
        "host": "there", "at": time.time(), "state": "supervising", "why": "", "cpus": 4, "capacity": 4,
        "cpu": 12.0, "memory": 34.0, "memory_limit": 2**30, "tick": {"every": 1.0, "took": 0.01}, "redis": "",
        "groups": {}, "workers": [worker_status(**worker)],
    } | status  # fmt: skip
    redis.hset("fleet:supervisor:there", mapping={"weight": 4, "limits": "{}", "status": json.dumps(said)})
    redis.zadd("fleet:supervisors", {"there": (time.time() + 60) * 1000})


# --- What is shown -------------------------------------------------------------------------------------


def test_figures_are_those_of_redis(supervise: Supervise, app: Celery, redis: Redis, open_page: Any) -> None:
    for number, priority in ((7, 0), (4, 3), (2, 6)):
        for _ in range(number):
            app.send_task("t", queue="mails", priority=priority, ignore_result=True)
    app.send_task("t", queue="reports", countdown=600, ignore_result=True)
    neighbour(redis, {"running": [{"task": "proj.resize", "seconds": 83.0}]})

    opened = open_page(supervise())

    opened.verdict("Keeping up")
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


def test_a_picture_costs_little(supervise: Supervise, redis: Redis, app: Celery) -> None:
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
        text = json.dumps(feed.picture())
        costs.append(time.thread_time() - begin)

    assert text.count("proj.resize") == 200
    # One is made each second: under one percent of a core.
    assert sorted(costs)[10] < 0.01


def test_a_burst_and_a_broken_promise_are_seen_at_once(
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
    expect(opened.page.locator("#why")).to_contain_text("memory is used to")
    assert redis.llen("quick") == 300


def test_no_markup_comes_from_redis(supervise: Supervise, redis: Redis, open_page: Any) -> None:
    running = [{"task": f"task{EVIL}", "seconds": 1.0}]
    neighbour(redis, {"name": f"w{EVIL}@there", "release": EVIL, "running": running, "why": EVIL}, why=EVIL)
    redis.lpush("dead_letter:mails", letter(f"dead{EVIL}", f"('{EVIL}',)"))
    decision(redis, time.time(), reason=EVIL, by=EVIL)

    opened = open_page(supervise())
    opened.verdict("Dead letters")
    opened.page.get_by_role("button", name="Look", exact=True).click()
    expect(opened.page.locator("#letters td", has_text="dead<img")).to_contain_text(f"('{EVIL}',)")

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
        "held_back": "CPU is used to 99 %",
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
        f"14 of 100 executions of {shown} failed in the last hour (14 %)"
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


# --- What operators want -------------------------------------------------------------------------------


def test_a_pause_is_asked_for_done_and_written_down(
    supervise: Supervise, app: Celery, redis: Redis, open_page: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    opened = open_page(supervise())
    opened.verdict("Keeping up")
    opened.page.get_by_label("Your name").fill("anna")

    opened.page.get_by_role("button", name="Pause all").click()
    opened.agree("Cancel")
    assert redis.hlen("fleet:overrides") == 0
    opened.page.get_by_role("button", name="Pause all").click()
    opened.agree("Pause all")

    opened.verdict("Paused")
    expect(opened.page.locator("#why")).to_contain_text("paused by anna (127.0.0.1)")
    assert json.loads(str(redis.hget("fleet:overrides", "*"))) == {"paused": True, "by": "anna (127.0.0.1)"}
    assert "On the page, by anna (127.0.0.1): all groups: paused" in caplog.text
    wait_for(lambda: "all groups: paused by anna (127.0.0.1)" in opened.decisions, "it is not listed")
    [record] = [one for one in fleet_status.records(connect(app), 20, "slow") if one.by]
    assert (record.group, record.reason) == ("*", "paused by anna (127.0.0.1)")
    opened.page.get_by_role("button", name="Resume all").click()
    opened.verdict("Keeping up")


def test_one_group_is_paused_and_its_bounds_are_changed(
    supervise: Supervise, redis: Redis, open_page: Any
) -> None:
    opened = open_page(supervise())
    opened.verdict("Keeping up")
    group = opened.page.locator("article", has=opened.page.get_by_role("heading", name="slow"))

    group.get_by_role("button", name="Pause slow").click()
    expect(group.get_by_role("button", name="Resume slow")).to_be_visible()
    group.get_by_text("Change bounds").click()
    expect(group.get_by_label("Maximum of slow")).to_have_value("3")
    group.get_by_label("Maximum of slow").fill("9")
    group.get_by_role("button", name="Set", exact=True).click()
    expect(opened.page.locator("#said")).to_have_text("slow: min_workers 0, max_workers 9")

    wish = {"paused": True, "min_workers": 0, "max_workers": 9, "by": "127.0.0.1"}
    assert json.loads(str(redis.hget("fleet:overrides", "slow"))) == wish
    expect(group.locator(".legend .max_workers + b, .legend span", has_text="max_workers 9")).to_be_visible()
    group.get_by_label("Minimum of slow").fill("12")
    group.get_by_role("button", name="Set", exact=True).click()
    expect(opened.page.locator("#said")).to_have_text("min_workers 12 is more than max_workers 9")
    group.get_by_role("button", name="Reset to settings").click()
    expect(opened.page.locator("#said")).to_have_text("slow: bounds reset to the settings")
    # Chromium reports a refusal as an error of the network.
    assert len(opened.complaints) == 1
    assert "400" in opened.complaints.pop()


def test_a_worker_is_drained_and_called_back(supervise: Supervise, redis: Redis, open_page: Any) -> None:
    redis.zadd("fleet:workers", {"default-1@there:x": (time.time() + 60) * 1000})
    neighbour(redis, {})
    opened = open_page(supervise())

    opened.page.get_by_role("button", name="Drain default-1@there").click()
    opened.agree("Drain")
    wait_for(lambda: redis.smembers("fleet:drain") == {"default-1@there"}, "it is not told to drain")
    neighbour(redis, {"state": "draining", "why": "an operator wants it drained"})
    opened.page.get_by_role("button", name="Cancel the drain of default-1@there").click()

    wait_for(lambda: not redis.exists("fleet:drain"), "it is not called back")
    wait_for(lambda: "drain cancelled, wanted by 127.0.0.1" in opened.decisions, "it is not listed")


def test_dead_letters_are_sent_again_or_deleted_after_two_questions(
    supervise: Supervise, redis: Redis, app: Celery, open_page: Any
) -> None:
    redis.lpush("dead_letter:mails", *[letter(f"t{number}") for number in range(3)])
    redis.lpush("dead_letter:reports", letter("r", queue="reports"))
    opened = open_page(supervise())
    mails = opened.page.locator("#letters > li", has_text="mails: 3 messages")

    mails.get_by_role("button", name="Delete").click()
    opened.agree("Delete", "Cancel")
    assert redis.llen("dead_letter:mails") == 3
    mails.get_by_role("button", name="Delete").click()
    opened.agree("Delete", "Delete for good")
    expect(mails).to_have_count(0)
    assert dead_letters.queues(connect(app)) == ["reports"]
    opened.page.get_by_role("button", name="Retry", exact=True).click()
    opened.agree("Retry")

    expect(opened.page.locator("#no-letters")).to_be_visible()
    assert redis.llen("reports") == 1
    wait_for(lambda: "mails: 3 messages deleted by 127.0.0.1" in opened.decisions, "it is not listed")


def test_it_can_be_used_without_a_mouse(supervise: Supervise, redis: Redis, open_page: Any) -> None:
    for number in (1, 2):
        decision(redis, time.time() - 600 * number, here=1, want=1, reason=f"why {number}")
    opened = open_page(supervise())
    keyboard = opened.page.keyboard
    told = opened.page.locator("article", has_text="default").locator(".told")
    expect(told).to_contain_text("why 1")

    opened.page.get_by_role("button", name="Pause all").focus()
    keyboard.press("Enter")
    expect(opened.page.locator("#no")).to_be_focused()
    keyboard.press("Escape")
    for _ in range(20):
        keyboard.press("Tab")
        if opened.page.evaluate("document.activeElement.closest('.marks') !== null"):
            break
    keyboard.press("ArrowLeft")

    expect(told).to_contain_text("default 0 → 1, here starts 1: why 2")
    assert redis.hlen("fleet:overrides") == 0


# --- Who may ask ---------------------------------------------------------------------------------------


def test_with_a_token_the_page_asks_for_it_once(supervise: Supervise, tmp_path: Path, open_page: Any) -> None:
    (tmp_path / "token").write_text("s3cret")
    opened = open_page(supervise(http="0.0.0.0:0", token_file=str(tmp_path / "token")))

    for token in ("wrong", "s3cret"):
        opened.page.get_by_role("textbox", name="Token").fill(token)
        opened.page.get_by_role("button", name="Open").click()
    opened.verdict("Keeping up")
    opened.page.reload()
    opened.verdict("Keeping up")

    assert not any("s3cret" in url for url in opened.requests)
    assert all("401" in complaint for complaint in opened.complaints)
    opened.complaints.clear()


@dataclass(frozen=True)
class Client:
    """Asks without a browser."""

    base: str

    def ask(self, path: str, method: str = "GET", body: str = "", **headers: str) -> tuple[int, Any]:
        """Send a request; return the status and the JSON."""
        address = urlsplit(self.base).netloc
        with closing(http.client.HTTPConnection(address, timeout=10)) as connection:
            sent = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            return response.status, json.loads(response.read() or "null")

    def wish(self, action: str, body: str = "{}", **headers: str) -> tuple[int, Any]:
        """Tell what is wanted, as the page does."""
        return self.ask(f"/actions/{action}", "POST", body, **({"X_Celery_Fleet": "page"} | headers))


@pytest.mark.parametrize("path", ["/events", "/history", "/letters?queue=mails", "/actions/pause"])
def test_a_token_is_needed_for_all_that_comes_from_redis(
    supervise: Supervise, tmp_path: Path, path: str, redis: Redis
) -> None:
    (tmp_path / "token").write_text("s3cret")
    base = supervise(http="0.0.0.0:0", token_file=str(tmp_path / "token"))
    with closing(http.client.HTTPConnection(urlsplit(base).netloc, timeout=10)) as connection:
        connection.request("POST" if "actions" in path else "GET", path, headers={"X-Celery-Fleet": "page"})
        assert connection.getresponse().status == 401
    assert redis.hlen("fleet:overrides") == 0


def test_other_sites_can_neither_ask_nor_wish(supervise: Supervise, redis: Redis) -> None:
    client = Client(supervise())
    own = urlsplit(client.base).netloc

    for headers in (
        {"Host": "evil.example:9541"},
        {"Host": "127.0.0.1.evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
    ):
        assert client.wish("pause", **headers)[0] == 403, headers
        assert client.ask("/history", **headers)[0] == 403, headers
    # What a form or an image of another site can send.
    assert client.ask("/actions/pause", "POST", "{}")[0] == 403
    assert client.ask("/actions/pause")[0] == 405
    assert redis.hlen("fleet:overrides") == 0
    assert client.wish("pause", Origin=f"http://{own}")[0] == 200
    assert client.ask("/history", Host="localhost:1234")[0] == 200


@pytest.mark.parametrize(
    ("action", "body", "status", "error"),
    [
        ("pause", "[]", 400, "allowed is a JSON object"),
        ("pause", "{", 400, "allowed is a JSON object"),
        ("pause", " " * 5000, 400, "allowed are 4096 bytes"),
        ("pause", '{"group": 7}', 400, "group must be a text"),
        ("pause", '{"group": "nobody"}', 409, "no group named 'nobody'; there are: default, quick, slow"),
        ("pause", '{"by": "a\\nb"}', 400, "a name has up to 40 letters, digits, spaces and . @ - _"),
        ("scale", '{"group": "slow", "max_workers": "9"}', 400, "max_workers must be a whole number"),
        ("scale", '{"group": "slow", "max_workers": 0}', 400, "slow: max_workers 0: allowed is 1 to 10000"),
        ("scale", '{"group": "slow", "min_workers": true}', 400, "min_workers must be a whole number"),
        ("scale", '{"group": "slow", "min_workers": 4}', 409, TOO_MANY),
        (
            *("scale", '{"group": "slow", "max_workers": 10001}', 400),
            "slow: max_workers 10001: allowed is 1 to 10000",
        ),
        ("pause", '{"grup": "slow"}', 400, "grup is none of group"),
        ("pause", '{"group": null}', 400, "group must be a text"),
        ("pause", '{"group": "\\ud800"}', 400, "group must be a text"),
        ("pause", "[" * 4000, 400, "allowed is a JSON object"),
        ("replay", '{"queue": "nobody"}', 409, NO_QUEUE),
        ("drain", "{}", 400, "worker is missing"),
        ("drain", '{"worker": "a@b"}', 409, "no worker named 'a@b'; there are none"),
        ("purge", '{"queue": "mails"}', 400, "queue 'mails' has no dead letters"),
        ("replay", '{"queue": "mails"}', 400, "queue 'mails' has no dead letters"),
    ],
)  # fmt: skip
def test_a_wrong_wish_is_refused_in_words(
    supervise: Supervise, action: str, body: str, status: int, error: str
) -> None:
    client = Client(supervise())
    wait_for(lambda: supervise.supervisor.status.get("groups"), "it has not looked")

    assert client.wish(action, body) == (status, {"error": error})


def test_only_so_many_pages_are_open_and_a_closed_one_makes_room(supervise: Supervise) -> None:
    client = Client(supervise())

    with ExitStack() as stack:
        for _ in range(READERS):
            connection = http.client.HTTPConnection(urlsplit(client.base).netloc, timeout=10)
            stack.callback(connection.close)
            connection.request("GET", "/events")
            assert connection.getresponse().status == 200
        assert client.ask("/events")[0] == 503
    room = http.client.HTTPConnection(urlsplit(client.base).netloc, timeout=10)
    with closing(room):

        def is_open() -> bool:
            room.close()
            room.request("GET", "/events")
            return room.getresponse().status == 200

        wait_for(is_open, "no place was given back")


# --- History -------------------------------------------------------------------------------------------


def test_history_is_written_by_one_supervisor_and_read_back(app: Celery, redis: Redis) -> None:
    made = [
        Supervisor(app, "proj", Settings(groups=GROUPS, hostname=host, memory_threshold=1)) for host in "ab"
    ]
    app.send_task("t", queue="mails", ignore_result=True)
    # With its first look a supervisor sees nobody yet, not even itself.
    for _ in range(3):
        for supervisor in made:
            supervisor.tick()
            # The next look is one for another record.
            supervisor.publisher.recorder._slot -= 1
    for supervisor in made:
        supervisor.launcher.close()

    found = history.read(connect(app), 3600)

    assert redis.xlen("fleet:history") == 2
    assert found["default"]["waiting"] == [1, 1]
    assert found["slow"]["max_workers"] == [3, 3]


def test_failures_of_all_hosts_are_counted_by_task() -> None:
    hosts = {"here": {"failures": {"t": 4, "proj.resize": 1}}, "there": {"failures": {"proj.resize": 2}}}

    assert failures(fleet_status.FleetStatus(hosts)) == {"proj.resize": 3, "t": 4}


def test_of_a_long_time_the_worst_is_shown(app: Celery, redis: Redis) -> None:
    begin = int(time.time()) // 240 * 240 - 4800
    for number in range(48):
        redis.xadd(
            "fleet:history", {"default": f"1 0 0 4 {number} 0.5"}, id=f"{(begin + 10 * number) * 1000}-0"
        )

    found = history.read(connect(app), 86400, 360)["default"]

    assert found["waiting"] == [23, 47]


def test_a_day_of_history_is_bounded_and_small(app: Celery, redis: Redis) -> None:
    broker = connect(app)
    with broker.client.pipeline(transaction=False) as pipe:
        for number in range(history.RECORDS + 1000):
            record = {"default": f"12 1 0 40 {number} {number % 97 / 10:.4g}"}
            pipe.xadd(broker.keys.history, record, maxlen=history.RECORDS, approximate=True)
        pipe.execute()

    assert history.RECORDS <= redis.xlen("fleet:history") <= history.RECORDS + 100
    size: Any = redis.memory_usage("fleet:history", samples=0)
    assert 0 < size < 600_000


# --- All of it -----------------------------------------------------------------------------------------


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
            picture(opened, "page-desk.png")
            phone = open_page(
                "http://127.0.0.1:19541/", viewport={"width": 390, "height": 844}, color_scheme="dark"
            )
            phone.verdict("Falling behind")
            wide = phone.page.evaluate("document.documentElement.scrollWidth")
            picture(phone, "page-phone.png", full_page=True)
        assert supervisor.process.poll() is None

    assert paint < 1000
    assert sum(opened.sizes) < 150_000
    assert wide == 390


def picture(opened: Opened, name: str, **options: Any) -> None:
    """Keep a picture of a page for people to look at."""
    CACHE.mkdir(exist_ok=True)
    # The next figures are there, and with them the rates.
    opened.page.wait_for_timeout(1500)
    opened.page.screenshot(path=CACHE / name, **options)


def made_up_hour(redis: Redis) -> None:
    """Write an hour of records with two bursts."""
    now = int(time.time())
    for at in range(now - 3600, now - 10, history.EVERY):
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
