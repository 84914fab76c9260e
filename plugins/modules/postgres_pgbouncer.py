#!/usr/bin/python
"""Ansible module: check PgBouncer's files, write them, and have it run what they say."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.celery_fleet.platform.plugins.module_utils.postgres_files import (
    FILE_OPTIONS,
    File,
    diff,
    found,
    gid,
    put,
    same,
    text,
)
from ansible_collections.celery_fleet.platform.plugins.module_utils.postgres_server import (
    PostgresError,
    answer,
)
from ansible_collections.celery_fleet.platform.plugins.module_utils.quiet_module import QuietModule
from ansible_collections.celery_fleet.platform.plugins.module_utils.scratch_process import (
    give,
    printed,
    running,
)
from ansible_collections.celery_fleet.platform.plugins.module_utils.systemd_units import show, unread

DOCUMENTATION = """
module: postgres_pgbouncer
short_description: Check PgBouncer's files, write them, and have it run what they say
description:
  - A scratch PgBouncer reads wanted files before the first of them is written. What it refuses or would leave
    out is the one line of the failure.
  - Reloads when a file has changed since PgBouncer read it, also when an interrupted run left that undone.
    Its clients do not notice. Restarts, which ends their connections, only when a file changed that a reload
    does not apply. If it does not come up, the former files come back, and it is started with them.
