#!/usr/bin/python
"""Ansible module: ask a host for what a release will run on."""

from __future__ import annotations

import grp
import json
import pwd

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
---
module: celery_target
short_description: Ask a host for what a release will run on
description:
  - Releases run on the Python of the distribution, whatever interpreter Ansible uses on the host. It is asked
    for its version and its C library, which decide on the wheels.
  - The app's user may have been there before. It is left as it is, unless it may do everything.
options:
  user:
    description: The app's user.
    type: str
    required: true
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


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"user": {"type": "str", "required": True}}, supports_check_mode=True
    )
    python, glibc = ask_python(module)
    module.exit_json(changed=False, python=python, glibc=glibc, group=group_of(module, module.params["user"]))


if __name__ == "__main__":
    main()
