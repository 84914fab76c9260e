"""What Celery's command line, settings and signals offer works with our workers, or is refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from celery_autoscaler.consuming import app_settings
from celery_autoscaler.protocol.orphan_guard import DRAIN_VARIABLE, SOFT_SHUTDOWN, SUPERVISOR_VARIABLE
from celery_autoscaler.protocol.tallies import PUBLISHED
from support.processes.counted_tasks import SHORT_LEASE, Fleet
from support.processes.launched_workers import APP, LaunchedProcess
from support.processes.process import clean_environment
from support.processes.services import wait_for

MORE = '''

# A module of the standard library that has a namesake in our package.
import http.client

from celery.signals import before_task_publish
from celery.worker.consumer import Consumer


class Own(Consumer):
    """A consumer of the app's own."""

    def on_ready(self):
        counts.set("own consumer", self.ledger.worker_id)
        return super().on_ready()


@before_task_publish.connect
def _stamp(headers, **_):
    headers.setdefault("published_at", "the app's own")


@app.task(bind=True, name="single.child")
def child(task):
    """Say what the process has that runs the task, and publish another task."""
    count.apply_async(headers={"mine": 1})
    return type(app.backend).__module__


@app.task(bind=True, name="single.headers")
def headers(task):
    """Publish a task into a queue that nobody consumes."""
    count.apply_async(queue="kept", headers={"published_at": "long ago"})
