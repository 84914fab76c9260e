"""What the tests of the Molecule scenarios share: inventory, hosts, secrets and playbook runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import testinfra

from support.hosts.secrets_scan import read_secrets

ROOT = Path(__file__).resolve().parents[3]
ANSIBLE_PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")


@dataclass(frozen=True)
class Scenario:
    """A folder of molecule/ whose hosts are running."""

    name: str

    @property
    def folder(self) -> Path:
        """Where the scenario stands."""
        return ROOT / "molecule" / self.name

    @property
    def inventory(self) -> Path:
        """Its inventory."""
        return self.folder / "inventory"

    @property
    def secrets(self) -> dict[str, str]:
        """The generated secrets, by name."""
        return read_secrets(self.inventory / ".secrets")

    @property
    def authority(self) -> Path:
        """The certificate of its own authority, where it has one."""
        return self.inventory / ".secrets/authority/authority.pem"

    @cache  # noqa: B019 -- a frozen constant of a test module; reading the inventory takes a second
    def hosts(self, pattern: str = "all") -> dict[str, Any]:
        """The hosts of the inventory that the pattern matches, by name."""
        found = testinfra.get_hosts([f"ansible://{pattern}"], ansible_inventory=str(self.inventory))
        return {host.backend.get_pytest_id().removeprefix("ansible://"): host for host in found}

    def play(self, *options: str, playbook: str = "converge.yml", **variables: object) -> str:
        """Run a playbook of the scenario once more, with these variables; what it printed."""
        done = self.run(*options, playbook=playbook, variables=variables)
        if done.returncode != 0:
            raise AssertionError(f"ansible-playbook failed:\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def run(
        self,
        *options: str,
        playbook: str,
        variables: Mapping[str, object],
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a playbook of the scenario, however it ends."""
        own = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        own.pop("ANSIBLE_FORCE_COLOR", None)
        return subprocess.run(
            [
                str(ANSIBLE_PLAYBOOK),
                f"--inventory={self.inventory}",
                f"--extra-vars={json.dumps(variables)}",
                *options,
                str(self.folder / playbook),
            ],
            cwd=ROOT,
            env={**own, **(environment or {})},
            capture_output=True,
            text=True,
            check=False,
        )


@cache
def address(host: Any) -> str:
    """The host's address on the network of the scenario."""
    return str(host.check_output("hostname --all-ip-addresses")).split()[0]
