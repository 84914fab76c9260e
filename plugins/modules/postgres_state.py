#!/usr/bin/python
"""Ansible module: what PostgreSQL a host has, and what its server says of its part in a replication."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.celery_fleet.platform.plugins.module_utils.postgres_server import (
    CONFIG,
    DATA,
    OWN_FILE,
    SOCKETS,
    program,
)

DOCUMENTATION = """
module: postgres_state
short_description: Ask a host for its PostgreSQL cluster and for the cluster's part in a replication
description:
  - Needs nothing on the host but Python, so that a bare host can be asked as well, and changes nothing.
  - A server that is starting is given a minute to answer.
  - What would make the role fail half-way is returned in C(errors), one line each.
options:
  version:
    description: The major version that the host shall have.
    type: str
    required: true
  takeover:
    description: Whether the role is going to manage the cluster. Then one that cannot be asked is an error.
    type: bool
    default: false
"""

EXAMPLES = """
- name: Ask the server
  postgres_state:
    version: "17"
  register: state
"""

RETURN = """
versions: {description: Major versions that have a configuration or data., type: list, returned: always}
data: {description: Whether there are data of the version., type: bool, returned: always}
configured: {description: Whether there is a configuration of the version., type: bool, returned: always}
running: {description: Whether the server answers., type: bool, returned: always}
standby:
  description: Whether it replays what another server writes; of a stopped one, whether it would.
  type: bool
  returned: always
streaming: {description: Whether a standby is connected to its primary., type: bool, returned: when running}
position:
  description: Bytes of write-ahead log, of a primary written, of a standby received.
  type: int
  returned: when running
replayed: {description: Bytes of write-ahead log that queries see., type: int, returned: when running}
last_commit: {description: When what was replayed last was committed., type: str, returned: when running}
timeline: {description: What a primary writes; 0 of a standby., type: int, returned: when running}
lost_slots:
  description: Replication slots for which the log that their standbys need is not kept any more.
  type: list
  returned: when running
errors: {description: Why the role cannot manage the cluster., type: list, returned: always}
homes:
  description: Folders of data below those that a hardened unit hides.
  type: list
  returned: always
"""

ANSWERS_WITHIN_SECONDS = 60.0
REJECTING = 1  # exit status of pg_isready
# Folders that the unit of the server hides.
HOMES = ("/home/", "/root/", "/run/user/")
PRIVATE = ("/tmp", "/var/tmp")  # noqa: S108 -- named, not used

QUESTION = """
SELECT json_build_object(
    'standby', recovery,
    'streaming', EXISTS (SELECT FROM pg_stat_wal_receiver WHERE status = 'streaming'),
    'position', pg_wal_lsn_diff(
        CASE WHEN recovery THEN greatest(pg_last_wal_receive_lsn(), pg_last_wal_replay_lsn())
            ELSE pg_current_wal_lsn() END, '0/0'),
    'replayed', pg_wal_lsn_diff(
        CASE WHEN recovery THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END, '0/0'),
    'last_commit', coalesce(pg_last_xact_replay_timestamp()::text, ''),
    'timeline', CASE WHEN recovery THEN 0
        ELSE ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int END,
    'lost_slots', (SELECT coalesce(json_agg(slot_name), '[]') FROM pg_replication_slots
        WHERE wal_status = 'lost'),
    'superuser', (SELECT rolsuper FROM pg_roles WHERE rolname = current_user),
    'settings', (SELECT json_object_agg(name, setting) FROM pg_settings
        WHERE name IN ('data_directory', 'hba_file', 'unix_socket_directories'))
) FROM pg_is_in_recovery() AS recovery
"""


def found_versions(config: Path, data: Path) -> list[str]:
    """The major versions of all clusters: folders of configuration, and what the data say themselves."""
    configured = {path.name for path in config.glob("*") if path.is_dir()}
    stored = {path.read_text(encoding="utf-8").strip() for path in data.glob("*/*/PG_VERSION")}
    return sorted(configured | stored)


def other_clusters(config: Path, version: str) -> list[str]:
    """The clusters of the version beside the one that the role manages."""
    return sorted(
        f"{version}/{path.parent.name}"
        for path in config.glob(f"{version}/*/postgresql.conf")
        if path.parent.name != "main"
    )


def address_in_use(pid_file: Path) -> tuple[str, str] | None:
    """The port that a running server uses and the folder of its socket, from its pid file."""
    if not pid_file.exists():
        return None
    lines = pid_file.read_text(encoding="utf-8").splitlines()
    return (lines[3].strip(), lines[4].strip() or SOCKETS) if len(lines) > 4 else None


class Asked:
    """What the host has, and why the role cannot manage it."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.version = module.params["version"]
        self.config = CONFIG / self.version / "main"
        self.data = DATA / self.version / "main"
        self.unit = f"postgresql@{self.version}-main"
        self.errors: list[str] = []

    def server(self) -> dict[str, Any]:
        """What the server says, or nothing if it does not run."""
        if not (address := address_in_use(self.data / "postmaster.pid")):
            return {}
        port, folder = address
        where = [f"--host={folder}", f"--port={port}"]
        deadline = time.monotonic() + ANSWERS_WITHIN_SECONDS
        ready = [program(self.version, "pg_isready"), *where]
        while (status := self.module.run_command(ready)[0]) == REJECTING:
            if time.monotonic() > deadline:
                self.module.fail_json(
                    msg="PostgreSQL does not accept connections; see its log in /var/log/postgresql"
                )
            time.sleep(0.2)
        if status:
            return {}
        psql = ["runuser", "-u", "postgres", "--", program(self.version, "psql"), *where]
        code, output, error = self.module.run_command(
            [*psql, "--no-psqlrc", "--no-password", "-Atq", "--dbname=postgres", f"--command={QUESTION}"]
        )
        if code:
            why = refused_login(" ".join(error.split()), self.config / "pg_hba.conf", self.unit)
            if not self.module.params["takeover"]:
                self.module.fail_json(msg=why)
            self.errors.append(why)
            return {}
        answer: dict[str, Any] = json.loads(output)
        self.compare(answer["settings"], superuser=answer["superuser"])
        return answer

    def compare(self, settings: dict[str, str], *, superuser: bool) -> None:
        """Note what the role would not find where it looks for it."""
        if not superuser:
            self.errors.append(
                "the user postgres of the server is no superuser: ALTER ROLE postgres SUPERUSER"
            )
        for name, path in (("hba_file", self.config / "pg_hba.conf"), ("data_directory", self.data)):
            if Path(settings[name]).resolve() != path.resolve():
                self.errors.append(elsewhere(name, settings[name], path, self.unit))
        folders = [folder.strip() for folder in settings["unix_socket_directories"].split(",")]
        if not {SOCKETS, f"/var{SOCKETS}"} & set(folders):
            kept = [folder for folder in folders if folder and folder not in PRIVATE]
            self.errors.append(
                f"its socket is in {', '.join(folders) or 'no folder'}: set unix_socket_directories ="
                f" '{','.join([SOCKETS, *kept])}' in postgresql.conf and restart {self.unit}"
            )
        elif hidden := sorted(set(folders) & set(PRIVATE)):
            self.errors.append(
                f"a socket is in {hidden[0]}, which the hardened unit has for itself alone: point its clients"
                f" to {SOCKETS}, take it out of unix_socket_directories, and restart {self.unit}"
            )

    def stopped(self) -> None:
        """Note a cluster that the role does not know and that does not run: nobody can ask it."""
        if not (self.config / "postgresql.conf").exists() or (self.config / OWN_FILE).exists():
            return
        command = [program(self.version, "postgres"), "-C", "data_directory", "-D", str(self.config)]
        _code, output, _error = self.module.run_command(["runuser", "-u", "postgres", "--", *command])
        data = Path(output.strip() or self.data)
        if data.resolve() != self.data.resolve():
            self.errors.append(elsewhere("data_directory", str(data), self.data, self.unit))
        elif (self.data / "PG_VERSION").exists() and not (self.data / "standby.signal").exists():
            self.errors.append(
                f"the cluster {self.version}/main does not run, so nobody can ask what it has: start it"
                f" (systemctl start {self.unit}), or remove it if nobody needs it"
                f" (pg_dropcluster {self.version} main)"
            )


