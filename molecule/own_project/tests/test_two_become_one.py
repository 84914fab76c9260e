"""A project that is removed leaves nothing behind, and the other one as it is. It stays removed: last."""

from __future__ import annotations

import re
from typing import Any

from support.hosts.releases import PLAYBOOKS
from support.hosts.scenario import Scenario
from support.processes.services import wait_for
from testinfra.host import Host

testinfra_hosts = ["ansible://single"]
units = ["celery-beat", "celery-autoscaler", "celery-worker@*"]

WITHIN = 120.0  # seconds
TRACES = """
find / /run -xdev -name '*celery-twin*'
getent passwd celery-twin
getent group celery-twin
systemctl list-units --all --plain --no-legend '*celery-twin*'
systemctl list-unit-files --no-legend '*celery-twin*'
"""
KEYS = """
import os, redis
client = redis.Redis.from_url(os.environ["CELERY_BROKER_URL"].removesuffix("0") + "2")
print([name for name in client.scan_iter() if not name.startswith(b"_kombu.binding")])
"""
OTHERS = """
systemctl show --property=Id,MainPID celery-beat celery-autoscaler celery-service@web
find /etc/celery /etc/systemd/system /etc/polkit-1/rules.d /usr/local /opt/celery /opt/celery-fleet \\
    -maxdepth 2 ! -name '*celery-twin*' | sort
"""


def remove(name: str = "twin") -> str:
    """Remove one of the projects; what Ansible printed."""
    return Scenario("own_project").play(
        playbook=f"{PLAYBOOKS}/remove_project.yml",
        fleet_project=name,
        confirm=name,
        celery_app_remove_queues=True,
    )


def test_a_removed_project_leaves_no_trace_and_the_other_one_as_it_is(
    host: Host, project: Any, trace: str
) -> None:
    others = host.check_output(OTHERS)

    remove()

    assert host.run(TRACES).stdout == ""
    assert project.run("python -c %s", KEYS).splitlines()[-1] == "[]"
    assert host.check_output(OTHERS) == others
    [sent] = project.send(trace, 1)
    wait_for(lambda: project.executed(trace) == [sent], "the other project executes no tasks", WITHIN)
    assert re.findall(r"^twin .*changed=(\d+)", remove(), re.MULTILINE) == ["0"]


def test_a_removed_project_takes_its_python_with_it() -> None:
    host = Scenario("own_project").hosts("eleven")["eleven"]
    assert host.file("/opt/celery-fleet/pythons").exists

    remove("eleven")

    assert not host.file("/opt/celery-fleet/pythons").exists
    assert host.file("/opt/celery-fleet/supervisor/current/venv/bin/python").exists
    assert host.service("celery-shop-autoscaler").is_running
