#!/usr/bin/python3
"""Ansible module: let PgBouncer read its files where it has not."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: postgres_pgbouncer
short_description: Reload or restart PgBouncer when its files are newer than what it runs
description:
  - Reloads when a file has changed since PgBouncer read it, also when an interrupted run left that undone.
    Its clients do not notice. Restarts, which ends their connections, only when a file changed that a reload
    does not apply.
options:
  read:
    description: Files that a reload reads, or folders of such files.
    type: list
    elements: path
    required: true
  static:
    description: Files that need a restart.
    type: list
    elements: path
    required: true
"""

EXAMPLES = """
- name: Let PgBouncer read its files
  postgres_pgbouncer:
    read: [/etc/pgbouncer/pgbouncer.ini, /etc/pgbouncer/userlist.txt]
    static: [/etc/pgbouncer/listen.ini]
"""

RETURN = """
action: {description: "reloaded, restarted, or nothing", type: str, returned: always}
"""

UNIT = "pgbouncer.service"


def modified(paths: list[str]) -> dict[str, float]:
    """Return when each file was written, in seconds of the clock; of a folder, its files."""
    files = [
        file
        for path in map(Path, paths)
        for file in ([path] if path.is_file() else sorted(path.glob("*")))
        if file.is_file()
    ]
    return {str(file): file.stat().st_mtime for file in files}


def newer(files: dict[str, float], since: float) -> list[str]:
    """Return the files that were written after this time."""
    return [name for name, written in files.items() if written > since]


def wanted(
    read: dict[str, float], static: dict[str, float], loaded: float, started: float
) -> tuple[str, list[str]]:
    """Return what has to be done, and the files because of which."""
    if names := newer(static, started):
        return "restarted", names
    if names := newer(read, loaded):
        return "reloaded", names
    return "", []


def moments(module: AnsibleModule) -> tuple[float, float]:
    """Return when PgBouncer has read its files, by its start or a reload, and when it was started."""
    properties = ("StateChangeTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    shown = module.run_command(
        ["systemctl", "show", f"--property={','.join(properties)}", UNIT], check_rc=True
    )[1]
    found = dict(line.split("=", 1) for line in shown.splitlines())
    boot = time.time() - time.monotonic()
    loaded, started = (boot + int(found[name]) / 1e6 for name in properties)
    return loaded, started


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "read": {"type": "list", "elements": "path", "required": True},
            "static": {"type": "list", "elements": "path", "required": True},
        },
        supports_check_mode=True,
    )
    loaded, started = moments(module)
    action, names = wanted(
        modified(module.params["read"]), modified(module.params["static"]), loaded, started
    )
    if action and not module.check_mode:
        verb = "restart" if action == "restarted" else "reload"
        module.run_command(["systemctl", verb, UNIT], check_rc=True)
    result: dict[str, Any] = {"changed": bool(action), "action": action or "nothing"}
    if action:
        after = f"{action} for {', '.join(names)}\n"
        result["diff"] = {"before_header": UNIT, "after_header": UNIT, "before": "", "after": after}
    module.exit_json(**result)


if __name__ == "__main__":
    main()
