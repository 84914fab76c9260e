"""A deployment that is refused or fails changes nothing: what ran goes on, over restarts as well."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from support.hosts.scenario import Scenario
from support.processes.services import wait_for
from testinfra.host import Host

testinfra_hosts = ["ansible://single"]
units = ["celery-autoscaler", "celery-worker@*"]

SNAPSHOT = """
readlink /opt/celery/current
set -- /etc/celery /etc/systemd/system /etc/polkit-1/rules.d /usr/local/sbin
find "$@" -printf '%p %m %u %g\\n' | sort
find "$@" -type f | sort | xargs sha256sum
"""


@dataclass(frozen=True)
class Refusal:
    """Inputs that cannot work."""

    inputs: dict[str, Any]
    words: str
    """What the one line says."""


@pytest.mark.parametrize(
    "refusal",
    [
        Refusal(
            {"celery_app_migrate_command": ["python", "-c", "import sys; sys.exit('no such table: orders')"]},
            "celery_app_migrate_command failed: no such table: orders",
        ),
        # It passes every check, and the supervisor cannot listen there: Redis does.
        Refusal(
            {"celery_autoscaler_http": "127.0.0.1:6379"},
            "(the supervisor of single is as it was)",
        ),
    ],
    ids=["migrations", "address"],
)
def test_what_is_refused_changes_nothing_and_what_runs_goes_on(host: Host, refusal: Refusal) -> None:
    before = host.check_output(SNAPSHOT)

    with pytest.raises(AssertionError) as failed:
        Scenario("own_project").play(playbook="app.yml", **refusal.inputs)

    assert refusal.words in str(failed.value), str(failed.value)
    assert host.check_output(SNAPSHOT) == before
    host.check_output("systemctl restart 'celery-worker@*.service' celery-autoscaler.service")
    active = "systemctl is-active celery-autoscaler.service celery-worker@general-1.service"
    wait_for(lambda: host.run(active).rc == 0, "what ran before does not run any more", 120.0)


def test_a_setting_reaches_the_app_byte_for_byte(host: Host) -> None:
    # As in the inventory. The second run of the scenario shows that it is changed once.
    wanted = "first\r\nsecond\t \\ \"$HOME\" `id` %n 'x' größer "

    show = "import os; print(os.environ['AWKWARD'].encode().hex())"
    assert host.check_output("celery-app python -c %s", show) == wanted.encode().hex()
    pid = host.check_output("systemctl show --property=MainPID --value celery-autoscaler.service")
    running = host.check_output(f"od -An -v -tx1 /proc/{pid}/environ | tr -d ' \\n'")
    assert f"AWKWARD={wanted}".encode().hex() in running


def test_an_operators_command_has_the_sandbox_of_the_units(host: Host) -> None:
    command = (
        "touch /etc/written /opt/celery/written; grep -E '^(NoNewPrivs|Seccomp|CapBnd):' /proc/self/status"
    )

    said = host.run("celery-app sh -c %s", command)

    assert said.stderr.count("Read-only file system") == 2
    assert dict(line.split(":\t") for line in said.stdout.splitlines()) == {
        "CapBnd": "0000000000000000",
        "NoNewPrivs": "1",
        "Seccomp": "2",
    }


def test_the_sandbox_lets_a_project_set_the_owner_of_its_own_files(host: Host) -> None:
    give = "import os; f = '/var/lib/celery/owned'; open(f, 'w').close(); os.chown(f, {}, os.getgid())"

    assert host.run("celery-app python -c %s", give.format("os.getuid()")).rc == 0
    assert host.run("celery-app python -c %s", give.format(0)).rc == 1
    host.check_output("celery-app rm /var/lib/celery/owned")
