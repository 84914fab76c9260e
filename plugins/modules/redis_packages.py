#!/usr/bin/python3
"""Ansible module: compare the installed packages of Redis with what the apt sources of the host offer."""

from __future__ import annotations

import re
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.celery_fleet.platform.plugins.module_utils.redis_server import RedisError, answer

DOCUMENTATION = """
module: redis_packages
short_description: Compare the installed packages with what the apt sources of the host offer
description:
  - Changes nothing. Fails with one line where the wanted version cannot be had, is older than what is
    installed, or a package is on hold.
options:
  packages:
    description: Names of the packages, all of one source.
    type: list
    elements: str
    required: true
  version:
    description: Wanted version. Empty for the one that apt prefers.
    type: str
    default: ""
"""

EXAMPLES = """
- name: See what can be upgraded
  redis_packages:
    packages: [redis-server, redis-tools]
  register: packages
"""

RETURN = """
installed: {description: The version that is installed., type: str, returned: always}
offered: {description: The version that is wanted and offered., type: str, returned: always}
outdated: {description: Whether it is newer than what is installed., type: bool, returned: always}
"""


def offers(policy: str) -> tuple[str, list[str]]:
    """The version that apt prefers, and all that its sources offer, from the text of apt-cache policy."""
    candidate = re.search(r"^ +Candidate: (\S+)$", policy, re.MULTILINE)
    versions: list[str] = []
    version = ""
    for line in policy.partition("Version table:")[2].splitlines():
        if found := re.match(r"^ (?:\*\*\*|   ) (\S+) -?\d+$", line):
            version = found[1]
        elif version and "/var/lib/dpkg/status" not in line and version not in versions:
            versions.append(version)
    return candidate[1] if candidate else "(none)", versions


def wanted(package: str, policy: str, version: str) -> str:
    """The version that the package shall have."""
    candidate, versions = offers(policy)
    chosen = version or candidate
    if version and version not in versions:
        raise RedisError(
            f"redis_version: the apt sources offer no {package} {version}; "
            f"they offer {', '.join(versions) or 'none'}"
        )
    return chosen


def run(module: AnsibleModule) -> dict[str, Any]:
    """Ask dpkg and apt."""
    packages: list[str] = module.params["packages"]
    _, listed, _ = module.run_command(
        ["dpkg-query", "--show", "--showformat=${Package} ${Version} ${db:Status-Abbrev}\n", *packages],
        check_rc=True,
    )
    installed = {name: (version, state) for name, version, state in map(str.split, listed.splitlines())}
    held = sorted(name for name, (_, state) in installed.items() if state.startswith("h"))
    outdated = False
    for package in packages:
        # C: the words are read.
        _, policy, _ = module.run_command(
            ["apt-cache", "policy", package], check_rc=True, environ_update={"LC_ALL": "C"}
        )
        offered = wanted(package, policy, module.params["version"])
        present = installed[package][0]
        if offered == present:
            continue
        older, _, _ = module.run_command(["dpkg", "--compare-versions", offered, "lt", present])
        if older == 0:
            raise RedisError(f"redis_version: {package} {offered} is older than the installed {present}")
        outdated = True
    if outdated and held:
        raise RedisError(f"on hold: {', '.join(held)}; apt-mark unhold lets them be upgraded")
    return {
        "changed": False,
        "installed": installed[packages[0]][0],
        "offered": offered,
        "outdated": outdated,
    }


def main() -> None:
    """Run as a module."""
    module = AnsibleModule(
        argument_spec={
            "packages": {"type": "list", "elements": "str", "required": True},
            "version": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    answer(module, run)


if __name__ == "__main__":
    main()
