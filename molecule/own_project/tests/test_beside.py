"""What a project has beside its release: packages, files, directories, commands; and what a group has."""

import json
from typing import Any

from support.hosts.scenario import Scenario
from support.processes.services import wait_for
from testinfra.host import Host

testinfra_hosts = ["ansible://single"]
units = ["celery-autoscaler", "celery-worker@*"]

WITHIN = 120.0  # seconds
# What there is of services and timers.
SERVED = """
find /etc/systemd/system /etc/celery /usr/local/sbin /var/lib/systemd/timers \\
    -path '*celery-service@*' -o -path '*celery-timer@*' \\
    -o -path '/etc/celery/services/*' -o -path '/etc/celery/timers/*' -o -name celery-serve
systemctl list-units --all --plain --no-legend 'celery-service@*' 'celery-timer@*'
"""


def workers(host: Host, group: str) -> list[str]:
    """Return the units of a group that run; which number they have depends on the last deployment."""
    listed = host.check_output(f"systemctl list-units --output=json 'celery-worker@{group}-*.service'")
    return [unit["unit"] for unit in json.loads(listed) if unit["active"] == "active"]


def environment(host: Host, unit: str) -> dict[str, str]:
    """Return the environment of a worker."""
    pid = host.check_output(f"systemctl show --property=MainPID --value {unit}")
    entries = host.check_output(f"tr '\\0' '\\n' </proc/{pid}/environ").splitlines()
    return dict(entry.split("=", 1) for entry in entries if "=" in entry)


def test_the_app_has_its_packages_files_and_directories(host: Host) -> None:
    assert host.package("hello").is_installed
    assert host.file("/srv/app/prepared").content_string == "Hello, world!\n"
    assert (host.file("/srv/app").mode, host.file("/srv/app").user) == (0o750, "celery")
    file = host.file("/etc/celery/files/app.json")
    assert (file.mode, file.user, file.group) == (0o640, "root", "celery")
    assert host.run("celery-app touch /etc/celery/files/new /srv/new").stderr.count("Read-only") == 2


def test_a_group_has_settings_and_limits_of_its_own(host: Host) -> None:
    wait_for(lambda: bool(workers(host, "general")), "no worker", WITHIN)

    [unit] = workers(host, "general")[:1]
    found = environment(host, unit)
    assert (found["PART"], found["PART_TOKEN"]) == ("general", "of-the-group")
    # Tasks find the programs of the release.
    assert found["PATH"].startswith("/opt/celery/releases/")
    shown = host.check_output(f"systemctl show --property=MemoryMax,CPUQuotaPerSecUSec {unit}")
    assert set(shown.splitlines()) == {f"MemoryMax={2**30}", "CPUQuotaPerSecUSec=1.500000s"}
    assert "memory_max = 1073741824" in host.file("/etc/celery/autoscaler.toml").content_string
    assert "of-the-group" not in host.file("/etc/celery/groups/general.env").content_string


def test_one_run_suffices_where_a_group_has_another_name(host: Host, project: Any, trace: str) -> None:
    group = {
        "name": "jobs", "queues": ["celery"], "min_workers": 1, "max_workers": 3, "target_wait": 2,
        "pool": "prefork", "concurrency": 1, "workers": 1,
    }  # fmt: skip
    scenario = Scenario("own_project")
    try:
        scenario.play(
            playbook="app.yml", celery_app_worker_groups=[group], celery_app_services=[], celery_app_timers=[]
        )

        unit = workers(host, "jobs")[0]
        assert "MemoryMax=infinity" in host.check_output(f"systemctl show {unit}")
        wait_for(lambda: not workers(host, "general"), "the old group runs", WITHIN)
        assert not host.file("/etc/celery/groups/general.secret.env").exists
        assert host.check_output(SERVED) == ""
        [sent] = project.send(trace, 1)
        wait_for(lambda: project.executed(trace) == [sent], "nobody executes tasks", WITHIN)
    finally:
        scenario.play(playbook="app.yml")
    wait_for(lambda: not workers(host, "jobs"), "the other group runs", WITHIN)
