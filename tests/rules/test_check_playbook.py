"""The play that validates an inventory: those of this repository pass, faults are told, no host is asked."""

import os
import re
import subprocess
import time
from pathlib import Path

import pytest
from support.read_inventories import CHECKOUT, copied, findings

EXAMPLES = sorted(path.parent for path in CHECKOUT.glob("inventories/*/hosts.yml"))
SCENARIOS = sorted(path.parent for path in CHECKOUT.glob("molecule/*/inventory/hosts.yml"))
# Their plays name hosts, not groups, and roles, not playbooks.
NO_GROUPS = ("postgres", "redis")


def check(inventory: Path, *options: str, playbook: str = "check.yml") -> subprocess.CompletedProcess[str]:
    """Run the playbook on an inventory."""
    return subprocess.run(
        ["ansible-playbook", f"--inventory={inventory}", f"playbooks/{playbook}", *options],
        check=False,
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1", "COLUMNS": "400"},
    )


@pytest.mark.parametrize("inventory", EXAMPLES, ids=lambda path: path.name)
def test_the_inventories_of_the_repository_have_no_fault(inventory: Path, tmp_path: Path) -> None:
    assert findings(copied(inventory, tmp_path / "inventory")) == []


@pytest.mark.parametrize("inventory", SCENARIOS, ids=lambda path: path.parent.name)
def test_the_inventories_of_the_scenarios_have_no_fault(inventory: Path, tmp_path: Path) -> None:
    # Their first plays build these.
    for name in ("beat/tasks.whl", "ssh_offline/tasks.tar.gz"):
        (tmp_path / ".cache" / name).parent.mkdir(parents=True)
        (tmp_path / ".cache" / name).touch()

    found = findings(copied(inventory, tmp_path / "molecule/scenario/inventory"))

    allowed = ["groups: no host is in a group that a playbook deploys"] * (inventory.parent.name in NO_GROUPS)
    assert [line.split(";")[0] for line in found] == allowed


AWKWARD = "p/a@b:c?d#e%f[g]h;i&j+k=l"


@pytest.mark.parametrize("name", ["staging", "production"])
def test_the_examples_encode_passwords_and_bracket_addresses(name: str, tmp_path: Path) -> None:
    inventory = copied(CHECKOUT / "inventories" / name, tmp_path / "inventory")
    vault, hosts = inventory / "group_vars/all/vault.yml", inventory / "hosts.yml"
    awkward = re.compile(r"^(vault_redis_(?:app|supervisor)_password): .*$", re.MULTILINE)
    vault.write_text(awkward.sub(rf"\1: '{AWKWARD}'", vault.read_text()))
    hosts.write_text(hosts.read_text().replace("198.51.100.", "2001:db8::"))

    assert [line for line in findings(inventory) if "_url: " in line or "_environment: " in line] == []


FAULTS = """
[all:vars]
ansible_host=198.51.100.1
celery_app_name=tasks
celery_app_source=/nowhere
celery_app_supervise=true

[workers]
worker1 celery_app_beat=perhaps
worker2 celery_app_stop_timeout=soon

[workers:vars]
celery_app_supervised=false
celery_app_environment={{ settings_of_the_app }}
celery_app_check_command={{ first_server }}
first_server=["echo", "{{ groups['redis'][0] }}"]
monitoring_exporters_address={{ ansible_facts['default_ipv4']['address'] }}
"""


@pytest.mark.parametrize("playbook", ["check.yml", "site.yml", "deploy.yml"])
def test_all_faults_are_told_before_a_host_is_asked(playbook: str, tmp_path: Path) -> None:
    inventory = tmp_path / "hosts.ini"
    inventory.write_text(FAULTS)

    done = check(inventory, "--extra-vars", "celery_app_plain_workers=maybe", playbook=playbook)

    assert done.returncode == 2
    told = [line for line in done.stderr.splitlines() if re.match(r"[\w, ]+: [\w, ]+: |ansible_host: ", line)]
    assert sorted(told) == [
        "ansible_host: worker1 and worker2 are one host, 198.51.100.1:22; allowed: one name a host, "
        "or one for each project of it (celery_app_project)",
        "worker1: celery_app_beat: is 'perhaps'; allowed: true or false",
        "worker2: celery_app_stop_timeout: is 'soon'; allowed: a whole number from 1 to 86400",
        "workers: celery_app_check_command: needs a host in the group redis; there is no such group",
        "workers: celery_app_environment: uses settings_of_the_app, which is undefined",
        "workers: celery_app_plain_workers: is 'maybe'; allowed: true or false",
        "workers: celery_app_supervise: is unknown; did you mean celery_app_supervised?",
    ]
    assert "wrong in the inventory: 7" in done.stdout
    assert "UNREACHABLE" not in done.stdout
    assert done.stdout.count("TASK [") == 1


