#!/usr/bin/python
"""Ansible module: install a bundle into a release directory, all of it or nothing."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
---
module: celery_release
short_description: Install a bundle into a release directory, all of it or nothing
description:
  - Runs on the host, without any network. Checks the hash of each file, installs the wheels into a virtual
    environment of the release's own, which also finds the modules of a project that is not packaged. Only
    then the release counts as complete.
  - The bundle is removed afterwards.
options:
  bundle:
    description: The bundle's path on the host.
    type: path
    required: true
  path:
    description: Directory of the release; its name is the release id.
    type: path
    required: true
"""

# Written last: a release without it was interrupted and is made again.
COMPLETE = "manifest.json"


def check_hashes(release: Path, manifest: dict[str, Any]) -> str | None:
    """Return a line about the first file that is not what the controller packed, or nothing."""
    for name, wanted in manifest["sha256"].items():
        if hashlib.sha256((release / name).read_bytes()).hexdigest() != wanted:
            return f"{name} is damaged: its SHA-256 is not the one in the manifest"
    return None


def install(module: AnsibleModule, release: Path) -> None:
    """Fill a release directory from the bundle."""
    release.mkdir(mode=0o755)

    def run(*command: str | Path) -> None:
        module.run_command([str(part) for part in command], check_rc=True, cwd=str(release))

    run("tar", "--extract", "--no-same-owner", "--file", module.params["bundle"])
    manifest_file = release / COMPLETE
    manifest = json.loads(manifest_file.read_text())
    manifest_file.rename(release / "manifest.unproved")
    if problem := check_hashes(release, manifest):
        module.fail_json(msg=problem)
    run("/usr/bin/python3", "-m", "venv", "--without-pip", release / "venv")
    python = release / "venv/bin/python"
    (pip,) = (release / "wheels").glob("pip-*.whl")
    run(
        *(python, pip / "pip", "install", "--no-index", "--no-deps", "--require-hashes", "--no-cache-dir"),
        *("--disable-pip-version-check", "--root-user-action=ignore", "--requirement", "requirements.txt"),
    )
    source = release / "source"
    if source.is_dir():
        (packages,) = (release / "venv/lib").glob("python3*/site-packages")
        (packages / "celery_app_source.pth").write_text(f"{source}\n")
        # The app's user may not write there. That a template of code is no Python is no error. Isolated and
        # without site: a .pth file of a dependency would be executed, here by root.
        module.run_command([str(python), "-I", "-S", "-m", "compileall", "-q", str(source)])
    shutil.rmtree(release / "wheels")
    (release / "requirements.txt").unlink()
    (release / "manifest.unproved").rename(manifest_file)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "bundle": {"type": "path", "required": True},
            "path": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    bundle, release = Path(module.params["bundle"]), Path(module.params["path"])
    if (release / COMPLETE).exists():
        module.exit_json(changed=False)
    if module.check_mode:
        module.exit_json(changed=True)
    shutil.rmtree(release, ignore_errors=True)
    # The app's user reads the release whatever umask root has on this host.
    os.umask(0o022)
    try:
        install(module, release)
    finally:
        if not (release / COMPLETE).exists():
            shutil.rmtree(release, ignore_errors=True)
        bundle.unlink()
    module.exit_json(changed=True)


if __name__ == "__main__":
    main()
