"""The stack of compose.yaml as a developer uses it, from nothing to nothing."""

from __future__ import annotations

import json
import re
import time
import urllib.error
from collections.abc import Iterator
from functools import partial

import pytest
from docker.models.containers import Container
from support.background import repeating
from support.processes.compose_stack import LABEL, NAME, Stack, edit
from support.processes.services import wait_for
from support.role_files import CHECKOUT

# Seconds: the workers are as few as before, that is the stabilisation of 20 s for some steps, thrice.
SHRUNK_WITHIN = 240.0
# Where CPUs are short no worker is started, and the supervisor gives a replacement up after 180 s.
REPLACED_WITHIN = 240.0
# Prints what an environment holds.
INSTALLED = """
import importlib.metadata, json
print(json.dumps([found.name.lower().replace("_", "-") for found in importlib.metadata.distributions()]))
"""
# The file of the example project that is edited.
SOURCE = "src/tasks/default.py"


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """A stack from nothing."""
    found = Stack()
    # As the name of a package that the supervisor needs: no module of a project is seen there.
    (found.project / "src/rich.py").write_text('raise ImportError("of the project")', encoding="utf-8")
    found.down()
    found.up()
    try:
        yield found
    finally:
        found.down()


def test_services_run_with_few_rights(stack: Stack) -> None:
    for container in stack.containers():
        service = container.labels["com.docker.compose.service"]
        config = container.attrs["HostConfig"]
        assert container.attrs["Config"]["User"] not in ("", "root", "0"), service
        assert config["ReadonlyRootfs"], service
        assert config["CapDrop"] == ["ALL"], service
        assert not config["CapAdd"], service
        assert config["Memory"], service
        for bindings in container.ports.values():
            assert {binding["HostIp"] for binding in bindings or ()} <= {"127.0.0.1"}, service


def test_no_password_can_be_seen_from_outside(stack: Stack) -> None:
    passwords = stack.run("worker", "cat", "/secrets/environment", "/secrets/token")
    words = set(re.findall(r"\b[A-Za-z0-9]{32}\b", passwords))
    # Of Redis, of PostgreSQL, of the page.
    assert len(words) == 3
    for container in stack.containers(all=True):
        processes = [container.top()] if container.status == "running" else []
        shown = json.dumps([container.attrs, processes]) + container.logs().decode()
        assert not [word for word in words if word in shown], container.name


def test_a_service_cannot_read_what_is_not_its_own(stack: Stack) -> None:
    files = {
        "redis": ["operator", "users.acl"],
        "worker": ["environment", "read-token", "token"],
        "beat": ["environment"],
        "flower": ["environment"],
        "prometheus": ["read-token"],
    }
    for service, wanted in files.items():
        assert stack.run(service, "sh", "-c", "ls /secrets").split() == wanted, service
    database = re.search(r"DB_PASSWORD:=(\w+)", stack.run("worker", "cat", "/secrets/environment"))
    assert database is not None
    assert database[1] in stack.run("beat", "cat", "/secrets/environment")
    flower = stack.run("flower", "sh", "-c", "cat /secrets/environment; env")
    assert database[1] not in flower
    assert "DB_" not in flower


@pytest.mark.parametrize(
    ("python", "ours", "lock"),
    [
        ("/opt/app/bin/python", "celery-autoscaler-worker", "app/tasks/requirements.txt"),
        ("/opt/supervisor/bin/python", "celery-autoscaler", "app/autoscaler/requirements.txt"),
    ],
)
def test_an_environment_holds_what_its_lock_names(stack: Stack, python: str, ours: str, lock: str) -> None:
    installed = set(json.loads(stack.run("worker", python, "-E", "-c", INSTALLED)))
    locked = set(re.findall(r"^([a-z0-9-]+)==", (CHECKOUT / lock).read_text(encoding="utf-8"), re.MULTILINE))
    assert installed & {"celery-autoscaler", "celery-autoscaler-worker"} == {ours}
    assert installed - locked <= {ours, "tasks"}


def test_operators_name_no_app(stack: Stack) -> None:
    assert "Groups" in stack.run("worker", "fleet", "status")


