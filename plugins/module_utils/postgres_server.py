"""What the modules of the role share: the running server, and how the host runs it."""

from __future__ import annotations

import os
import pwd
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

SOCKETS = "/run/postgresql"
CONFIG = Path("/etc/postgresql")
DATA = Path("/var/lib/postgresql")
OWN_FILE = "conf.d/celery-fleet.conf"


class PostgresError(Exception):
    """Something that the user has to know, in one line."""


@contextmanager
def as_postgres() -> Iterator[None]:
    """As the system user postgres: the server asks the socket who is connecting."""
    former = os.geteuid()
    os.seteuid(pwd.getpwnam("postgres").pw_uid)
    try:
        yield
    finally:
        os.seteuid(former)


def program(version: str, name: str) -> str:
    """Return the path of a program of a major version."""
    return f"/usr/lib/postgresql/{version}/bin/{name}"


def port_in_use(wanted: int, sockets: list[str]) -> int:
    """The port in the name of the server's socket: the former one while a change waits for the restart."""
    ports = [int(name.rpartition(".")[2]) for name in sockets if re.fullmatch(r"\.s\.PGSQL\.\d+", name)]
    return wanted if wanted in ports or len(ports) != 1 else ports[0]


def stale(modified: list[float], loaded: float) -> bool:
    """Whether a file is newer than what the server read.

    The server may have read a file in the very tick of the clock in which it was written, hence the margin.
    """
    return any(time_of_change + 0.1 > loaded for time_of_change in modified)


class Server:
    """A running server; each question opens a connection, for an open one may not notice a reload."""

    def __init__(self, port: int, folder: str = SOCKETS) -> None:
        self.folder = folder
        names = [path.name for path in Path(folder).iterdir()] if Path(folder).is_dir() else []
        self.port = port_in_use(port, names)

    def connect(self, database: str = "postgres") -> Any:
        """A connection as the administrator, known to the server by the user of this process."""
        import psycopg2  # type: ignore[import-untyped]  # noqa: PLC0415 -- on the managed host only

        try:
            with as_postgres():
                return psycopg2.connect(host=self.folder, port=self.port, user="postgres", dbname=database)
        except psycopg2.OperationalError as error:
            raise PostgresError(
                f"cannot ask PostgreSQL: {error}; see its log in /var/log/postgresql"
            ) from error

    def ask(self, statement: str) -> list[tuple[Any, ...]]:
        """The rows that the server answers."""
        connection = self.connect()
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
                " UNION ALL SELECT format('pg_ident.conf:%s: %s', line_number, error)"
                " FROM pg_ident_file_mappings WHERE error IS NOT NULL"
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

    def overriding(self, own: str) -> list[tuple[str, str, str]]:
        """Return what wins over the role's file: the setting, its value and place, and what was wanted.

        The files as they are on the disk, the last line of a setting being the one that counts, and what a
        running server was given by other means.
        """
        lines = self.ask("SELECT name, setting, sourcefile, sourceline FROM pg_file_settings ORDER BY seqno")
        return overriding([(str(n).lower(), s, f, ln) for n, s, f, ln in lines if f], own)

    def given_otherwise(self, names: list[str]) -> list[str]:
        """Return which settings the server has from its command line or its environment."""
        return [
            f"{name} is '{value}' from the {source}"
            for name, value, source in self.ask(
                "SELECT name, setting, source FROM pg_settings"
                " WHERE source IN ('command line', 'environment variable') ORDER BY name"
            )
            if name in names
        ]


def overriding(lines: list[tuple[str, str, str, int]], own: str) -> list[tuple[str, str, str]]:
    """Return which settings of a file a later line changes: name, place, and both values in words.

    Args:
        lines: Name, value, file and number of each line, in the order in which the server reads them.
        own: The end of the path of the file that should count.
    """
    wanted = {name: value for name, value, path, _line in lines if path.endswith(own)}
    last = {name: (value, path, line) for name, value, path, line in lines}
    return [
        (name, f"{last[name][1]}:{last[name][2]}", f"is '{last[name][0]}', and '{value}' is wanted")
        for name, value in sorted(wanted.items())
        if not last[name][1].endswith(own) and last[name][0] != value
    ]


def answer(module: AnsibleModule, run: Callable[[AnsibleModule], dict[str, Any]]) -> None:
    """Run a module's work and report, an error in one line."""
    try:
        result = run(module)
    except PostgresError as error:
        module.fail_json(msg=" ".join(str(error).split()))
    else:
        module.exit_json(**result)