def homes(data: Path, hidden: tuple[str, ...] = HOMES) -> list[str]:
    """Folders of data below those that the unit hides: a link, that of the log, tablespaces."""
    paths = {data, data / "pg_wal", *(data / "pg_tblspc").glob("*")}
    places = {path.resolve() for path in paths}
    found = {path for path in places if f"{path}/".startswith(hidden)}
    return sorted(str(path) for path in found if not found & set(path.parents))


def refused_login(said: str, hba: Path, unit: str) -> str:
    """What to do about a server that does not let its administrator in."""
    if "does not exist" in said:
        todo = "make it: CREATE ROLE postgres SUPERUSER LOGIN, as the superuser that there is"
    else:
        todo = f"make 'local all postgres peer' the first rule of {hba} and run systemctl reload {unit}"
    return f"PostgreSQL runs but does not let the system user postgres in over its socket ({said}): {todo}"


def elsewhere(name: str, path: str, wanted: Path, unit: str) -> str:
    """What to do about a path that the role does not manage."""
    if name == "data_directory":
        todo = f"stop {unit}, move the folder there or make a link or a mount of it, and change the setting"
    else:
        todo = f"move its rules into postgres_clients, take the setting out, and restart {unit}"
    return f"{name} is {path}, and the role manages {wanted}: {todo}"


def main() -> None:
    """Run as a module."""
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "str", "required": True},
            "takeover": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    asked = Asked(module)
    answer = asked.server()
    if others := other_clusters(CONFIG, asked.version):
        asked.errors.append(
            f"there is another cluster, {', '.join(others)}, and the role manages {asked.version}/main alone:"
            " move it to another host, or its databases to that cluster (pg_dump), and remove it"
        )
    if not answer and not asked.errors:
        asked.stopped()
    state = {
        "versions": found_versions(CONFIG, DATA),
        "data": (asked.data / "PG_VERSION").exists(),
        "configured": (asked.config / "postgresql.conf").exists(),
        "running": bool(answer),
        "standby": (asked.data / "standby.signal").exists(),
        "homes": homes(asked.data),
        "errors": asked.errors,
    }
    told = {name: value for name, value in answer.items() if name not in ("settings", "superuser")}
    module.exit_json(changed=False, **(state | told))


if __name__ == "__main__":
    main()