def test_the_page_wants_its_token(stack: Stack) -> None:
    token = stack.run("worker", "cat", "/secrets/token")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        stack.get("/status")
    assert json.loads(stack.get("/status", token))["state"] == "supervising"
    assert "celery_autoscaler_workers" in stack.get("/metrics", token)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("MIN_WORKERS=abc", "MIN_WORKERS=abc is wrong: allowed is a whole number from 0 to 10000"),
        ("CELERY_APP=nosuch", "CELERY_APP=nosuch is wrong: ModuleNotFoundError: No module named 'nosuch'"),
        ("CELERY_BROKER_URL=redis://nosuch", "CELERY_BROKER_URL: nosuch:6379 does not answer: "),
    ],
)
def test_a_wrong_setting_is_refused_and_replaces_nothing(stack: Stack, setting: str, words: str) -> None:
    before = {container.id: container.attrs["State"]["StartedAt"] for container in stack.containers()}
    line = stack.refused(setting)
    assert line.startswith(f"compose: {words}"), line
    after = {container.id: container.attrs["State"]["StartedAt"] for container in stack.containers()}
    assert after == before


def test_a_stack_that_cannot_start_says_why_and_fails(stack: Stack) -> None:
    line = stack.refused("MIGRATE_COMMAND=python -c 'exit(\"no such table\")'", started=True)
    assert line == "compose: migrate: no such table"
    stack.up()


def test_prometheus_and_flower_see_the_workers(stack: Stack) -> None:
    def scraped() -> bool:
        targets = json.loads(stack.get("/api/v1/targets", service="prometheus", port=9090))["data"]
        return [target["health"] for target in targets["activeTargets"]] == ["up"]

    [worker] = stack.supervisors()
    wait_for(scraped, "Prometheus does not see the supervisor", 60)
    wait_for(
        lambda: f"@{worker}" in stack.get("/workers?refresh=1", service="flower", port=5555),
        "Flower knows no worker",
        60,
    )


def test_beat_runs_and_the_database_has_its_tables(stack: Stack) -> None:
    stack.says("beat", "Acquired lock")
    assert "sessions" in stack.run("postgres", "psql", "--dbname=celery", "--command=\\dt")


def test_the_workers_follow_the_load_and_run_each_task_once(stack: Stack) -> None:
    ids = stack.send("tasks.io_intensive.wait", 0.1, trace_key="burst", count=1000)
    most = 0
    with stack.redis() as client:

        def done() -> bool:
            nonlocal most
            most = max(most, stack.workers())
            return int(client.llen("burst:ended")) >= len(ids)

        wait_for(done, "the burst was not worked off", 120)
    ran = stack.executions("burst", ids)
    assert ran.exactly_once, ran
    assert most >= 4
    wait_for(lambda: stack.workers() == 1, "the workers were not as few as before", SHRUNK_WITHIN)


def test_a_demo_keeps_its_target_or_says_why_not(stack: Stack) -> None:
    said = stack.demo()
    assert re.search(r"(\d+) of \1 tasks ended; workers: ", said), said
    assert "Target wait 10 s: kept." in said or re.search(r"exceeded\. .*\n  for \d+ s: ", said), said


def test_a_burst_exceeds_the_maximum_and_the_demo_says_so(stack: Stack) -> None:
    said = stack.demo("--burst", "--count", "300")
    assert "Target wait 10 s: exceeded." in said, said
    # Where other tests keep the CPUs busy, these are full first.
    limits = r"limited by max_workers = 6 \(MAX_WORKERS\)|held back by CPU \(CPU_THRESHOLD\)"
    assert re.search(rf"  for \d+ s: ({limits})", said), said


def test_an_edited_task_is_used_and_running_ones_are_not_lost(stack: Stack) -> None:
    long = stack.send("tasks.io_intensive.wait", 6, trace_key="long")
    with stack.redis() as client:
        wait_for(lambda: client.llen("long:started") or None, "the long task did not begin")
    edit(stack.project / SOURCE, "        return value\n", "        return ['edited', value]\n")
    stack.says("worker", "default.py changed: replacing the workers")
    stack.says("worker", "1 of 1 workers replaced", REPLACED_WITHIN)
    assert stack.result(*stack.send("tasks.default.echo", 1)) == ["edited", 1]
    ran = stack.executions("long", long)
    assert ran.exactly_once, ran


def test_an_edit_that_does_not_import_leaves_the_workers_as_they_are(stack: Stack) -> None:
    edit(stack.project / SOURCE, "import annotations\n", "import annotations\n\nnonsense = \n")
    stack.says("worker", "The workers keep the previous sources", REPLACED_WITHIN)
    assert stack.result(*stack.send("tasks.default.echo", 2)) == ["edited", 2]
    edit(stack.project / SOURCE, "\nnonsense = \n", "")


