"""The example inventories and the playbooks fit together."""

import json
import re
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
INVENTORIES = sorted(path.parent.name for path in CHECKOUT.glob("inventories/*/hosts.yml"))
PLAYBOOKS = sorted(str(path.relative_to(CHECKOUT)) for path in CHECKOUT.glob("playbooks/*.yml"))


def ansible(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=CHECKOUT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("inventory", INVENTORIES)
def test_an_inventory_has_every_group_and_the_inputs_of_its_roles(inventory: str) -> None:
    listed = json.loads(ansible("ansible-inventory", "-i", f"inventories/{inventory}", "--list"))

    hostvars = listed["_meta"]["hostvars"]
    required = {
        "redis": ["redis_users", "redis_bind"],
        "postgres": ["postgres_databases", "postgres_users"],
        "workers": ["celery_app_name", "celery_app_source", "celery_app_worker_groups"],
        "beat": ["celery_app_beat", "celery_app_environment"],
    }
    for group, names in required.items():
        assert listed[group]["hosts"], group
        for host in listed[group]["hosts"]:
            assert [name for name in names if name not in hostvars[host]] == []


@pytest.mark.parametrize("inventory", INVENTORIES)
def test_every_playbook_has_valid_syntax(inventory: str) -> None:
    ansible("ansible-playbook", "-i", f"inventories/{inventory}", "--syntax-check", *PLAYBOOKS)


@pytest.mark.parametrize("group", ["workers", "redis"])
def test_no_playbook_warns_of_groups_that_an_inventory_does_not_have(group: str, tmp_path: Path) -> None:
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(json.dumps({"all": {"children": {group: {"hosts": {"one": {}}}}}}), "utf-8")

    command = ["ansible-playbook", "-i", str(inventory), "--list-hosts", *PLAYBOOKS]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=CHECKOUT)

    assert "Could not match" not in done.stderr, done.stderr
    # The plays of that group have hosts.
    assert re.search(rf"pattern: \['{group}'.*\]\n +hosts \(1\)", done.stdout), done.stdout


def test_no_inventory_in_the_repository_holds_a_secret() -> None:
    tracked = ansible("git", "ls-files", "inventories", "molecule").splitlines()

    assert [name for name in tracked if ".secrets" in name or name.endswith("vault.yml")] == []