options:
  folder: {description: Where it reads its settings., type: path, required: true}
  files:
    description: Wanted files.
    type: list
    elements: dict
    required: true
    suboptions:
      path: {description: Where., type: path, required: true}
      content: {description: Its text., type: str, required: true}
      group: {description: Who may read it; root for everybody., type: str, default: root}
      static: {description: Whether a reload does not apply it., type: bool, default: false}
  users: {description: The text of its list of users., type: str, default: ""}
  read:
    description: More files that a reload reads, or folders of such files.
    type: list
    elements: path
    default: []
  user: {description: The system's user that it runs as., type: str, required: true}
"""

RETURN = """
action: {description: "reloaded, restarted, or nothing", type: str, returned: always}
"""

UNIT = "pgbouncer.service"
PROGRAM = "/usr/sbin/pgbouncer"
READY_WITHIN_SECONDS = 30.0
# What the scratch PgBouncer must not share with the one that runs; the last line of a setting counts.
APART = """
listen_addr =
unix_socket_dir = {folder}
logfile =
pidfile =
"""


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


def complaint(printed: str) -> str:
    """Return the first line in which PgBouncer refuses something or leaves it out."""
    lines = [line.partition("] ")[2] or line for line in printed.splitlines()]
    return next((line for line in lines if re.match("(WARNING|ERROR|FATAL)", line)), "")


class PgBouncer:
    """The service and its files."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.folder = module.params["folder"]
        self.written: list[File] = []  # as they were

    def files(self) -> list[File]:
        """Return the wanted files."""
        files = [
            File(
                Path(file["path"]),
                text(file["content"]),
                0o644 if file["group"] == "root" else 0o640,
                0,
                gid(file["group"]),
                restart=file["static"],
            )
            for file in self.module.params["files"]
        ]
        users = File(
            Path(self.folder) / "userlist.txt",
            text(self.module.params["users"]),
            0o640,
            0,
            gid(self.module.params["user"]),
        )
        return [*files, users] if self.module.params["users"] else files

    def moments(self) -> tuple[float, float]:
        """Return when it has read its files, by its start or a reload, and when it was started."""
        properties = ("StateChangeTimestampMonotonic", "ActiveEnterTimestampMonotonic")
        if not (units := show(properties, UNIT)):
            raise PostgresError(f"systemctl shows nothing of {UNIT}")
        boot = time.time() - time.monotonic()
        loaded, started = (boot + int(units[0][name]) / 1e6 for name in properties)
        return loaded, started

    def try_out(self, files: list[File]) -> None:
        """Have a scratch PgBouncer read the files; raise what it refuses or leaves out."""
        user = pwd.getpwnam(self.module.params["user"])
        with tempfile.TemporaryDirectory(prefix="pgbouncer-check-") as folder:
            place = Path(folder)
            for file in files:
                if file.path.is_relative_to(self.folder):
                    content = (file.content or "").replace(self.folder, folder)
                    if file.path.suffix == ".ini" and "[pgbouncer]" in content:
                        content += APART.format(folder=folder)
                    (place / file.path.name).write_text(content, encoding="utf-8")
            give(place, user.pw_name)
            groups = [*os.getgrouplist(user.pw_name, user.pw_gid), gid("postgres")]
            with running([PROGRAM, str(place / "pgbouncer.ini")], place, user.pw_name, groups) as process:
                self.wait(process, place)

    def wait(self, process: subprocess.Popen[bytes], folder: Path) -> None:
        """Wait until the scratch PgBouncer has read everything."""
        deadline = time.monotonic() + READY_WITHIN_SECONDS
        while True:
            ended = process.poll() is not None
            text_so_far = printed(folder)
            if ended or "process up" in text_so_far:
                break
            if time.monotonic() > deadline:
                raise PostgresError(f"a scratch PgBouncer is not ready after {READY_WITHIN_SECONDS:g} s")
            time.sleep(0.05)
        if why := complaint(text_so_far) or ("it ended without any output" if ended else ""):
            raise PostgresError(f"PgBouncer refuses these settings: {why.replace(str(folder), self.folder)}")

    def run(self, files: list[File], all_files: list[File]) -> tuple[str, list[str]]:
        """Write, and have it run what is written; return what was done, and why."""
        for file in files:
            self.written.append(found(file.path))
            put(file)
        # An earlier run may have been cut off before this.
        if unread([UNIT], [str(file.path) for file in all_files]):
            self.systemctl("daemon-reload")
        if self.module.run_command(["systemctl", "is-enabled", "--quiet", UNIT])[0]:
            self.systemctl("enable", "--quiet", UNIT)
        if self.module.run_command(["systemctl", "is-active", "--quiet", UNIT])[0]:
            self.systemctl("start", UNIT)
            return "started", [UNIT]
        action, names = self.due(all_files)
        if action:
            self.systemctl("restart" if action == "restarted" else "reload", UNIT)
        return action, names

    def due(self, all_files: list[File]) -> tuple[str, list[str]]:
        """Return what has to be done, and the files because of which."""
        static = [str(file.path) for file in all_files if file.restart]
        read = [str(file.path) for file in all_files if not file.restart] + self.module.params["read"]
        return wanted(modified(read), modified(static), *self.moments())

    def systemctl(self, *words: str) -> None:
        """Have systemd do something."""
        code, output, error = self.module.run_command(["systemctl", *words])
        if code:
            raise PostgresError(f"systemctl {' '.join(words)}: {(error or output).strip()}")

    def undo(self) -> None:
        """Have everything as it was, and PgBouncer running with it."""
        for file in reversed(self.written):
            put(file)
        if self.written:
            self.module.run_command(["systemctl", "daemon-reload"])
            self.module.run_command(["systemctl", "restart", UNIT])


def shown(before: File, after: File) -> dict[str, str]:
    """Return both sides of a file, without what nobody should see."""
    if after.path.name == "userlist.txt":
        before, after = (file._replace(content=None) for file in (before, after))
    return diff(before, after)


def run(module: AnsibleModule) -> dict[str, Any]:
    """Check, write, run."""
    pgbouncer = PgBouncer(module)
    all_files = pgbouncer.files()
    files = [file for file in all_files if not same(found(file.path), file)]
    diffs = [shown(found(file.path), file) for file in files]
    installed = Path(PROGRAM).exists()
    if files and installed and module.params["users"]:
        pgbouncer.try_out(all_files)
    if module.check_mode or not installed:
        return {"changed": bool(files), "action": "nothing", "diff": diffs}
    try:
        action, names = pgbouncer.run(files, all_files)
    except (PostgresError, OSError) as error:
        pgbouncer.undo()
        raise PostgresError(f"{error}; the files are as they were") from error
    if action:
        after = f"{action} for {', '.join(names)}\n"
        diffs.append({"before_header": UNIT, "after_header": UNIT, "before": "", "after": after})
    return {"changed": bool(files) or bool(action), "action": action or "nothing", "diff": diffs}


def main() -> None:
    """Run as a module."""
    own = {"group": {"type": "str", "default": "root"}, "static": {"type": "bool", "default": False}}
    module = QuietModule(
        argument_spec={
            "folder": {"type": "path", "required": True},
            "files": {"type": "list", "elements": "dict", "required": True, "options": FILE_OPTIONS | own},
            "users": {"type": "str", "default": "", "no_log": True},
            "read": {"type": "list", "elements": "path", "default": []},
            "user": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    answer(module, run)


if __name__ == "__main__":
    main()
