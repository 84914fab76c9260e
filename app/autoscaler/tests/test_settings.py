"""The environment alone suffices; a file gives more; whatever is wrong is told in one line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery
from celery_autoscaler.protocol.description import describe
from celery_autoscaler.settings import CONFIG_VARIABLE, Group, Settings, SettingsError, load
from kombu import Queue

OURS = ("MIN_WORKERS", "MAX_WORKERS", "CPU_THRESHOLD", "MEMORY_THRESHOLD", "QUEUE_THRESHOLD", CONFIG_VARIABLE)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing of this process's environment be a setting."""
    for name in OURS:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def app() -> Iterator[Celery]:
    """Return an app with two queues; nothing connects."""
    with Celery("proj", broker="redis://nowhere.invalid", set_as_current=False) as made:
        made.conf.task_queues = [Queue("mails"), Queue("reports")]
        yield made


@pytest.fixture
def read(app: Celery, tmp_path: Path) -> Reader:
    """Return a function that reads settings from a file."""
    return Reader(app, tmp_path / "autoscaler.toml")


class Reader:
    """Reads settings from a file."""

    def __init__(self, app: Celery, path: Path) -> None:
        self.app, self.path = app, path

    def __call__(self, content: str) -> Settings:
        """Return the settings of a file with this content."""
        self.path.write_text(content)
        return load(describe(self.app, "proj"), str(self.path))

    def refusal(self, content: str) -> str:
        """Return what is said against a file with this content, without its path."""
        with pytest.raises(SettingsError) as refused:
            self(content)
        return refused.value.message.removeprefix(f"{self.path}: ")


# --- The environment -----------------------------------------------------------------------------------


def test_without_any_setting_one_group_serves_all_queues(app: Celery) -> None:
    settings = load(describe(app, "proj"))

    assert settings.groups == {"default": Group(name="default", queues=("mails", "reports"))}
    assert (settings.launcher, settings.tick, settings.http) == ("process", 1.0, "127.0.0.1:9541")
    assert settings.host == os.uname().nodename


def test_an_app_without_queues_of_its_own_has_celerys() -> None:
    with Celery("plain", broker="redis://nowhere.invalid", set_as_current=False) as plain:
        assert load(describe(plain, "proj")).groups["default"].queues == ("celery",)


def test_the_environment_alone_suffices(app: Celery, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(OURS, ("2", "7", "70", "75.5", "300"), strict=False):
        monkeypatch.setenv(name, value)

    settings = load(describe(app, "proj"))

    group = settings.groups["default"]
    assert (group.min_workers, group.max_workers) == (2, 7)
    assert (settings.cpu_threshold, settings.memory_threshold, settings.queue_threshold) == (70, 75.5, 300)


def test_the_app_says_how_many_slots_a_worker_has(app: Celery) -> None:
    app.conf.update(worker_concurrency=6, worker_pool="threads")

    group = load(describe(app, "proj")).groups["default"]

    assert (group.concurrency, group.pool) == (6, "threads")


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("MAX_WORKERS", "many", "MAX_WORKERS='many' is wrong: allowed is a whole number from 1 to 10000"),
        ("MAX_WORKERS", "0", "MAX_WORKERS=0 is wrong: allowed is a whole number from 1 to 10000"),
        ("MIN_WORKERS", "1.5", "MIN_WORKERS=1.5 is wrong: allowed is a whole number from 0 to 10000"),
        ("MIN_WORKERS", "", "MIN_WORKERS='' is wrong: allowed is a whole number from 0 to 10000"),
        ("CPU_THRESHOLD", "101", "CPU_THRESHOLD=101 is wrong: allowed is a number from 1 to 100 percent"),
        (
            "MEMORY_THRESHOLD",
            "nan",
            "MEMORY_THRESHOLD=nan is wrong: allowed is a number from 1 to 100 percent",
        ),
        (
            "QUEUE_THRESHOLD",
            "-1",
            "QUEUE_THRESHOLD=-1 is wrong: allowed is a whole number from 1 to 1000000000",
        ),
        ("MIN_WORKERS", "11", "min_workers=11 is wrong: allowed is at most max_workers=10"),
    ],
)
def test_a_wrong_variable_is_named_with_its_value_and_what_is_allowed(
    app: Celery, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, words: str
) -> None:
    monkeypatch.setenv(variable, value)

    with pytest.raises(SettingsError) as refused:
        load(describe(app, "proj"))

    assert refused.value.message == words


