"""Ansible filter: the sandbox of everything that runs as the app's user."""

from __future__ import annotations

from collections.abc import Callable

from ansible_collections.celery_fleet.platform.plugins.filter.service_sandbox import service_sandbox

DOCUMENTATION = r"""
name: app_sandbox
short_description: The sandbox of everything that runs as the app's user
description:
  - Returns the lines of a unit of systemd that confine workers, beat, the supervisor, and commands of a
    release.
  - Ends without a line feed.
options:
  _input:
    description: The app's user.
    type: str
    required: true
"""

EXAMPLES = r"""
- name: Show the sandbox of the workers
  ansible.builtin.debug:
    msg: "{{ celery_app_user | celery_fleet.platform.app_sandbox }}"
"""

RETURN = r"""
_value:
  description: Lines of the section C([Service]).
  type: str
"""

USER = """\
# With the user's own group; a user who was there before may have another home and shell.
User={user}
Environment=HOME=/var/lib/celery
# Read by systemd as root: the app's user cannot read the file.
EnvironmentFile=/etc/celery/app.env
StateDirectory=celery
StateDirectoryMode=0750
WorkingDirectory=/var/lib/celery
UMask=0077
RemoveIPC=true
"""


def app_sandbox(user: str) -> str:
    """Return the lines that confine what runs as the app's user."""
    return USER.format(user=user) + service_sandbox({"hides_users": True, "writes_code": True})


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[[str], str]]:
        """Return the filter by its name."""
        return {"app_sandbox": app_sandbox}