def test_a_killed_container_loses_no_task(stack: Stack) -> None:
    ids = stack.send("tasks.io_intensive.wait", 0.5, trace_key="killed", count=200)
    with stack.redis() as client:
        wait_for(lambda: client.llen("killed:ended") >= 20, "the tasks do not run", 120)
        stack.containers("worker")[0].kill()
        assert client.llen("killed:ended") < len(ids)
    stack.up()
    ran = stack.executions("killed", ids)
    assert not ran.lost, ran
    # Those that ran when it was killed; no more workers than that there were.
    assert len(ran.started_again) <= 6, ran


def test_two_supervisors_share_the_load_and_one_leaves_in_order(stack: Stack) -> None:
    stack.up("--scale", "worker=2")
    wait_for(lambda: len(stack.supervisors()) == 2, "there are no two supervisors", 60)
    send = partial(stack.send, "tasks.io_intensive.wait", 0.5, trace_key="shared")
    ids = send(count=300)
    wait_for(
        lambda: all(
            any(worker["active"] for worker in found["workers"]) for found in stack.supervisors().values()
        ),
        lambda: f"one of them has no worker that works: {stack.status()}",
        120,
    )
    assert sum(len(found["workers"]) for found in stack.supervisors().values()) <= 6
    # Until it has left, however long that takes.
    with repeating(lambda: ids.extend(send(count=30, service="beat")), rate=0.5):
        stack.up("--scale", "worker=1")
    with stack.redis() as client:
        assert client.llen("shared:ended") < len(ids)
    ran = stack.executions("shared", ids)
    assert ran.exactly_once, ran


def test_any_container_may_crash_alone_or_with_all_others_and_keeps_its_data(stack: Stack) -> None:
    with stack.redis() as client:
        client.set("kept", "yes")
        # While a sync of its file takes long, Redis keeps up to two seconds in memory, which a crash loses.
        wait_for(lambda: not client.info("persistence")["aof_buffer_length"], "Redis does not write")
    services = ["redis", "postgres", "worker", "beat", "prometheus", "flower"]
    for crashed in [*([service] for service in services), services]:
        containers = [stack.containers(service)[0] for service in crashed]
        for container in containers:
            container.kill()
        # As after a reboot: nobody sees to the order.
        for container in reversed(containers):
            container.start()
        for container in containers:
            wait_for(partial(runs, container), f"{crashed}: {container.name} does not run", 120)
        assert stack.result(*stack.send("tasks.default.echo", 3)) in (3, ["edited", 3]), crashed
    with stack.redis() as client:
        assert client.get("kept") == "yes"
    assert "sessions" in stack.run("postgres", "psql", "--dbname=celery", "--command=\\dt")


def test_a_stop_lets_tasks_finish_and_keeps_the_data(stack: Stack) -> None:
    long = stack.send("tasks.io_intensive.wait", 5, trace_key="stopped")
    with stack.redis() as client:
        wait_for(lambda: client.llen("stopped:started") or None, "the long task did not begin")
    stack.stop()
    assert not stack.containers()
    stack.up()
    with stack.redis() as client:
        assert client.lrange("stopped:started", 0, -1) == client.lrange("stopped:ended", 0, -1) == long


def test_all_containers_may_be_restarted_at_once(stack: Stack) -> None:
    # Without those that do their work once and end, which are restarted too.
    started = {container: container.attrs["State"]["StartedAt"] for container in stack.containers()}
    stack.compose("restart", "--timeout", "20")
    for container, before in started.items():
        wait_for(partial(runs, container), f"{container.name} does not run", 120)
        assert container.attrs["State"]["StartedAt"] != before, container.name
    assert stack.result(*stack.send("tasks.default.echo", 4)) in (4, ["edited", 4])


def runs(container: Container) -> bool:
    """Whether a container runs and, where it can say so, is healthy."""
    container.reload()
    state = container.attrs["State"]
    return bool(state["Running"]) and state.get("Health", {"Status": "healthy"})["Status"] == "healthy"


def test_down_leaves_nothing(stack: Stack) -> None:
    begin = time.monotonic()
    stack.down()
    assert time.monotonic() - begin < 180
    label = {"label": f"{LABEL}={NAME}"}
    assert not stack.containers(all=True)
    assert not stack.docker.volumes.list(filters=label)
    assert not stack.docker.networks.list(filters=label)
