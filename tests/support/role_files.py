"""What tests without a host need of a role: its modules as Python, its variables and templates evaluated."""

import importlib
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
ROLES = CHECKOUT / "roles"
PLUGINS = "ansible_collections.celery_fleet.platform.plugins"

# The facts that templates ask for, as on a Debian 13 host.
FACTS = {
    "distribution": "Debian",
    "distribution_major_version": "13",
    "distribution_version": "13.1",
    "hostname": "host1",
    "machine": "x86_64",
    "memtotal_mb": 4096,
    "python": {"version": {"major": 3, "minor": 13}},
    "virtualization_type": "kvm",
    "virtualization_role": "guest",
}


def load_module(name: str) -> ModuleType:
    """Import a module of the collection as Python."""
    return importlib.import_module(f"{PLUGINS}.modules.{name}")


def load_shared(name: str) -> ModuleType:
    """Import what modules of the collection share."""
    return importlib.import_module(f"{PLUGINS}.module_utils.{name}")


@dataclass(frozen=True)
class Place:
    """Where the variables are evaluated: a host of an inventory, in a play with others."""

    host: str = "localhost"
    hosts: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: {"localhost": {}})
    play: str = ""  # the pattern of its hosts; the host alone where it is empty
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)


HERE = Place()


def _run(role: str, tasks: Sequence[Mapping[str, Any]], place: Place) -> None:
    """Run tasks with the role's defaults and variables, which the variables of a task override."""
    root = ROLES / role
    play = {
        "hosts": place.play or place.host,
        "gather_facts": False,
        "vars": {"role_path": str(root), "ansible_facts": FACTS},
        "vars_files": [str(root / "defaults/main.yml"), str(root / "vars/main.yml")],
        "tasks": [{**task, "when": f"inventory_hostname == '{place.host}'"} for task in tasks],
    }
    with tempfile.TemporaryDirectory() as folder:
        # Templates include others by their path below templates/, which stands beside the playbook.
        (Path(folder) / "templates").symlink_to(root / "templates")
        playbook = Path(folder) / "play.json"
        playbook.write_text(json.dumps([play]), encoding="utf-8")
        inventory = Path(folder) / "hosts.json"
        groups: dict[str, Any] = {
            name: {"hosts": {host: {} for host in names}} for name, names in place.groups.items()
        }
        inventory.write_text(
            json.dumps({"all": {"hosts": place.hosts, "children": groups}}), encoding="utf-8"
        )
        done = subprocess.run(
            ["ansible-playbook", f"--inventory={inventory}", "--connection=local", str(playbook)],
            check=False,
            capture_output=True,
            text=True,
            cwd=CHECKOUT,
        )
    assert done.returncode == 0, done.stdout + done.stderr


def evaluate(
    role: str, expression: str, cases: Sequence[Mapping[str, Any]], place: Place = HERE
) -> list[Any]:
    """The value of an expression in each case."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder)
        _run(
            role,
            [
                {
                    "name": f"Evaluate case {number}",
                    "ansible.builtin.copy": {
                        "content": f"{{{{ {expression} | to_json }}}}",
                        "dest": str(target / str(number)),
                        "mode": "0600",
                    },
                    "vars": dict(case),
                }
                for number, case in enumerate(cases)
            ],
            place,
        )
        return [
            json.loads((target / str(number)).read_text(encoding="utf-8"))
            for number, _case in enumerate(cases)
        ]


def refusal(role: str, inputs: Mapping[str, Any]) -> str:
    """What the preflight of a role refuses, in a playbook that knows the path of the collection alone."""
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "vars": {"ansible_facts": FACTS, **inputs},
        "tasks": [
            {
                "block": [
                    {
                        "ansible.builtin.include_role": {
                            "name": f"celery_fleet.platform.{role}",
                            "tasks_from": "preflight",
                        }
                    },
                    {"ansible.builtin.debug": {"msg": "PASSED"}},
                ],
                "rescue": [{"ansible.builtin.debug": {"msg": "REFUSED {{ ansible_failed_result['msg'] }}"}}],
            }
        ],
    }
    with tempfile.TemporaryDirectory() as folder:
        playbook = Path(folder) / "play.json"
        playbook.write_text(json.dumps([play]), encoding="utf-8")
        done = subprocess.run(
            ["ansible-playbook", "--inventory=localhost,", "--connection=local", str(playbook)],
            check=False,
            capture_output=True,
            text=True,
            cwd=folder,
            env={**os.environ, "ANSIBLE_COLLECTIONS_PATH": str(CHECKOUT / "collections")},
        )
    shown = re.search(r"\"msg\": \"(PASSED|REFUSED (.*))\"", done.stdout)
    assert shown, done.stdout + done.stderr
    return shown[2] or ""


def render(
    role: str, templates: Sequence[str], inputs: Mapping[str, Any], place: Place = HERE
) -> dict[str, str]:
    """The text of each of the role's templates, by its path below ``templates/``."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder)
        _run(
            role,
            [
                {
                    "name": f"Render {template}",
                    "ansible.builtin.template": {
                        "src": str(ROLES / role / "templates" / template),
                        "dest": str(target / str(number)),
                        "mode": "0600",
                    },
                    "vars": dict(inputs),
                }
                for number, template in enumerate(templates)
            ],
            place,
        )
        return {
            # Each byte as it is: a setting may have line ends of its own.
            template: (target / str(number)).read_bytes().decode()
            for number, template in enumerate(templates)
        }


def security_score(folder: Path, unit: str) -> subprocess.CompletedProcess[str]:
    """Have systemd judge a unit in a folder, without running it; fails where its exposure is over 2.5."""
    return subprocess.run(
        [
            *("docker", "run", "--rm", "--label=celery-fleet=test", f"--volume={folder}:/units:ro"),
            *("celery-fleet/host:trixie", "systemd-analyze", "security", "--offline=yes", "--threshold=25"),
            f"/units/{unit}",
        ],
        check=False,
        capture_output=True,
        text=True,
    )


def tracked(*patterns: str) -> list[str]:
    """Return the files of the repository that fit, without links."""
    listed = subprocess.run(
        ["git", "ls-files", "-s", *patterns], cwd=CHECKOUT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    return [line.partition("\t")[2] for line in listed if not line.startswith("120000")]
