"""A project with a Python of its own, beside one with the distribution's on the same host."""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path
from typing import Any

import pytest
from support.hosts.releases import PLAYBOOKS
from support.hosts.scenario import ROOT, Scenario
from support.processes.services import wait_for
from testinfra.host import Host

testinfra_hosts = ["ansible://eleven"]
units = ["celery-eleven-*"]

WITHIN = 120.0  # seconds
EXECUTABLE = "readlink -f /opt/celery-eleven/current/venv/bin/python"
ARCHIVE = ROOT / ".cache/own_project/python-3.11.tar.gz"
SNAPSHOT = """
readlink /opt/celery-eleven/current
ls -R /opt/celery-eleven/releases | md5sum
find /opt/celery-fleet -maxdepth 3 | sort
find /etc/celery-eleven /etc/systemd/system /usr/local/sbin -type f | sort | xargs sha256sum
systemctl show --property=Id,MainPID celery-eleven-autoscaler celery-eleven-service@web celery-shop-autoscaler
"""


def deploy(**variables: object) -> str:
    """Deploy the project; what Ansible printed."""
    return Scenario("own_project").play(
        playbook=f"{PLAYBOOKS}/deploy.yml", fleet_project="eleven", rollout_verify=False, **variables
    )


def executed_on(project: Any, trace: str) -> str:
    """Have a task executed; the version of Python that it ran on."""
    before = len(project.executed(trace))
    [sent] = project.send(trace, 1)
    wait_for(lambda: len(project.executed(trace)) > before, "nobody executes tasks", WITHIN)
    done, version = project.executed(trace)[-1].split()
    assert done == sent
    return str(version)


def pythons(host: Host) -> set[str]:
    """The Pythons that the host has beside the distribution's."""
    return set(host.check_output("ls /opt/celery-fleet/pythons").split())


def used(host: Host) -> str:
    """The Python of the current release."""
    found = re.search("/pythons/([0-9a-f]{12})/", host.check_output(EXECUTABLE))
    assert found, host.check_output(EXECUTABLE)
    return found[1]


def test_everything_of_the_project_runs_on_its_python_and_nothing_else(
    host: Host, project: Any, trace: str
) -> None:
    assert executed_on(project, trace).startswith("3.11.")
    assert project.run("python --version").startswith("Python 3.11.")
    pid = host.check_output("systemctl show --property=MainPID --value celery-eleven-service@web.service")
    assert host.check_output(f"readlink /proc/{pid}/exe").endswith("/tree/bin/python3.11")
    for others in ("/opt/celery-fleet/supervisor", "/opt/celery-shop"):
        assert host.check_output(f"readlink -f {others}/current/venv/bin/python") == "/usr/bin/python3.13"
    assert host.run("celery-eleven-app touch /opt/celery-fleet/pythons/x").rc != 0


def refused(tmp_path: Path, kind: str) -> Path:
    """An archive with which the project cannot run."""
    path = tmp_path / f"{kind}.tar.gz"
    program = Path("/usr/bin/env").read_bytes()
    library = {"another version": "lib/python3.12/os.py", "no python": "lib/python3.11/os.py"}
    if kind not in library:
        path.write_text("<html>Not found</html>")
        return path
    with tarfile.open(path, "w:gz") as tar:
        for name, content in (("python/bin/python3", program), (f"python/{library[kind]}", b"")):
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o755
            tar.addfile(member, io.BytesIO(content))
    return path


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("no archive", "celery_app_python: no archive.tar.gz is no tar archive that can be read"),
        ("another version", "python311 needs Python ==3.11.*, and the host runs it with 3.12"),
        # The controller does not run it.
        ("no python", "celery_app_python does not run on this host: "),
    ],
)
def test_an_archive_that_is_refused_leaves_everything_as_it_was(
    host: Host, tmp_path: Path, kind: str, words: str
) -> None:
    before = host.check_output(SNAPSHOT)

    with pytest.raises(AssertionError) as failed:
        deploy(celery_app_python=str(refused(tmp_path, kind)))

    assert words in str(failed.value), str(failed.value)
    assert host.check_output(SNAPSHOT) == before


def test_a_rollback_returns_to_the_python_that_the_release_had(
    host: Host, project: Any, trace: str, tmp_path: Path
) -> None:
    first = used(host)
    # The same files, as others publish them.
    other = tmp_path / "install_only.tar.xz"
    with tarfile.open(ARCHIVE) as files, tarfile.open(other, "w:xz", preset=0) as tar:
        for member in files:
            content = files.extractfile(member) if member.isreg() else None
            member.name = f"python/{member.name}"
            tar.addfile(member, content)

    deploy(celery_app_python=str(other))

    second = used(host)
    assert {first, second} == pythons(host)
    assert first != second
    assert executed_on(project, trace).startswith("3.11.")

    Scenario("own_project").play(playbook=f"{PLAYBOOKS}/rollback.yml", fleet_project="eleven")

    assert used(host) == first
    assert executed_on(project, trace).startswith("3.11.")
    printed = Scenario("own_project").play(playbook=f"{PLAYBOOKS}/site.yml")
    assert re.findall(r"^eleven .*changed=(\d+)", printed, re.MULTILINE) == ["0"]