# --- The file ------------------------------------------------------------------------------------------

FULL = """
launcher = "systemd"
tick = 0.5
stabilisation = 0
cpu_threshold = 80
memory_threshold = 70
queue_threshold = 500
hostname = "web-1"
capacity = 4
http = "0.0.0.0:9541"
token_file = "/etc/celery/token"

[groups.mails]
queues = ["mails"]
pool = "threads"
concurrency = 20
target_wait = 2
min_workers = 0
max_workers = 3
drain_timeout = 30
options = { max_tasks_per_child = 100 }

[groups.slow-reports]
queues = ["reports", "reports.late"]

[pages]
shop = "127.0.0.1:9542"
"""


def test_a_file_gives_groups_and_all_else(read: Reader) -> None:
    settings = read(FULL)

    assert settings.host == "web-1"
    assert (settings.tick, settings.stabilisation, settings.capacity) == (0.5, 0, 4)
    assert settings.groups["mails"] == Group(
        name="mails", queues=("mails",), pool="threads", concurrency=20, target_wait=2, min_workers=0,
        max_workers=3, drain_timeout=30, options={"max_tasks_per_child": 100},
    )  # fmt: skip
    assert settings.pages == {"shop": "127.0.0.1:9542"}
    assert settings.groups["slow-reports"] == Group(name="slow-reports", queues=("reports", "reports.late"))


