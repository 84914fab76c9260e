"""Two projects on one host, with the same names of groups and queues, in one Redis."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from support.hosts.releases import PLAYBOOKS
from support.hosts.scenario import ROOT, Scenario
from support.processes.services import wait_for
from testinfra.host import Host

testinfra_hosts = ["ansible://twin"]
units = ["celery*-beat", "celery*-autoscaler", "celery*-worker@*"]

WITHIN = 120.0  # seconds
TASKS = 5
CURRENT = "readlink /opt/celery-twin/current"


def play(name: str, **variables: object) -> str:
    """Run one of the playbooks; what it printed."""
    return Scenario("own_project").play(playbook=f"{PLAYBOOKS}/{name}.yml", **variables)


def main_pids(host: Host) -> str:
    """Return the processes of the other project of the host; its supervisor starts and stops the workers."""
    shown = "systemctl show --property=Id,MainPID celery-beat celery-autoscaler"
    return str(host.check_output(shown))


def test_each_project_executes_its_own_tasks_alone(project: Any, other: Any, trace: str) -> None:
    own, others = project.send(trace, TASKS), other.send(trace, TASKS)

    wait_for(lambda: len(project.executed(trace)) >= TASKS, "tasks of one are missing", WITHIN)
    wait_for(lambda: len(other.executed(trace)) >= TASKS, "tasks of the other are missing", WITHIN)

    assert sorted(project.executed(trace)) == sorted(own)
    assert sorted(other.executed(trace)) == sorted(others)


def test_the_limits_of_a_host_count_both(host: Host) -> None:
    """The slice of a project is part of the one that its host's limits are set on."""
    pid = host.check_output("systemctl show --property=MainPID --value celery-twin-autoscaler.service")

    assert "/celery.slice/celery-twin.slice/" in host.check_output(f"cat /proc/{pid}/cgroup")


def test_the_status_shows_each_project() -> None:
    printed = play("status")

    for project in ("celery", "shop", "twin"):
        assert f"{project}: KEEPING UP" in printed, printed
        assert f"Workers and queues of {project}" in printed


STATE = """
readlink /opt/celery/current /opt/celery/previous
ls -l --time-style=full-iso /opt/celery/releases
find /etc/celery /etc/systemd/system /usr/local/sbin /etc/polkit-1 -type f ! -path '*celery-twin*' \\
    | sort | xargs sha256sum
systemctl show --property=Id,MainPID celery-beat celery-autoscaler celery-service@web redis-server
"""


def test_a_rollback_of_one_project_touches_no_other_one(
    host: Host, project: Any, trace: str, tmp_path: Path
) -> None:
    source = shutil.copytree(ROOT / "tests/projects/single_file", tmp_path / "changed")
    (source / "app.py").write_text(f"{(source / 'app.py').read_text()}\n# Changed.\n")
    before = host.check_output(CURRENT)
    play("deploy", fleet_project="twin", celery_app_source=str(source), rollout_verify=False)
    assert host.check_output(CURRENT) != before
    others = host.check_output(STATE)

    play("rollback", fleet_project="twin")

    assert host.check_output(CURRENT) == before
    assert host.check_output(STATE) == others
    [sent] = project.send(trace, 1)
    wait_for(lambda: project.executed(trace) == [sent], "nobody executes tasks", WITHIN)


def test_draining_a_project_leaves_the_other_one_as_it_is(host: Host, project: Any, other: Any) -> None:
    before = main_pids(host)
    try:
        play("drain", host="twin")

        assert project.workers() == 0
        assert main_pids(host) == before
        assert other.workers() > 0
    finally:
        play("resume", host="twin")
    wait_for(lambda: project.workers() > 0, "the host does not come back", WITHIN)
