"""Projects that are none of ours: tasks are executed, schedules kept, workers follow the load."""

import json
import re
import time
from typing import Any

from support.hosts.scenario import Scenario
from support.hosts.secrets_scan import assert_no_secrets
from support.processes.services import wait_for
from testinfra.host import Host

testinfra_hosts = ["ansible://redis"]
units = ["celery*-beat", "celery*-autoscaler", "celery*-worker@*"]

WITHIN = 120.0  # seconds
TASKS = 40
SECONDS = 0.5


def ids(lines: list[str]) -> list[str]:
    """Return what recorded lines begin with."""
    return [line.split()[0] for line in lines]


def test_each_task_is_executed_once_while_workers_follow_the_load(project: Any, trace: str) -> None:
    wait_for(lambda: project.workers() == 1, "more than one worker", WITHIN)

    begin = time.time()
    sent = project.send(trace, TASKS, SECONDS)
    wait_for(lambda: len(project.executed(trace)) >= TASKS, "tasks are missing", WITHIN)
    wait_for(lambda: project.workers() == 1, "more than one worker is left", WITHIN)

    assert sorted(ids(project.executed(trace))) == sorted(sent)
    # A look at the right moment may come too late; which one was there before depends on the last stop.
    assert re.search(r"general-\d ready ", project.supervisor_said(begin))


def test_beat_sends_what_the_project_schedules(project: Any) -> None:
    before = len(project.executed("beat"))

    wait_for(lambda: len(project.executed("beat")) >= before + 2, "beat sends nothing", WITHIN)


def test_no_setting_can_lose_or_double_tasks(project: Any) -> None:
    check = f"-e /etc/{project.prefix}/autoscaler.env celery-autoscaler -A {project.name} check --json"

    found = json.loads(project.run(check).splitlines()[-1])

    assert [one["text"] for one in found if one["level"] == "error"] == []


def test_the_release_lists_its_parts(project: Any, host: Host) -> None:
    release = f"/opt/{project.prefix}/current"
    parts = json.loads(host.check_output(f"cat {release}/sbom.cdx.json"))
    installed = json.loads(
        host.check_output(
            f"{release}/venv/bin/python -c %s",
            "import importlib.metadata as m, json;"
            "print(json.dumps({d.name.lower().replace('_', '-'): d.version for d in m.distributions()}))",
        )
    )

    listed = {part["name"]: part["version"] for part in parts["components"] if part["scope"] == "required"}
    assert listed == installed


def test_no_secret_can_be_seen(host: Host) -> None:
    assert_no_secrets(host, Scenario("own_project").secrets.values())
