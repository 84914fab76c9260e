"""What a module of Ansible asks of Ansible, for tests that call its functions."""

import subprocess
from typing import Any


class RefusedError(Exception):
    """A module has failed."""


class Module:
    """What a module asks Ansible for."""

    def __init__(self, **params: Any) -> None:
        self.params = params

    def run_command(self, command: list[str], **_: Any) -> tuple[int, str, str]:
        """Run a command."""
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout, done.stderr

    def fail_json(self, msg: str) -> None:
        """Fail."""
        raise RefusedError(msg)
