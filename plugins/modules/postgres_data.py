#!/usr/bin/python
"""Ansible module: fill the data directory of a cluster from another server or from the backups."""

from __future__ import annotations

import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: postgres_data
short_description: Fill the data directory of a cluster from another server or from the backups
description:
  - C(copy) takes a whole copy of the primary's data with pg_basebackup, and makes the configuration of the
    cluster where there is none.
  - C(rewind) takes back with pg_rewind what a former primary wrote after the other server took over.
  - C(restore) takes the data from the backups with pgBackRest; the server replays the log when it starts.
  - After C(copy) and C(rewind) the server is a standby.
  - C(copy) and C(restore) keep the former data until the new ones are complete, which needs room for both.
  - The server must be stopped, and is not started.
options:
  version:
    description: The major version.
    type: str
    required: true
  method:
    description: How.
    type: str
    choices: [copy, rewind, restore]
    required: true
  source:
    description: How to reach the primary, for libpq; the password is in a file that this names.
    type: str
    default: ""
  slot:
    description: The replication slot of the standby on the primary, for C(copy).
    type: str
    default: ""
  stanza:
    description: The name of the cluster in the repository, for C(restore).
    type: str
    default: ""
  moment:
    description: The moment to restore, with its time zone; empty for the end of the log.
    type: str
    default: ""
  timeline:
    description: The timeline to follow; empty for the latest.
    type: str
    default: ""
  restore_command:
    description: How the server fetches the log while it replays it, for C(restore).
    type: str
    default: ""
"""

EXAMPLES = """
- name: Copy the data
  postgres_data:
    version: "17"
    method: copy
    source: host=data1 port=5432 user=replicator passfile=/var/lib/postgresql/replication.pgpass
    slot: data2

- name: Restore the data
  postgres_data:
    version: "17"
    method: restore
    stanza: main
    restore_command: pgbackrest --stanza=main archive-get %f "%p"
    moment: 2026-11-24 10:00:00+00
"""

DATA = Path("/var/lib/postgresql")
CONFIG = Path("/etc/postgresql")
SIGNAL = "standby.signal"


class CommandError(Exception):
    """A command failed; what it said last."""


class Data:
    """The data of the cluster, and the commands that change them."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.version = module.params["version"]
        self.place = DATA / self.version / "main"
        self.new = self.place.with_name("main.new")
        self.config = CONFIG / self.version / "main"

    def run(self, *command: str, user: str = "postgres") -> None:
        """Run a command to its end."""
        # libpq looks into the home, where postgres may not look into root's.
        code, output, error = self.module.run_command(
            ["runuser", "-u", user, "--", *command], environ_update={"HOME": str(DATA)}, umask=0o022
        )
        if code:
            words = (error or output).strip().splitlines()
            raise CommandError(f"{Path(command[0]).name}: {words[-1] if words else code}")

    def program(self, name: str) -> str:
        """A program of the version."""
        return f"/usr/lib/postgresql/{self.version}/bin/{name}"

    def begin(self) -> None:
        """Have an empty directory beside the place."""
        if self.new.exists():  # of a broken run
            shutil.rmtree(self.new)
        self.run("mkdir", "--parents", "--mode=755", str(self.new.parent), user="root")
        self.run("install", "--directory", "--owner=postgres", "--mode=700", str(self.new), user="root")

    def replace(self) -> None:
        """Have the complete new data in place of whatever is there."""
        if self.place.exists():
            shutil.rmtree(self.place)
        self.new.rename(self.place)

    def copy(self) -> None:
        """Have a whole copy of the primary."""
        self.begin()
        self.run(
            self.program("pg_basebackup"),
            f"--pgdata={self.new}",
            f"--dbname={self.module.params['source']}",
            f"--slot={self.module.params['slot']}",
            "--wal-method=stream",
            "--checkpoint=fast",
        )
        self.run("touch", str(self.new / SIGNAL))
        if not self.config.exists():
            # The same configuration as the primary's; the empty data that come with it go.
            self.run("pg_createcluster", self.version, "main", user="root")
        self.replace()

    def rewind(self) -> None:
        """Have the state of the primary, from the point on where the two parted."""
        self.run(
            self.program("pg_rewind"),
            f"--target-pgdata={self.place}",
            f"--config-file={self.config / 'postgresql.conf'}",
            f"--source-server={self.module.params['source']} dbname=postgres",
        )
        self.run("touch", str(self.place / SIGNAL))

    def restore(self) -> None:
        """Have the last backup before the moment, and what the server needs to replay the log from there."""
        moment, timeline = self.module.params["moment"], self.module.params["timeline"]
        # Its own restore command would name the present place, which is gone soon.
        options = [
            f"--stanza={self.module.params['stanza']}",
            f"--pg1-path={self.new}",
            f"--recovery-option=restore_command={self.module.params['restore_command']}",
        ]
        if moment:
            options += ["--type=time", f"--target={moment}", "--target-action=promote"]
        if timeline:
            options.append(f"--target-timeline={timeline}")
        self.begin()
        self.run("pgbackrest", *options, "restore")
        self.replace()


def main() -> None:
    """Run as a module."""
    optional = {"type": "str", "default": ""}
    module = AnsibleModule(
        argument_spec={
            "version": {"type": "str", "required": True},
            "method": {"type": "str", "required": True, "choices": ["copy", "rewind", "restore"]},
            "source": optional,
            "slot": optional,
            "stanza": optional,
            "moment": optional,
            "timeline": optional,
            "restore_command": optional,
        },
        required_if=[
            ("method", "copy", ("source", "slot")),
            ("method", "rewind", ("source",)),
            ("method", "restore", ("stanza", "restore_command")),
        ],
        supports_check_mode=True,
    )
    if not module.check_mode:
        data = Data(module)
        try:
            {"copy": data.copy, "rewind": data.rewind, "restore": data.restore}[module.params["method"]]()
        except CommandError as error:
            module.fail_json(msg=str(error))
    module.exit_json(changed=True)


if __name__ == "__main__":
    main()
