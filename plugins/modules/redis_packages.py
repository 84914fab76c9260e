#!/usr/bin/python
"""Ansible module: compare the installed packages of Redis with what the apt sources of the host offer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.common.respawn import has_respawned, respawn_module
from ansible_collections.celery_fleet.platform.plugins.module_utils.redis_server import RedisError, answer

try:
    import apt_pkg
except ImportError:
    apt_pkg = None

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


class Package(NamedTuple):
    """A package as apt knows it; a version is empty where there is none."""

    name: str
    installed: str
    candidate: str
    offered: list[str]
    held: bool


def look(names: list[str]) -> list[Package]:
    """Return what apt knows of installed packages. Versions that no source has any more are not offered."""
    apt_pkg.init()
    cache = apt_pkg.Cache(None)  # None: without progress on the output
    choice = apt_pkg.DepCache(cache)
    found = []
    for name in names:
        package = cache[name]
        candidate = choice.get_candidate_ver(package)
        found.append(
            Package(
                name,
                package.current_ver.ver_str if package.current_ver else "",
                candidate.ver_str if candidate else "",
                [
                    version.ver_str
                    for version in package.version_list
                    if any(not file.not_source for file, _ in version.file_list)
                ],
                package.selected_state == apt_pkg.SELSTATE_HOLD,
            )
        )
    return found


def wanted(package: Package, version: str) -> str:
    """The version that the package shall have."""
    if version and version not in package.offered:
        raise RedisError(
            f"redis_version: the apt sources offer no {package.name} {version}; "
            f"they offer {', '.join(package.offered) or 'none'}"
        )
    return version or package.candidate


def compare(packages: list[Package], version: str, order: Callable[[str, str], int]) -> dict[str, str | bool]:
    """Return what is installed and offered, and whether that is newer.

    Args:
        packages: Of one source.
        version: The wanted version; empty for the one that apt prefers.
        order: Compares two versions: negative if the first is the older one.

    Raises:
        RedisError: The wanted version cannot be had.
    """
    offered = [(package, wanted(package, version)) for package in packages]
    for package, new in offered:
        if order(new, package.installed) < 0:
            raise RedisError(
                f"redis_version: {package.name} {new} is older than the installed {package.installed}"
            )
    outdated = any(new != package.installed for package, new in offered)
    held = sorted(package.name for package in packages if package.held)
    if outdated and held:
        raise RedisError(f"on hold: {', '.join(held)}; apt-mark unhold lets them be upgraded")
    return {"installed": packages[0].installed, "offered": offered[-1][1], "outdated": outdated}


def run(module: AnsibleModule) -> dict[str, Any]:
    """Ask apt."""
    if apt_pkg is None:
        if has_respawned():
            raise RedisError("python3-apt is missing: apt-get install python3-apt")
        # Where it is, apt's own module has been before.
        respawn_module("/usr/bin/python3")
    found = look(module.params["packages"])
    return {"changed": False, **compare(found, module.params["version"], apt_pkg.version_compare)}


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
