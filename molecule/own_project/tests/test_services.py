"""Services and timers: they run the release as workers do, and none that they are not ready with."""

from __future__ import annotations

from typing import Any

import pytest
from support.hosts.releases import PLAYBOOKS
from support.hosts.scenario import Scenario
from support.processes.services import wait_for
from testinfra.host import Host

testinfra_hosts = ["ansible://single"]
units = ["celery*-service@*", "celery*-timer@*"]

WITHIN = 120.0  # seconds
GET = "import urllib.request as u; print(u.urlopen('http://127.0.0.1:8099/app.py').read().decode(), end='')"


def test_a_service_runs_the_release_with_settings_and_limits_of_its_own(host: Host) -> None:
    served = host.check_output("python3 -c %s", GET)

    assert served == host.check_output("cat /opt/celery/current/source/app.py")
    shown = "systemctl show --property=MainPID,MemoryMax,Slice celery-service@web.service"
    found = dict(line.split("=", 1) for line in host.check_output(shown).splitlines())
    assert (found["MemoryMax"], found["Slice"]) == (str(512 * 2**20), "celery.slice")
    entries = host.check_output(f"tr '\\0' '\\n' </proc/{found['MainPID']}/environ").splitlines()
    assert {"PART=web", "PART_TOKEN=of-the-service", "APP_SETTINGS=/etc/celery/files/app.json"} <= set(
        entries
    )
    assert host.check_output(f"stat --format=%U /proc/{found['MainPID']}") == "celery"


def test_a_timer_runs_its_command(host: Host) -> None:
    ticked = host.file("/srv/app/ticked")
    wait_for(lambda: ticked.exists, "the timer runs nothing", WITHIN)
    before = len(ticked.content_string.splitlines())

    wait_for(lambda: len(ticked.content_string.splitlines()) > before, "the timer runs once only", WITHIN)

    assert set(ticked.content_string.splitlines()) == {"tick 100%"}


SNAPSHOT = """
readlink /opt/celery-twin/current
sha256sum /etc/systemd/system/celery-twin-* /etc/celery-twin/services/*
systemctl is-active celery-twin-service@web.service celery-twin-timer@tick.timer
systemctl list-units --all --plain --no-legend 'celery-twin-service@*' | cut -d' ' -f1
"""
OTHERS = "systemctl show --property=Id,MainPID celery-beat celery-autoscaler celery-service@web"


def test_a_deployment_whose_service_is_not_ready_is_put_back_and_touches_no_other_project(host: Host) -> None:
    before, others = host.check_output(SNAPSHOT), host.check_output(OTHERS)
    refuse: dict[str, Any] = {"name": "new", "command": ["sleep", "infinity"], "start_timeout": 2}
    services = [
        {"name": "web", "command": ["sleep", "infinity"]},
        refuse | {"ready_command": ["sh", "-c", "echo no answer; false"]},
    ]

    with pytest.raises(AssertionError) as failed:
        Scenario("own_project").play(
            playbook=f"{PLAYBOOKS}/deploy.yml", fleet_project="twin", celery_app_services=services
        )

    assert "not ready within 2 s: no answer" in str(failed.value), str(failed.value)
    assert "twin put back to release" in str(failed.value), str(failed.value)
    assert host.check_output(SNAPSHOT) == before
    assert host.check_output(OTHERS) == others
