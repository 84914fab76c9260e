"""Inventories as Ansible reads them, without a play, with secrets made up where they are needed."""

import re
import shutil
from pathlib import Path
from typing import Any

from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.vars.hostvars import HostVars
from ansible.vars.manager import VariableManager
from ansible_collections.celery_fleet.platform.plugins.action import validate_inventory as plugin
from ansible_collections.celery_fleet.platform.plugins.module_utils.fleet_rules import lines, validate

CHECKOUT = Path(__file__).resolve().parents[2]


def copied(inventory: Path, target: Path) -> Path:
    """Copy an inventory, which may write secrets beside itself, and fill in its vault."""
    shutil.copytree(inventory, target, ignore=shutil.ignore_patterns(".secrets"))
    for example in target.rglob("vault.yml.example"):
        filled = re.sub(
            r"^(vault_\w+):$", r"\1: 0123456789abcdef0123456789", example.read_text(), flags=re.MULTILINE
        )
        example.with_name("vault.yml").write_text(filled)
    return target


def findings(inventory: Path) -> list[str]:
    """What is wrong with an inventory, in lines."""
    loader = DataLoader()
    read = InventoryManager(loader=loader, sources=[str(inventory)])
    variables = VariableManager(loader=loader, inventory=read)
    hostvars: Any = HostVars(read, variables, loader)
    seen = plugin.read(hostvars, read.get_groups_dict(), [str(inventory)], loader)
    return lines(validate(seen), seen)
