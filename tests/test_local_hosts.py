"""Hosts on this machine that another checkout made are refused before anything is touched."""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import docker
import pytest
import yaml
from docker.models.containers import Container
from support.role_files import CHECKOUT

IMAGE = "celery-fleet/services:bookworm"


class Hosts(NamedTuple):
    """A container in the place of the hosts that a checkout made."""

    network: str
    name: str
    container: Container


@pytest.fixture
def hosts(docker_client: docker.DockerClient) -> Iterator[Hosts]:
    """Hosts of the checkout /srv/first, with the secrets `first`."""
    network = f"celery-fleet-test-{uuid.uuid4().hex[:8]}"
    name = f"{network}-data1"
    labels = {
        "celery-fleet": network,
        "celery-fleet.deployment": "first",
        "celery-fleet.checkout": "/srv/first",
    }
    container = docker_client.containers.create(IMAGE, ["true"], name=name, labels=labels)
    try:
        yield Hosts(network, name, container)
    finally:
        container.remove(force=True)


def test_hosts_of_another_checkout_are_named_with_its_folder(hosts: Hosts) -> None:
    def asked(deployment: str) -> str:
        command = [str(CHECKOUT / "scripts/others-hosts"), hosts.network, deployment]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return done.stdout

    assert asked("first") == ""
    assert asked("second") == asked("") == f"{hosts.name}: /srv/first\n"


def test_a_play_refuses_them_before_it_makes_anything(
    hosts: Hosts, tmp_path: Path, docker_client: docker.DockerClient
) -> None:
    inventory = tmp_path / "hosts.yml"
    variables = {
        "container_network": hosts.network,
        "container_deployment": "second",
        "container_image": IMAGE,
        "ansible_connection": "community.docker.docker",
    }
    inventory.write_text(
        yaml.safe_dump({"all": {"vars": variables, "hosts": {"data1": {"ansible_host": hosts.name}}}})
    )
    done = subprocess.run(
        ["ansible-playbook", "--inventory", inventory, "playbooks/containers/create.yml"],
        check=False,
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert f"({hosts.name}: /srv/first)" in " ".join(done.stdout.split())
    hosts.container.reload()
    assert hosts.container.status == "created"
    assert not docker_client.networks.list(filters={"label": f"celery-fleet={hosts.network}"})


class Desk(NamedTuple):
    """Two checkouts, and a machine whose Docker knows the hosts of the first."""

    first: Path
    second: Path
    environment: dict[str, str]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A client of Docker that answers what it answers where those hosts run, and removes nothing."""
    for name in ("first", "second"):
        shutil.copytree(CHECKOUT / "scripts", tmp_path / name / "scripts")
    first = tmp_path / "first"
    (first / "inventories/local/.secrets").mkdir(parents=True)
    (first / "inventories/local/.secrets/deployment").write_text("one\n")
    client = tmp_path / "bin/docker"
    client.parent.mkdir()
    client.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        '    *"deployment=one"*) echo 0123 ;;\n'
        '    inspect*"IPAddress"*celery-fleet-worker1) echo 192.0.2.21 ;;\n'
        f'    "ps --all --filter"*) echo "celery-fleet-data1 one {first}" ;;\n'
        f'    *) echo "$*" >>{tmp_path}/touched ;;\n'
        "esac\n"
    )
    client.chmod(0o755)
    return Desk(first, tmp_path / "second", os.environ | {"PATH": f"{client.parent}:{os.environ['PATH']}"})


def fleet(desk: Desk, checkout: Path, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of scripts/fleet in a checkout."""
    return subprocess.run(
        [checkout / "scripts/fleet", command],
        check=False,
        env=desk.environment,
        capture_output=True,
        text=True,
    )


def test_a_second_clone_is_told_whose_the_hosts_are(desk: Desk) -> None:
    assert fleet(desk, desk.first, "mine").returncode == 0
    for command in ("mine", "up", "down"):
        done = fleet(desk, desk.second, command)
        assert done.returncode == 1, command
        assert done.stderr.count("\n") == 1
        assert f"the hosts celery-fleet-data1 belong to {desk.first}: type make " in done.stderr
    assert not (desk.first.parent / "touched").exists()


def test_after_the_first_clone_was_deleted_the_hosts_can_only_be_removed(desk: Desk) -> None:
    shutil.rmtree(desk.first / "inventories")
    done = fleet(desk, desk.second, "mine")
    assert done.returncode == 1
    assert done.stderr == (
        f"fleet: the hosts celery-fleet-data1 were made by {desk.first}, and their secrets are not here: "
        "type make down to remove them with their data, then make up\n"
    )
    assert fleet(desk, desk.second, "down").returncode == 0


def test_a_clone_that_was_moved_keeps_its_hosts(desk: Desk) -> None:
    moved = desk.first.rename(desk.first.parent / "moved")
    done = fleet(desk, moved, "mine")
    assert (done.returncode, done.stderr) == (0, "")


def test_the_last_lines_lead_to_the_page(desk: Desk) -> None:
    play = desk.first.parent / "bin/ansible-playbook"
    play.write_text("#!/bin/sh\n")
    play.chmod(0o755)
    done = fleet(desk, desk.first, "up")
    assert done.returncode == 0, done.stderr
    assert "http://192.0.2.21:9541/" in done.stdout
    assert "cat inventories/local/.secrets/page_token" in done.stdout


@pytest.mark.parametrize("inventory", ["local", "ha"])
def test_the_page_of_a_container_is_open_to_this_machine(inventory: str) -> None:
    command = ["ansible-inventory", "-i", f"inventories/{inventory}", "--host", "worker1"]
    done = subprocess.run(command, check=True, cwd=CHECKOUT, capture_output=True, text=True)
    assert '"celery_autoscaler_http": "0.0.0.0:9541"' in done.stdout
    assert "/page_token" in done.stdout