def test_the_file_wins_over_the_environment(read: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MAX_WORKERS", "7")
    monkeypatch.setenv("CPU_THRESHOLD", "50")

    settings = read(
        'cpu_threshold = 60\n[groups.a]\nqueues = ["a"]\nmax_workers = 3\n[groups.b]\nqueues = ["b"]'
    )

    assert settings.cpu_threshold == 60
    assert [group.max_workers for group in settings.groups.values()] == [3, 7]


def test_a_file_without_groups_keeps_the_one_for_all_queues(read: Reader) -> None:
    assert list(read("tick = 2").groups) == ["default"]


def test_least_and_most_make_workers_stretch(read: Reader) -> None:
    [group] = read(f"{ONE}concurrency = [2, 16]").groups.values()
    assert (group.concurrency, group.max_concurrency) == (2, 16)
    [group] = read(f"{ONE}concurrency = [3, 3]").groups.values()
    assert (group.concurrency, group.max_concurrency) == (3, 0)
    [group] = read(f'{ONE}pool = "gevent"\nconcurrency = [2, 16]').groups.values()
    assert group.max_concurrency == 16


def test_a_variable_names_the_file(app: Celery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "named.toml"
    path.write_text("tick = 2")
    monkeypatch.setenv(CONFIG_VARIABLE, str(path))

    assert load(describe(app, "proj")).tick == 2


ONE = '[groups.a]\nqueues = ["a"]\n'
WHOLE = "a whole number from 1 to 10000"
CONCURRENCY = f"{WHOLE}, or a least and a most, such as [2, 16]"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('launcher = "docker"', "launcher='docker' is wrong: allowed is process or systemd"),
        ("tick = 0", "tick=0 is wrong: allowed is a number from 0.1 to 60 seconds"),
        ('tick = "1"', "tick='1' is wrong: allowed is a number from 0.1 to 60 seconds"),
        ("tick = true", "tick=True is wrong: allowed is a number from 0.1 to 60 seconds"),
        ("stabilisation = -1", "stabilisation=-1 is wrong: allowed is a number from 0 to 86400 seconds"),
        ("capacity = -1", "capacity=-1 is wrong: allowed is a number from 0 to 100000"),
        ('hostname = "a b"', "hostname='a b' is wrong: allowed is letters, digits, '_', '.', ':' and '-'"),
        ('http = "9541"', "http='9541' is wrong: allowed is host:port, unix:/path, or nothing"),
        ("token_file = 5", "token_file=5 is wrong: allowed is text in one line"),
        ("groups = 5", "groups must be tables, such as [groups.general]"),
        ("[groups]\na = 5", "groups must be tables, such as [groups.general]"),
        (f"{ONE}max_workers = 0", f"groups.a.max_workers=0 is wrong: allowed is {WHOLE}"),
        (f"{ONE}concurrency = 1.5", f"groups.a.concurrency=1.5 is wrong: allowed is {CONCURRENCY}"),
        (f"{ONE}concurrency = [4, 2]", f"groups.a.concurrency=[4, 2] is wrong: allowed is {CONCURRENCY}"),
        (
            f"{ONE}concurrency = [1, 2, 3]",
            f"groups.a.concurrency=[1, 2, 3] is wrong: allowed is {CONCURRENCY}",
        ),
        (
            f'{ONE}pool = "threads"\nconcurrency = [1, 2]',
            "groups.a.concurrency=[1, 2] is wrong: allowed is one number with pool=threads; only prefork and "
            "gevent can have a least and a most",
        ),
        (
            f"{ONE}concurrency = [1, 2]\noptions.autoscale = '2,1'",
            "groups.a.concurrency=[1, 2] is wrong: allowed is one number beside options.autoscale",
        ),
        (
            f"{ONE}target_wait = 0",
            "groups.a.target_wait=0 is wrong: allowed is a number from 0.1 to 86400 seconds",
        ),
        (
            f'{ONE}pool = "fork"',
            "groups.a.pool='fork' is wrong: allowed is prefork or threads or gevent or eventlet or solo",
        ),
        (f"{ONE}min_workers = 11", "groups.a.min_workers=11 is wrong: allowed is at most max_workers=10"),
        (
            "[groups.a]\nqueues = []",
            "groups.a.queues=[] is wrong: allowed is a list of queue names, at least one",
        ),
        (
            '[groups.a]\nqueues = "a"',
            "groups.a.queues='a' is wrong: allowed is a list of queue names, at least one",
        ),
        (
            '[groups.a]\nqueues = ["a,b"]',
            "groups.a.queues=['a,b'] is wrong: allowed is a list of queue names, at least one",
        ),
        (
            f"{ONE}options = {{ x = [1] }}",
            "groups.a.options={'x': [1]} is wrong: allowed is a table of options of `celery worker`, such as "
            "max_tasks_per_child = 100",
        ),
        (
            '[groups.Big]\nqueues = ["a"]',
            "'Big' cannot be the name of a group; allowed are lower case letters, digits, '_' and inner '-', "
            "a letter first",
        ),
        (
            f'{ONE}[groups.b]\nqueues = ["b", "a"]',
            "queue 'a' belongs to the groups a and b; allowed is one group a queue",
        ),
        (
            f'{ONE}[pages]\nshop = "nowhere"',
            "pages={'shop': 'nowhere'} is wrong: allowed is a table of projects and addresses, such as "
            'shop = "127.0.0.1:9542"',
        ),
        (
            "max_worker = 5",
            "max_worker is not a setting; there are: capacity, cpu_threshold, hostname, http, launcher, "
            "memory_threshold, pages, queue_threshold, read_token_file, stabilisation, start_timeout, tick, "
            "token_file",
        ),
        (
            f"{ONE}max_worker = 5",
            "groups.a.max_worker is not a setting; there are: concurrency, drain_timeout, max_workers, "
            "memory_max, min_workers, options, pool, queues, target_wait",
        ),
        (f"{ONE}promise = 5", "groups.a.promise is named target_wait now"),
        ("tick = ", "Invalid value (at end of document)"),
    ],
)
def test_whatever_is_wrong_is_told_in_one_line(read: Reader, content: str, words: str) -> None:
    assert read.refusal(content) == words


def test_each_group_needs_queues(read: Reader) -> None:
    assert read.refusal("[groups.a]\nmax_workers = 2") == (
        "groups.a.queues=[] is wrong: allowed is a list of queue names, at least one"
    )


def test_a_file_that_cannot_be_read_is_named(app: Celery, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as refused:
        load(describe(app, "proj"), str(tmp_path / "gone.toml"))

    assert refused.value.message == f"{tmp_path}/gone.toml: No such file or directory"


def test_a_file_in_another_encoding_is_named(app: Celery, tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes('hostname = "\xe9"'.encode("latin-1"))

    with pytest.raises(SettingsError, match=r"latin\.toml: 'utf-8' codec can't decode"):
        load(describe(app, "proj"), str(path))
