#!/usr/bin/python
"""Ansible module: ask a host for what a release will run on."""

from __future__ import annotations

import grp
import json
import pwd
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_releases import (
    has_python,
    linked,
    manifest_of,
    running,
)

DOCUMENTATION = r"""
---
module: celery_target
short_description: Ask a host for what a release will run on
description:
  - Releases run on the Python of the distribution, unless they brought another one, and whatever interpreter
    Ansible uses on the host. It is asked for its version and its C library, which decide on the wheels.
  - The app's user may have been there before. It is left as it is, unless it may do everything.
  - C(current) and C(supervisor) are what is installed now, of the app and of the supervisor's environment,
    each with its C(release) and its C(project), the id of the project's part. Both are empty where nothing is
    installed that the host has the Python for.
options:
  user:
    description: The app's user.
    type: str
    required: true
  root:
    description: Directory of the app's releases.
    type: path
    required: true
  supervisor_root:
    description: Directory of the releases of the supervisor's environment.
    type: path
    required: true
  in_use:
    description: Whether to return, as C(in_use), the app's current and previous release and those that run,
      whatever Python they are for. This looks at each process of the host.
    type: bool
    default: false
"""

# The Python that virtual environments of releases are made with.
PYTHON = "/usr/bin/python3"
# Without site: a file of any package could run code, here as root.
ASK = """
import json, os, sys, venv
print(json.dumps([*sys.version_info[:2], os.confstr('CS_GNU_LIBC_VERSION')]))
"""


def ask_python(module: AnsibleModule) -> tuple[str, str]:
    """Return the versions of Python and of the C library that releases run on."""
    code, output, error = module.run_command([PYTHON, "-I", "-S", "-c", ASK])
    if code:
        said = error.strip().splitlines() or [f"it ended with status {code}"]
        module.fail_json(msg=f"{PYTHON}, which releases run on, does not work: {said[-1]}")
    major, minor, library = json.loads(output)
    return f"{major}.{minor}", library.split()[-1]


def group_of(module: AnsibleModule, name: str) -> str:
    """Return the group of a user; nothing if there is no such user."""
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        return ""
    if user.pw_uid == 0:
        module.fail_json(
            msg=f"celery_app_user: {name} may do everything, as root (allowed: a user who may not)"
        )
    return grp.getgrgid(user.pw_gid).gr_name


def current(root: Path, python: str) -> dict[str, str]:
    """Return the ids of the current release and of its project's part, if the host has its Python."""
    release = root / "current"
    manifest = manifest_of(release) if has_python(release, python) else {}
    return {name: str(manifest.get(name, "")) for name in ("release", "project")}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "user": {"type": "str", "required": True},
            "root": {"type": "path", "required": True},
            "supervisor_root": {"type": "path", "required": True},
            "in_use": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    python, glibc = ask_python(module)
    root, user = Path(module.params["root"]), module.params["user"]
    in_use = sorted({*linked(root), *running(user)}) if module.params["in_use"] else []
    module.exit_json(
        changed=False,
        python=python,
        glibc=glibc,
        group=group_of(module, user),
        current=current(root, python),
        in_use=in_use,
        supervisor=current(Path(module.params["supervisor_root"]), python),
    )


if __name__ == "__main__":
    main()
