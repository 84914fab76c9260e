#!/usr/bin/python
"""Ansible module: check the files of a cluster, write them, and have the server run what they say."""

from __future__ import annotations

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
from ansible_collections.celery_fleet.platform.plugins.module_utils.postgres_scratch import (
    overridden,
    try_out,
    unfit,
    unusable,
)
from ansible_collections.celery_fleet.platform.plugins.module_utils.postgres_server import (
    CONFIG,
    DATA,
    OWN_FILE,
    PostgresError,
    Server,
    answer,
    program,
    stale,
)
from ansible_collections.celery_fleet.platform.plugins.module_utils.quiet_module import QuietModule
from ansible_collections.celery_fleet.platform.plugins.module_utils.systemd_units import show, unread

DOCUMENTATION = """
module: postgres_config
short_description: Check the files of a cluster, write them, and have the server run what they say
description:
  - A scratch server with data of its own reads wanted settings and rules of access, together with the present
    postgresql.conf and what ALTER SYSTEM has set, before the first file is written. What it refuses, or what
    would win over the wanted settings, is the one line of the failure.
  - Where a line of postgresql.conf or another file of conf.d would win, the role's file is included once more
    at the end of postgresql.conf.
  - Makes the cluster where there is none, writes, starts, reloads when a file is newer than what the server
    read last, also when an interrupted run left that undone, and restarts only where the server says that a
    setting waits for it. If it does not come up, the former files come back, and it is started with them.
  - In the end what the server runs is compared with what is wanted, no matter who wrote it.
options:
  version: {description: The major version., type: str, required: true}
  port: {description: The wanted port., type: int, required: true}
  listen: {description: The wanted addresses., type: list, elements: str, default: []}
  settings: {description: The wanted text of conf.d/celery-fleet.conf., type: str, required: true}
  access: {description: The wanted text of pg_hba.conf., type: str, required: true}
  files:
    description: Other files, by the user that runs the unit.
    type: list
    elements: dict
    default: []
    suboptions:
      path: {description: Where., type: path, required: true}
      content: {description: Its text., type: str, required: true}
      mode: {description: Its mode., type: str, default: "0644"}
      restart: {description: Whether the server has to restart for it., type: bool, default: false}
  certificate: {description: "The server's certificate, where the files name one.", type: path}
  key: {description: Its key., type: path}
  apply:
    description: Write and run; otherwise only check.
    type: bool
    default: true
  restart:
    description: Restart where it is needed; otherwise only say for which settings.
    type: bool
    default: true
  former:
    description: What an earlier call has replaced, for the case that the server does not come up now.
    type: list
    elements: dict
    default: []
"""

RETURN = """
restart: {description: What waits for a restart., type: list, returned: always}
former: {description: "What was replaced, by path.", type: list, returned: always}
"""

READY_WITHIN_SECONDS = 600.0  # a server may replay its log


def changes(before: dict[str, str], after: dict[str, str]) -> tuple[str, str]:
    """Both sides of the diff: what differs only, one setting a line."""
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return (
        "".join(f"{name} = {before[name]}\n" for name in names if name in before),
        "".join(f"{name} = {after[name]}\n" for name in names if name in after),
    )


def last_words(log: str) -> str:
    """Return the last line of a log that says why a server ended."""
    lines = [line for line in log.splitlines() if "FATAL" in line or "PANIC" in line or "could not" in line]
    return lines[-1].partition("FATAL: ")[2].strip() or lines[-1] if lines else "see its log"


