#!/usr/bin/python
"""Ansible module: import the app of a bundle on the controller, where it can be done truthfully."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Mapping
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_tools import find_python

DOCUMENTATION = r"""
---
module: celery_proof
short_description: Import the app of a bundle on the controller, where it can be done truthfully
description:
  - Installs the bundle into a virtual environment that is thrown away, and imports the app with its settings.
  - Does nothing where the controller is another machine type than the host or has not its version of Python,
    and believes only those errors that do not depend on the machine. What is not refused is not tried again.
options:
  bundle:
    description: The bundle's path.
    type: path
    required: true
  app:
    description: The app, as in C(celery -A).
    type: str
    required: true
  environment:
    description: The settings of the app. The task must have C(no_log).
    type: dict
    required: true
  script:
    description: The program that imports the app.
    type: path
    required: true
  interpreter:
    description: The Python that the app runs on, if it is not the distribution's. It is used where it runs
      here.
    type: path
extends_documentation_fragment: [celery_fleet.platform.target_python]
"""

TIMEOUT_SECONDS = 120.0


def install(python: str, bundle: Path, folder: Path) -> Path | None:
    """Install a bundle into a folder; return its Python, or nothing if this machine cannot run it."""
    with tarfile.open(bundle) as tar:
        tar.extractall(folder, filter="data")
    subprocess.run([python, "-m", "venv", "--without-pip", str(folder / "venv")], check=True)
    installed = folder / "venv/bin/python"
    (packages,) = (folder / "venv/lib").glob("python3*/site-packages")
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    paths = [folder / "source" / path for path in manifest.get("paths", ["."])]
    (packages / "celery_app_source.pth").write_text("".join(f"{path}\n" for path in paths))
    wheels = [str(w) for w in sorted((folder / "wheels").iterdir()) if not w.name.startswith("pip-")]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", f"--python={installed}"]
    done = subprocess.run(
        [*pip, "install", "--quiet", "--no-index", "--no-deps", "--no-compile", *wheels],
        capture_output=True,
        check=False,
    )
    return installed if done.returncode == 0 else None


def prove(python: str, params: Mapping[str, str], settings: Mapping[str, object]) -> str:
    """Import the app; return the line that says why it never can be, or nothing."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        installed = install(python, Path(params["bundle"]), folder)
        if installed is None:
            return ""
        environment = {"PATH": f"{installed.parent}:{os.environ['PATH']}", "HOME": scratch, "LANG": "C.UTF-8"}
        environment |= {name: str(value) for name, value in settings.items()}
        try:
            done = subprocess.run(
                [str(installed), params["script"], params["app"]],
                cwd=scratch,
                env=environment,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return ""
        if done.returncode == 3:
            return done.stderr.strip().splitlines()[-1].replace(f"{scratch}/source/", "")
        return ""


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "bundle": {"type": "path", "required": True},
            "app": {"type": "str", "required": True},
            "environment": {"type": "dict", "required": True, "no_log": False},
            "script": {"type": "path", "required": True},
            "interpreter": {"type": "path"},
            "python": {"type": "str", "required": True},
            "machine": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    bundle = Path(params["bundle"])
    tried = bundle.with_suffix(".tried")
    problem = ""
    # In check mode the bundle may not have been built.
    if bundle.exists() and not (tried.exists() and tried.read_text() == params["app"]):
        same = sys.platform == "linux" and platform.machine() == params["machine"]
        python = find_python(params["python"], params["interpreter"] or "") if same else None
        if python is not None:
            problem = prove(python, params, params["environment"])
        if not problem:
            tried.write_text(params["app"])
    module.exit_json(changed=False, problem=problem)


if __name__ == "__main__":
    main()
