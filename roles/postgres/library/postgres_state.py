#!/usr/bin/python3
"""Ansible module: what PostgreSQL a host has, and what its server says of its part in a replication."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: postgres_state
short_description: Ask a host for its PostgreSQL cluster and for the cluster's part in a replication
description:
  - Needs nothing on the host but Python, so that a bare host can be asked as well, and changes nothing.
  - A server that is starting is given a minute to answer.
options:
  version:
    description: The major version that the host shall have.
    type: str
    required: true
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
"""

CONFIG = Path("/etc/postgresql")
DATA = Path("/var/lib/postgresql")
ANSWERS_WITHIN = 60.0
REJECTING = 1  # exit status of pg_isready

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
        WHERE wal_status = 'lost')
) FROM pg_is_in_recovery() AS recovery
"""


def found_versions(config: Path, data: Path) -> list[str]:
    """The major versions of all clusters: folders of configuration, and what the data say themselves."""
    configured = {path.name for path in config.glob("*") if path.is_dir()}
    stored = {path.read_text(encoding="utf-8").strip() for path in data.glob("*/*/PG_VERSION")}
    return sorted(configured | stored)


def port_in_use(pid_file: Path) -> str | None:
    """The port that a running server uses, from its pid file."""
    if not pid_file.exists():
        return None
    lines = pid_file.read_text(encoding="utf-8").splitlines()
    return lines[3].strip() if len(lines) > 3 else None


def ask(module: AnsibleModule, version: str, port: str) -> dict[str, Any]:
    """What the server says, or nothing if it does not run."""
    programs = f"/usr/lib/postgresql/{version}/bin"
    where = ["--host=/run/postgresql", f"--port={port}"]
    deadline = time.monotonic() + ANSWERS_WITHIN
    while (status := module.run_command([f"{programs}/pg_isready", *where])[0]) == REJECTING:
        if time.monotonic() > deadline:
            module.fail_json(msg="PostgreSQL does not accept connections; see its log in /var/log/postgresql")
        time.sleep(0.2)
    if status:
        return {}
    psql = ["runuser", "-u", "postgres", "--", f"{programs}/psql", *where, "--no-psqlrc", "-Atq"]
    code, output, error = module.run_command([*psql, "--dbname=postgres", f"--command={QUESTION}"])
    if code:
        module.fail_json(msg=f"cannot ask PostgreSQL: {' '.join(error.split())}")
    answer: dict[str, Any] = json.loads(output)
    return answer


def main() -> None:
    """Run as a module."""
    module = AnsibleModule(
        argument_spec={"version": {"type": "str", "required": True}}, supports_check_mode=True
    )
    version = module.params["version"]
    folder = DATA / version / "main"
    port = port_in_use(folder / "postmaster.pid")
    answer = ask(module, version, port) if port else {}
    state = {
        "versions": found_versions(CONFIG, DATA),
        "data": (folder / "PG_VERSION").exists(),
        "configured": (CONFIG / version / "main/postgresql.conf").exists(),
        "running": bool(answer),
        "standby": (folder / "standby.signal").exists(),
    }
    module.exit_json(changed=False, **(state | answer))


if __name__ == "__main__":
    main()
