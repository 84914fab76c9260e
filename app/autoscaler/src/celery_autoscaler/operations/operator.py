"""Who sends a command."""

import getpass
import os

from celery_autoscaler.protocol.text import as_text

# Set by `celery-app`, which runs the command as the app's user, and by the playbooks, which run it as root.
VARIABLE = "FLEET_OPERATOR"
LONGEST_NAME = 40


def operator() -> str:
    """Return the login name of who sends a command, not that of the user that it runs as."""
    for variable in (VARIABLE, "SUDO_USER"):
        if name := os.environ.get(variable, "").strip():
            return as_text(name, LONGEST_NAME)
    try:
        return as_text(getpass.getuser(), LONGEST_NAME)
    except (KeyError, OSError):
        # A container may run as a user that has no name.
        return str(os.getuid())