class Cluster:
    """The cluster of the host, its files and its unit."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.version = module.params["version"]
        self.folder = CONFIG / self.version / "main"
        self.data = DATA / self.version / "main"
        self.unit = f"postgresql@{self.version}-main.service"
        self.log = Path(f"/var/log/postgresql/postgresql-{self.version}-main.log")
        self.written: list[File] = []  # as they were
        self.made = False
        self.diffs: list[dict[str, str]] = []

    def wanted(self) -> list[File]:
        """Return the wanted files."""
        params = self.module.params
        group = gid("postgres")
        return [
            File(self.folder / OWN_FILE, text(params["settings"]), 0o640, 0, group),
            File(self.folder / "pg_hba.conf", text(params["access"]), 0o640, 0, group),
            *(
                File(Path(file["path"]), text(file["content"]), int(file["mode"], 8), 0, 0, file["restart"])
                for file in params["files"]
            ),
        ]

    def show(self) -> dict[str, str]:
        """Return what systemd says of the unit."""
        names = ("ActiveState", "UnitFileState", "ActiveEnterTimestampMonotonic")
        return next(iter(show(names, self.unit)), {})

    def runs(self) -> bool:
        """Whether the server runs."""
        return self.show().get("ActiveState") in ("active", "reloading")

    def server(self) -> Server:
        """Return the running server."""
        return Server(self.module.params["port"])

    def check(self, wanted: list[File], changed: list[File]) -> list[File]:
        """Refuse what the server would refuse; return the files with what postgresql.conf takes."""
        params = self.module.params
        main = found(self.folder / "postgresql.conf")
        read = any(file.path.parent in (self.folder, self.folder / "conf.d") for file in changed)
        runs = self.runs()
        if not read and not (runs and self.server().overriding(OWN_FILE)):
            return changed
        own = runs and self.server().port == params["port"]
        errors = unusable(params["listen"], params["port"], taken=own)
        if params["certificate"]:
            errors += unfit(params["certificate"], params["key"])
        if errors:
            raise PostgresError("; ".join(errors))
        texts = {OWN_FILE: wanted[0].content or "", "pg_hba.conf": wanted[1].content or ""}
        new = try_out(self.version, self.folder, self.data / "postgresql.auto.conf", texts)
        if new and main.content is not None:
            changed = [main._replace(content=new), *changed]
        return changed

    def command(self, *words: str) -> None:
        """Run a command to its end; others may read what it makes, whatever the umask of the host."""
        code, output, error = self.module.run_command([*words], umask=0o022)
        if code:
            raise PostgresError(f"{' '.join(words)}: {(error or output).strip()}")

    def write(self, files: list[File], wanted: list[File]) -> None:
        """Write what differs, and keep what was there, also beside it as a backup."""
        for file in files:
            before = found(file.path)
            self.written.append(before)
            if before.content is not None and file.path.is_relative_to(CONFIG):
                self.module.backup_local(str(file.path))
            put(file)
        # An earlier run may have been cut off before this.
        if unread([self.unit], [str(file.path) for file in wanted]):
            self.command("systemctl", "daemon-reload")

    def come_up(self, verb: str) -> None:
        """Start or restart the server and wait until it answers."""
        size = self.log.stat().st_size if self.log.exists() else 0
        code = self.module.run_command(["systemctl", verb, self.unit])[0]
        deadline = time.monotonic() + READY_WITHIN_SECONDS
        ready = [program(self.version, "pg_isready"), "--quiet", "--host=/run/postgresql"]
        while not code and self.runs() and time.monotonic() < deadline:
            if not self.module.run_command([*ready, f"--port={self.server().port}"])[0]:
                return
            time.sleep(0.1)
        words = self.log.read_bytes()[size:].decode(errors="replace") if self.log.exists() else ""
        raise PostgresError(f"PostgreSQL does not start: {last_words(words)}")

    def undo(self, former: list[File]) -> None:
        """Have everything as it was, and the server running with it."""
        for file in reversed(former):
            put(file)
        self.module.run_command(["systemctl", "daemon-reload"])
        if self.made:
            self.module.run_command(["pg_dropcluster", "--stop", self.version, "main"])
        elif former:
            verb = "reload" if self.runs() else "restart"
            self.module.run_command(["systemctl", verb, self.unit])

    def apply(self, files: list[File], wanted: list[File]) -> tuple[bool, list[str]]:
        """Write and have the server run it; return whether anything changed, and what waits for a restart."""
        if not (self.folder / "postgresql.conf").exists():
            self.command("pg_createcluster", self.version, "main")
            self.made = True
        self.write(files, wanted)
        shown = self.show()
        changed = bool(files) or self.made
        if shown.get("UnitFileState") != "enabled":
            self.command("systemctl", "enable", "--quiet", self.unit)
            changed = True
        if shown.get("ActiveState") not in ("active", "reloading"):
            self.come_up("start")
            changed = True
        server = self.server()
        if modified := self.newer(server):
            before = server.settings()
            self.reload(server, modified)
            self.tell(before, server.settings(), [])
        waiting = server.pending() + self.newer_than_the_start(wanted)
        if waiting and self.module.params["restart"]:
            before = server.settings()
            self.come_up("restart")
            self.tell(before, self.server().settings(), waiting)
        return changed or bool(modified) or bool(waiting), waiting

    def newer(self, server: Server) -> list[float]:
        """Return when the files were written that the server has not read, or nothing."""
        own = ("postgresql.conf", "pg_hba.conf", "pg_ident.conf", OWN_FILE)
        paths = [self.folder / name for name in own]
        paths += [Path(path) for name in ("certificate", "key") if (path := self.module.params[name])]
        modified = [path.stat().st_mtime for path in paths if path.exists()]
        return modified if stale(modified, server.loaded()) else []

    def reload(self, server: Server, modified: list[float]) -> None:
        """Have the server read its files, unless they have errors."""
        errors = server.errors()
        if certificate := self.module.params["certificate"]:
            errors += unfit(certificate, self.module.params["key"])
        if errors:
            raise PostgresError("; ".join(errors))
        server.reload(modified)

    def newer_than_the_start(self, wanted: list[File]) -> list[str]:
        """Return which additions to the unit the running server was started without."""
        since = time.time() - time.monotonic() + int(self.show()["ActiveEnterTimestampMonotonic"]) / 1e6
        return [str(file.path) for file in wanted if file.restart and file.path.stat().st_mtime > since]

    def tell(self, before: dict[str, str], after: dict[str, str], restarted: list[str]) -> None:
        """Note what changed in the running server."""
        left, right = changes(before, after)
        what = f"restarted (restart needed by {', '.join(restarted)})" if restarted else "reloaded"
        headers = {"before_header": "PostgreSQL, running", "after_header": f"PostgreSQL, {what}"}
        self.diffs.append({**headers, "before": left, "after": right})

    def compare(self, waiting: list[str]) -> None:
        """Refuse a server that runs something else than its files say, or than is wanted."""
        server = self.server()
        if lines := [line for line in server.overriding(OWN_FILE) if line[0] not in waiting]:
            raise PostgresError(overridden(lines))
        names = [
            line.split(" = ")[0] for line in self.module.params["settings"].splitlines() if " = " in line
        ]
        if errors := server.errors() + server.given_otherwise(names):
            raise PostgresError(f"the server does not run what is wanted: {'; '.join(errors)}")


def run(module: AnsibleModule) -> dict[str, Any]:
    """Check, write, run, compare."""
    cluster = Cluster(module)
    wanted = cluster.wanted()
    files = [file for file in wanted if not same(found(file.path), file)]
    installed = Path(program(module.params["version"], "postgres")).exists()
    if installed:
        files = cluster.check(wanted, files)
    cluster.diffs = [diff(found(file.path), file) for file in files]
    if module.check_mode or not module.params["apply"] or not installed:
        return {"changed": bool(files) and module.params["apply"], "diff": cluster.diffs, **NOTHING}
    former = [File(Path(file["path"]), *file["rest"]) for file in module.params["former"]]
    try:
        changed, waiting = cluster.apply(files, wanted)
    except (PostgresError, OSError) as error:
        cluster.undo(former + cluster.written)
        raise PostgresError(f"{error}; the files are as they were") from error
    cluster.compare([] if module.params["restart"] else waiting)
    kept = [{"path": str(file.path), "rest": list(file[1:])} for file in former + cluster.written]
    return {
        "changed": changed,
        "diff": cluster.diffs,
        "restart": [] if module.params["restart"] else waiting,
        "former": kept if waiting and not module.params["restart"] else [],
    }


NOTHING: dict[str, list[Any]] = {"restart": [], "former": []}


def main() -> None:
    """Run as a module."""
    file = {
        **FILE_OPTIONS,
        "mode": {"type": "str", "default": "0644"},
        "restart": {"type": "bool", "default": False},
    }
    module = QuietModule(
        argument_spec={
            "version": {"type": "str", "required": True},
            "port": {"type": "int", "required": True},
            "listen": {"type": "list", "elements": "str", "default": []},
            "settings": {"type": "str", "required": True},
            "access": {"type": "str", "required": True},
            "files": {"type": "list", "elements": "dict", "default": [], "options": file},
            "certificate": {"type": "path"},
            "key": {"type": "path", "no_log": False},
            "apply": {"type": "bool", "default": True},
            "restart": {"type": "bool", "default": True},
            "former": {"type": "list", "elements": "dict", "default": []},
        },
        required_together=[("certificate", "key")],
        supports_check_mode=True,
    )
    answer(module, run)


if __name__ == "__main__":
    main()
