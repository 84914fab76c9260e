#!/usr/bin/python3
"""Ansible module: make the cluster of a host a standby of another server."""

from __future__ import annotations

import shutil
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: postgres_standby
short_description: Make the cluster main of a host a standby of another server
description:
  - C(copy) takes a whole copy of the primary's data with pg_basebackup, and makes the configuration of the
    cluster where there is none. The copy is complete before the former data are removed, which needs room for
    both.
  - C(rewind) takes back with pg_rewind what a former primary wrote after the other server took over.
  - The server must be stopped, and is not started.
options:
  version:
    description: The major version.
    type: str
    required: true
  source:
    description: How to reach the primary, for libpq; the password is in a file that this names.
    type: str
    required: true
  method:
    description: How.
    type: str
    choices: [copy, rewind]
    required: true
  slot:
    description: The replication slot of the standby on the primary.
    type: str
    required: true
"""

EXAMPLES = """
- name: Copy the data
  postgres_standby:
    version: "17"
    source: host=data1 port=5432 user=replicator passfile=/var/lib/postgresql/replication.pgpass
    method: copy
    slot: data2
"""

DATA = Path("/var/lib/postgresql")
CONFIG = Path("/etc/postgresql")
SIGNAL = "standby.signal"


class Standby:
    """The cluster, and the commands that change it."""

    def __init__(self, module: AnsibleModule) -> None:
        self.module = module
        self.version = module.params["version"]
        self.data = DATA / self.version / "main"
        self.config = CONFIG / self.version / "main"

    def run(self, *command: str, user: str = "postgres") -> None:
        """Run a command to its end; its last line is the error if it fails."""
        code, output, error = self.module.run_command(["runuser", "-u", user, "--", *command])
        if code:
            words = (error or output).strip().splitlines()
            self.module.fail_json(msg=f"{Path(command[0]).name}: {words[-1] if words else code}")

    def program(self, name: str) -> str:
        """A program of the version."""
        return f"/usr/lib/postgresql/{self.version}/bin/{name}"

    def copy(self) -> None:
        """Have a whole copy of the primary in place of whatever is there."""
        new = self.data.with_name("main.new")
        if new.exists():  # of a broken run
            shutil.rmtree(new)
        self.run("mkdir", "--parents", "--mode=755", str(new.parent), user="root")
        self.run("install", "--directory", "--owner=postgres", "--mode=700", str(new), user="root")
        self.run(
            self.program("pg_basebackup"),
            f"--pgdata={new}",
            f"--dbname={self.module.params['source']}",
            f"--slot={self.module.params['slot']}",
            "--wal-method=stream",
            "--checkpoint=fast",
        )
        self.run("touch", str(new / SIGNAL))
        if not self.config.exists():
            # The same configuration as the primary's; the empty data that come with it go.
            self.run("pg_createcluster", self.version, "main", user="root")
        if self.data.exists():
            shutil.rmtree(self.data)
        new.rename(self.data)

    def rewind(self) -> None:
        """Have the state of the primary, from the point on where the two parted."""
        self.run(
            self.program("pg_rewind"),
            f"--target-pgdata={self.data}",
            f"--config-file={self.config / 'postgresql.conf'}",
            f"--source-server={self.module.params['source']} dbname=postgres",
        )
        self.run("touch", str(self.data / SIGNAL))


def main() -> None:
    """Run as a module."""
    required = {"type": "str", "required": True}
    module = AnsibleModule(
        argument_spec={
            "version": required,
            "source": required,
            "method": {**required, "choices": ["copy", "rewind"]},
            "slot": required,
        },
        supports_check_mode=True,
    )
    if not module.check_mode:
        standby = Standby(module)
        if module.params["method"] == "rewind":
            standby.rewind()
        else:
            standby.copy()
    module.exit_json(changed=True)


if __name__ == "__main__":
    main()
