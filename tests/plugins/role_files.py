"""What tests without a host need of a role: its modules as Python, its templates rendered."""

import importlib.util
import json
import subprocess
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[2]
ROLES = CHECKOUT / "roles"

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


def load_module(role: str, name: str) -> ModuleType:
    """Import a module of a role's ``library``."""
    spec = importlib.util.spec_from_file_location(name, ROLES / role / "library" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def render(role: str, templates: dict[str, str], variables: dict[str, Any], target: Path) -> None:
    """Render templates of a role with Ansible itself.

    Args:
        role: Name of the role; its defaults and variables apply.
        templates: Path of each template below ``templates/``, and the name of the file to write.
        variables: Inputs of the role, and whatever else its templates ask for.
        target: Directory for the files.
    """
    root = ROLES / role
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "vars": {"role_path": str(root), "ansible_facts": FACTS, **variables},
        "vars_files": [str(root / "defaults/main.yml"), str(root / "vars/main.yml")],
        "tasks": [
            {
                "name": f"Render {template}",
                "ansible.builtin.template": {
                    "src": str(root / "templates" / template),
                    "dest": str(target / name),
                    "mode": "0600",
                },
            }
            for template, name in templates.items()
        ],
    }
    with tempfile.TemporaryDirectory() as folder:
        # Templates include others by their path below templates/, which stands beside the playbook.
        (Path(folder) / "templates").symlink_to(root / "templates")
        playbook = Path(folder) / "render.json"
        playbook.write_text(json.dumps([play]))
        run = subprocess.run(
            ["ansible-playbook", "--inventory", "localhost,", "--connection", "local", str(playbook)],
            check=False,
            capture_output=True,
            text=True,
            cwd=CHECKOUT,
        )
    assert run.returncode == 0, run.stdout + run.stderr
