"""A role's variables as Ansible evaluates them with given inputs, without a host; one run for many cases."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from role_files import CHECKOUT, FACTS, ROLES

Inputs = Mapping[str, Any]


def _run(role: str, tasks: Sequence[Mapping[str, Any]]) -> None:
    """Run tasks with the role's defaults and variables, which the variables of a task override."""
    root = ROLES / role
    play = {
        "hosts": "localhost",
        "gather_facts": False,
        "vars": {"ansible_facts": FACTS},
        "vars_files": [str(root / "defaults/main.yml"), str(root / "vars/main.yml")],
        "tasks": tasks,
    }
    with tempfile.TemporaryDirectory() as folder:
        playbook = Path(folder) / "play.json"
        playbook.write_text(json.dumps([play]), encoding="utf-8")
        done = subprocess.run(
            ["ansible-playbook", "--inventory", "localhost,", "--connection", "local", str(playbook)],
            check=False,
            capture_output=True,
            text=True,
            cwd=CHECKOUT,
        )
    if done.returncode != 0:
        raise AssertionError(done.stdout + done.stderr)


def evaluate(role: str, expression: str, cases: Sequence[Inputs]) -> list[Any]:
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
        )
        return [
            json.loads((target / str(number)).read_text(encoding="utf-8"))
            for number, _case in enumerate(cases)
        ]


def render(role: str, templates: Sequence[str], inputs: Inputs) -> dict[str, str]:
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
        )
        return {
            template: (target / str(number)).read_text(encoding="utf-8")
            for number, template in enumerate(templates)
        }