def test_with_a_limit_faults_of_other_hosts_are_warnings(tmp_path: Path) -> None:
    inventory = copied(CHECKOUT / "inventories/production", tmp_path / "inventory")
    (inventory / "host_vars").mkdir()
    (inventory / "host_vars/worker2.yml").write_text("celery_app_stop_timeout: soon\n")

    there = check(inventory, "--limit=worker2")
    elsewhere = check(inventory, "--limit=worker1")

    assert (there.returncode, elsewhere.returncode) == (2, 0)
    assert "worker2: celery_app_stop_timeout: is 'soon'" in there.stderr
    assert "[WARNING]: worker2: celery_app_stop_timeout: is 'soon'" in elsewhere.stdout + elsewhere.stderr


def test_a_secret_whose_key_is_elsewhere_is_left_to_the_host(tmp_path: Path) -> None:
    inventory = copied(CHECKOUT / "inventories/staging", tmp_path / "inventory")
    vaulted = subprocess.run(
        ["ansible-vault", "encrypt_string", "--vault-password-file=/dev/stdin", "a-secret-that-is-long"],
        input="key",
        check=True,
        capture_output=True,
        text=True,
    )
    vault = inventory / "group_vars/all/vault.yml"
    lines = [line for line in vault.read_text().splitlines() if "vault_redis_operator_password" not in line]
    vault.write_text("\n".join([*lines, f"vault_redis_operator_password: {vaulted.stdout}"]))

    done = check(inventory)

    assert done.returncode == 0, done.stdout + done.stderr


def test_a_file_that_is_no_yaml_is_named_with_the_line(tmp_path: Path) -> None:
    inventory = copied(CHECKOUT / "inventories/production", tmp_path / "inventory")
    path = inventory / "group_vars/redis.yml"
    before = path.read_text()
    path.write_text(f"{before}  more: [\n")

    done = check(inventory)

    assert done.returncode == 2
    assert f"{path}:{before.count(chr(10)) + 1}:" in done.stderr
    assert "wrong in the inventory: 1" in done.stdout


def test_of_two_groups_of_the_same_hosts_a_line_names_the_one_of_the_variable(tmp_path: Path) -> None:
    inventory = copied(CHECKOUT / "inventories/production", tmp_path / "inventory")
    for name, setting in (("redis", "redis_maxmemory_percent"), ("postgres", "postgres_memory_percent")):
        path = inventory / f"group_vars/{name}.yml"
        path.write_text(path.read_text().replace(f"{setting}: 40", f"{setting}: forty"))

    told = findings(inventory)

    assert [line.split(" is ")[0] for line in told] == [
        "redis: redis_maxmemory_percent:",
        "postgres: postgres_memory_percent:",
    ]


def test_an_empty_inventory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text("all: {}\n")

    done = check(tmp_path / "hosts.yml")

    assert done.returncode == 2
    assert "hosts: there is no host" in done.stderr


def test_fifty_hosts_take_seconds(tmp_path: Path) -> None:
    inventory = copied(CHECKOUT / "inventories/production", tmp_path / "inventory")
    hosts = inventory / "hosts.yml"
    more = "\n        ".join(f"worker{n}: {{ansible_host: 203.0.113.{n}}}" for n in range(4, 47))
    hosts.write_text(hosts.read_text().replace("    beat:\n", f"        {more}\n    beat:\n", 1))

    begun = time.process_time()
    found = findings(inventory)
    seconds = time.process_time() - begun

    assert found == []
    # Takes one; a busy machine takes longer.
    assert seconds < 5