'''


@pytest.fixture
def fleet(redis_url: str, tmp_path: Path) -> Iterator[Fleet]:
    """Return a fleet of an app that imports and overrides more than the least."""
    (tmp_path / "single.py").write_text(APP + MORE)
    settings = {"task_ignore_result": False}
    with Fleet(tmp_path, redis_url, None, settings, lease=SHORT_LEASE) as made:
        yield made
        print(made.tails())  # noqa: T201  pytest shows it with a failure only


def ours(fleet: Fleet) -> list[str] | None:
    """Return the ids of the workers that hold a lease, if there are any."""
    found = [key.partition("worker:")[2] for key in fleet.tasks.redis.scan_iter(match="fleet:worker:*")]
    return found or None


def environment(fleet: Fleet, **variables: str) -> dict[str, str]:
    """Return the environment of a command that is no worker of the fleet's yet."""
    return {
        "SETTINGS": json.dumps(fleet.settings),
        "COUNTS": fleet.counts_url,
        "CELERY_APP_LEASE": str(fleet.lease),
        # Of running as root.
        "PYTHONWARNINGS": "ignore",
        **variables,
    }


def run(fleet: Fleet, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a command of Celery's with the launcher until it ends."""
    return subprocess.run(
        [sys.executable, "-m", "celery_autoscaler.launch", *arguments],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        cwd=fleet.folder,
        env=clean_environment()
        | {"BROKER": fleet.broker_url, "PYTHONPATH": os.pathsep.join([str(fleet.folder), *sys.path])}
        | environment(fleet, **variables),
    )


def end(pidfile: Path) -> None:
    """End a detached worker and wait until it is gone."""
    with suppress(FileNotFoundError, ProcessLookupError):
        os.kill(int(pidfile.read_text()), signal.SIGTERM)
        wait_for(lambda: not pidfile.exists(), "the detached worker has not ended")


def begin(fleet: Fleet, *options: str, **variables: str) -> LaunchedProcess:
    """Start a worker with more in its environment than a fleet's have; wait until it consumes."""
    command = ("celery_autoscaler.launch", "-A", "single", "worker", "-c", "1", "-l", "INFO", *options)
    worker = LaunchedProcess(
        fleet.folder, fleet.broker_url, *command, environment=environment(fleet, **variables)
    )
    try:
        worker.wait_for_output(r"ready\.", 60.0)
    except Exception:
        worker.kill()
        raise
    return worker


@pytest.mark.parametrize("log_format", ["plain", "json"])
def test_sighup_starts_the_worker_again_with_the_launcher(fleet: Fleet, log_format: str) -> None:
    # As under a supervisor, whose end it would notice.
    supervisor = {SUPERVISOR_VARIABLE: str(os.getpid()), DRAIN_VARIABLE: "20"}
    worker = begin(fleet, LOG_FORMAT=log_format, **supervisor)
    try:
        (first,) = wait_for(lambda: ours(fleet), "no lease")

        worker.process.send_signal(signal.SIGHUP)
        wait_for(lambda: worker.output().count("ready.") == 2, worker.tail)
        fleet.tasks.wait_until_ended(fleet.tasks.send(3))

        proc = Path(f"/proc/{worker.process.pid}")
        command = (proc / "cmdline").read_text().split("\0")
        assert command[1:3] == ["-m", "celery_autoscaler.launch"]
        assert command.count("--quiet") == 0
        variables = (proc / "environ").read_text().split("\0")
        assert {f"{name}={value}" for name, value in supervisor.items()} <= set(variables)
        (second,) = wait_for(lambda: ours(fleet), "no lease")
        assert second != first
        assert worker.stop() == 0
    finally:
        worker.kill()


def test_a_detached_worker_loses_nothing_either(fleet: Fleet) -> None:
    pidfile = fleet.folder / "detached.pid"
    log = fleet.folder / "detached.log"
    options = ("-c", "1", "--pidfile", str(pidfile), "--logfile", str(log), "-n", "detached@here")
    try:
        done = run(fleet, "-A", "single", "worker", "--detach", *options)
        assert done.returncode == 0, done.stderr
        fleet.tasks.wait_until_ended(fleet.tasks.send(2))
        wait_for(lambda: ours(fleet), log.read_text)
    finally:
        end(pidfile)

    refused = run(fleet, "-A", "single", "worker", "-D", *options, NOTIFY_SOCKET=str(fleet.folder / "socket"))
    assert refused.returncode == 1
    assert refused.stderr.startswith("--detach is refused")
    assert refused.stderr.count("\n") == 1


def test_celery_multi_starts_workers_that_lose_nothing(fleet: Fleet) -> None:
    folder = fleet.folder
    options = ("-A", "single", f"--pidfile={folder}/%n.pid", f"--logfile={folder}/%n.log", "-c", "1")
    try:
        started = run(fleet, "multi", "start", "one@here", *options)
        assert started.returncode == 0, started.stdout + started.stderr
        fleet.tasks.wait_until_ended(fleet.tasks.send(2))
        wait_for(lambda: ours(fleet), (folder / "one.log").read_text)
        stopped = run(fleet, "multi", "stopwait", "one@here", *options)
        assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    finally:
        end(folder / "one.pid")
    assert not ours(fleet)


def test_a_module_of_the_app_takes_precedence_however_the_launcher_is_run(fleet: Fleet) -> None:
    (fleet.folder / "logs.py").write_text("print('the logs of the app')\n")
    launcher = str(Path(app_settings.__file__).parents[1] / "launch.py")
    program = "import runpy, sys; sys.path[0] = sys.argv[0].rpartition('/')[0]; runpy.run_path(sys.argv[0])"

    for command in (
        [launcher, "-A", "single", "report"],
        ["-c", program.replace("sys.argv[0]", repr(launcher)) + "; import http.client, logs"],
    ):
        done = subprocess.run(
            [sys.executable, *command],
            check=False,
            capture_output=True,
            text=True,
            cwd=fleet.folder,
            env=clean_environment()
            | {"PYTHONPATH": os.pathsep.join([str(fleet.folder), *sys.path])}
            # The same sources as the test's, which are no script's neighbours.
            | environment(fleet, BROKER=fleet.broker_url),
        )
        assert done.returncode == 0, done.stderr
    assert "the logs of the app" in done.stdout


def test_a_consumer_of_the_app_runs_and_loses_nothing(fleet: Fleet) -> None:
    fleet.start(settings={"worker_consumer": "single:Own"}, name="owner")
    ids = fleet.tasks.send(2, 3.0)
    fleet.tasks.wait_until_started(ids)

    assert str(fleet.tasks.counts.get("own consumer")).startswith("owner@here:")
    assert sorted(fleet.tasks.held("owner")) == ids
    fleet.tasks.wait_until_ended(ids)


@pytest.mark.celery(5, 7)
def test_spawned_processes_have_what_forked_ones_have(fleet: Fleet) -> None:
    fleet.start("--pool-start-method", "spawn", concurrency=1)
    (task_id,) = fleet.tasks.send(1, name="child")

    result: Any = fleet.tasks.app.AsyncResult(task_id).get(30)
    assert result == "celery_autoscaler.consuming.results"


@pytest.mark.parametrize(
    "method", [[], pytest.param(["--pool-start-method", "spawn"], marks=pytest.mark.celery(5, 7))]
)
def test_headers_of_the_app_are_kept(fleet: Fleet, method: list[str]) -> None:
    fleet.start(*method, concurrency=1)
    fleet.tasks.send(1, name="headers")

    raw: Any = wait_for(lambda: fleet.tasks.redis.lindex("kept", 0), "nothing was published")
    headers = json.loads(raw)["headers"]
    assert headers["published_at"] == "long ago"
    assert isinstance(headers[PUBLISHED], float)


def test_a_message_may_say_anything_about_when_it_was_published(fleet: Fleet) -> None:
    worker = fleet.start()
    values: list[Any] = [float("nan"), float("inf"), 1e300, -1, True, "yesterday", [], {}, None]
    ids = [fleet.tasks.send(1, headers={PUBLISHED: value})[0] for value in values]

    fleet.tasks.wait_until_ended(ids)
    assert worker.stop() == 0
    assert "Traceback" not in worker.output()


def test_a_worker_prepared_by_hand_loses_nothing(fleet: Fleet) -> None:
    module = fleet.folder / "single.py"
    module.write_text(f"{module.read_text()}\n\nimport celery_autoscaler.worker\n")
    fleet.start(plain=True)
    fleet.tasks.wait_until_ended(fleet.tasks.send(2))

    wait_for(lambda: ours(fleet), "plain Celery runs")


def test_a_worker_says_what_it_cannot_do(fleet: Fleet) -> None:
    """Another broker, a pool of another project, settings that have no effect."""
    (fleet.folder / "pools.py").write_text(
        "from celery.concurrency.base import BasePool, apply_target\n\n\n"
        "class Pool(BasePool):\n"
        "    def on_apply(self, target, args=(), kwargs=None, callback=None, accept_callback=None, **_):\n"
        "        return apply_target(target, args, kwargs or {}, callback, accept_callback)\n"
    )
    command = ("celery_autoscaler.launch", "-A", "single", "worker", "-c", "1", "-n", "one@here")
    overruled = {"worker_cancel_long_running_tasks_on_connection_loss": True}
    other = LaunchedProcess(fleet.folder, "memory://", *command, environment=environment(fleet))
    custom = LaunchedProcess(
        fleet.folder,
        fleet.broker_url,
        *command,
        "-P",
        "custom",
        environment=environment(fleet)
        | {"SETTINGS": json.dumps(overruled), "CELERY_CUSTOM_WORKER_POOL": "pools:Pool"},
    )
    try:
        other.wait_for_output("The broker is no Redis .memory.: this is a worker of plain Celery")
        custom.wait_for_output("pools.Pool is none of Celery's pools")
        custom.wait_for_output("worker_cancel_long_running_tasks_on_connection_loss=True has no effect")
        fleet.tasks.wait_until_ended(fleet.tasks.send(2))
    finally:
        other.kill()
        custom.kill()


@pytest.mark.parametrize(
    ("variables", "settings", "said"),
    [
        (
            {"CELERY_APP_LEASE": "soon"},
            {},
            "CELERY_APP_LEASE='soon' is wrong: allowed is a number of seconds",
        ),
        ({"CELERY_APP_LEASE": "nan"}, {}, "CELERY_APP_LEASE='nan' is wrong"),
        ({}, {"worker_consumer": "collections:OrderedDict"}, "worker_consumer="),
    ],
)
def test_what_cannot_be_prepared_is_refused(
    fleet: Fleet, variables: dict[str, str], settings: dict[str, Any], said: str
) -> None:
    done = run(fleet, "-A", "single", "worker", **{"SETTINGS": json.dumps(settings), **variables})

    assert done.returncode == 1
    assert done.stderr.startswith(said), done.stderr
    assert done.stderr.count("\n") == 1


def test_what_the_app_sets_stays() -> None:
    app = Celery(set_as_current=False)
    app.conf.update(
        worker_soft_shutdown_timeout=0,
        broker_connection_max_retries=3,
        result_backend_always_retry=False,
        worker_enable_prefetch_count_reduction=True,
    )
    lines = app_settings.prepare(app.conf)

    assert app.conf.worker_soft_shutdown_timeout == 0
    assert app.conf.broker_connection_max_retries == 3
    assert app.conf.result_backend_always_retry is False
    assert app.conf.result_backend_base_sleep_between_retries_ms == 500
    assert app.conf.worker_enable_prefetch_count_reduction is False
    (line,) = lines
    assert line.startswith("worker_enable_prefetch_count_reduction=True has no effect: ")


def test_what_the_app_leaves_open_is_set() -> None:
    app = Celery(set_as_current=False)

    assert app_settings.prepare(app.conf) == []
    assert app.conf.worker_soft_shutdown_timeout == SOFT_SHUTDOWN
    assert app.conf.broker_connection_max_retries is None
