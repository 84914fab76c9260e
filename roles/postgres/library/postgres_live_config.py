#!/usr/bin/python3
"""Ansible module: let PostgreSQL read its files where it has not, and say what needs a restart."""

from __future__ import annotations

import os
import pwd
import re
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: postgres_live_config
short_description: Reload PostgreSQL when its files are newer than what it runs
description:
  - Refuses to reload files with errors, reloads when a file changed since the server read it, also when an
    interrupted run left that undone, and waits until the server has read it.
  - Returns as a diff what changed in the running server, and the settings that wait for a restart.
  - Connects through the Unix socket as the system user postgres.
options:
  config_dir:
    description: Folder of postgresql.conf.
    type: path
    required: true
  port:
    description: Port that the files name; it is part of the socket's name.
    type: int
    required: true
  certificate:
    description: The server's certificate, where the files name one.
    type: path
  key:
    description: Its key.
    type: path
"""

EXAMPLES = """
- name: Let the server read its files
  postgres_live_config:
    config_dir: /etc/postgresql/17/main
    port: 5432
  register: live
"""

RETURN = """
restart: {description: Settings that wait for a restart., type: list, returned: always}
"""

SOCKETS = "/run/postgresql"
FILES = ("postgresql.conf", "pg_hba.conf", "pg_ident.conf", "conf.d/celery-fleet.conf")


class PostgresError(Exception):
    """Something that the user has to know, in one line."""


def stale(modified: list[float], loaded: float) -> bool:
    """Whether a file is newer than what the server read.

    The server may have read a file in the very tick of the clock in which it was written, hence the margin.
    """
    return any(time_of_change + 0.1 > loaded for time_of_change in modified)


def changes(before: dict[str, str], after: dict[str, str]) -> tuple[str, str]:
    """Both sides of the diff: what differs only, one setting a line."""
    names = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    return (
        "".join(f"{name} = {before[name]}\n" for name in names if name in before),
        "".join(f"{name} = {after[name]}\n" for name in names if name in after),
    )


def unfit(certificate: str, key: str) -> list[str]:
    """Why the server would go on with the former certificate, of which only its log tells."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        return [f"{certificate} cannot be used with {key}: {error}"]
    return []


def port_in_use(wanted: int, sockets: list[str]) -> int:
    """The port in the name of the server's socket: the former one while a change waits for the restart."""
    ports = [int(name.rpartition(".")[2]) for name in sockets if re.fullmatch(r"\.s\.PGSQL\.\d+", name)]
    return wanted if wanted in ports or len(ports) != 1 else ports[0]


@contextmanager
def as_postgres() -> Iterator[None]:
    """As the system user postgres: the server asks the socket who is connecting."""
    former = os.geteuid()
    os.seteuid(pwd.getpwnam("postgres").pw_uid)
    try:
        yield
    finally:
        os.seteuid(former)


class Server:
    """The running server; each question opens a connection, for an open one may not notice a reload."""

    def __init__(self, port: int) -> None:
        self.port = port_in_use(port, [path.name for path in Path(SOCKETS).iterdir()])

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        """The rows that the server answers."""
        import psycopg2  # type: ignore[import-untyped]  # noqa: PLC0415 -- on the managed host only

        try:
            with as_postgres():
                connection = psycopg2.connect(
                    host=SOCKETS, port=self.port, user="postgres", dbname="postgres"
                )
        except psycopg2.OperationalError as error:
            raise PostgresError(
                f"cannot ask PostgreSQL: {error}; see its log in /var/log/postgresql"
            ) from error
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return list(cursor.fetchall())
        finally:
            connection.close()

    def loaded(self) -> float:
        """When it last read its files."""
        return float(self.ask("SELECT extract(epoch FROM pg_conf_load_time())")[0][0])

    def settings(self) -> dict[str, str]:
        """What it runs of what the files set."""
        return dict(
            self.ask(
                "SELECT name, current_setting(name) FROM pg_settings WHERE source = 'configuration file'"
            )
        )

    def pending(self) -> list[str]:
        """The settings that wait for a restart."""
        return [
            name for (name,) in self.ask("SELECT name FROM pg_settings WHERE pending_restart ORDER BY name")
        ]

    def errors(self) -> list[str]:
        """What is wrong in the files as they are on the disk. A setting that needs a restart is not."""
        return [
            str(line)
            for (line,) in self.ask(
                "SELECT format('%s:%s: %s', sourcefile, sourceline, error) FROM pg_file_settings"
                " WHERE error IS NOT NULL AND error <> 'setting could not be applied'"
                " UNION ALL SELECT format('pg_hba.conf:%s: %s', line_number, error) FROM pg_hba_file_rules"
                " WHERE error IS NOT NULL"
            )
        ]

    def reload(self, modified: list[float]) -> None:
        """Have it read its files and wait until it has."""
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            self.ask("SELECT pg_reload_conf()")
            time.sleep(0.2)
            if not stale(modified, self.loaded()):
                return
        raise PostgresError("PostgreSQL did not read its files within 30 seconds; see its log")


def run(module: AnsibleModule) -> dict[str, Any]:
    """Reload where needed and report."""
    folder = Path(module.params["config_dir"])
    certificate, key = module.params["certificate"], module.params["key"]
    paths = [*(folder / name for name in FILES), *map(Path, filter(None, (certificate, key)))]
    modified = [path.stat().st_mtime for path in paths if path.exists()]
    server = Server(module.params["port"])
    reload = stale(modified, server.loaded())
    before = after = server.settings()
    if reload:
        errors = server.errors() + (unfit(certificate, key) if certificate else [])
        if errors:
            raise PostgresError("; ".join(errors))
        if not module.check_mode:
            server.reload(modified)
            after = server.settings()
    restart = server.pending()
    left, right = changes(before, after)
    return {
        "changed": reload or bool(restart),
        "restart": restart,
        "diff": {
            "before_header": "PostgreSQL, running",
            "after_header": "PostgreSQL, reloaded"
            + (f" (restart needed by {', '.join(restart)})" if restart else ""),
            "before": left,
            "after": right,
        },
    }


def main() -> None:
    """Run as a module."""
    module = AnsibleModule(
        argument_spec={
            "config_dir": {"type": "path", "required": True},
            "port": {"type": "int", "required": True},
            "certificate": {"type": "path"},
            "key": {"type": "path", "no_log": False},
        },
        required_together=[("certificate", "key")],
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except PostgresError as error:
        module.fail_json(msg=" ".join(str(error).split()))
    else:
        module.exit_json(**result)


if __name__ == "__main__":
    main()
