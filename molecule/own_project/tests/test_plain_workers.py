"""Plain workers of a Celery that is too old for others, beside two projects with a supervisor."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from support.hosts.releases import PLAYBOOKS
from support.hosts.scenario import ROOT, Scenario
from support.processes.services import wait_for
from testinfra.host import Host

testinfra_hosts = ["ansible://plain"]
units = ["celery-plain-worker@*"]

WITHIN = 180.0  # seconds
TASKS = 30
SECONDS = 1.0
CURRENT = "readlink /opt/celery-plain/current"


def play(name: str, **variables: object) -> str:
    """Run one of the playbooks; what it printed."""
    return Scenario("own_project").play(playbook=f"{PLAYBOOKS}/{name}.yml", **variables)


def done(project: Any, trace: str) -> list[str]:
    """The ids of the tasks that the old Celery has executed."""
    found = [line.split() for line in project.executed(trace)]
    assert {version for _, version in found} <= {"5.2.7"}
    return [task for task, _ in found]


def test_releases_are_rolled_out_and_back_under_load(
    host: Host, project: Any, trace: str, tmp_path: Path
) -> None:
    source = shutil.copytree(ROOT / "tests/projects/plain_workers", tmp_path / "changed")
    (source / "app.py").write_text(f"{(source / 'app.py').read_text()}\n# Changed.\n")
    before = host.check_output(CURRENT)
    assert project.workers() == 2
    sent = project.send(trace, TASKS, SECONDS)

    printed = play("deploy", fleet_project="plain", celery_app_source=str(source), rollout_verify=False)

    assert "no guarantee about workers and scaling holds" in " ".join(printed.split()), printed
    assert host.check_output(CURRENT) != before
    sent += project.send(trace, TASKS, SECONDS)
    play("rollback", fleet_project="plain")
    assert host.check_output(CURRENT) == before
    wait_for(lambda: len(done(project, trace)) >= len(sent), "tasks are missing", WITHIN)
    assert sorted(done(project, trace)) == sorted(sent)
    assert project.workers() == 2
    assert not host.file("/etc/systemd/system/celery-plain-autoscaler.service").exists


def test_the_plays_say_what_does_not_hold() -> None:
    said = "for which no guarantee about workers and scaling holds"

    assert f"plain: plain Celery workers, {said}" in " ".join(play("status").split())
    # Tasks reach plain workers, too.
    play("verify")
