"""Ansible filter: the sandbox of everything that runs as the app's user."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ansible_collections.celery_fleet.platform.plugins.filter.service_sandbox import service_sandbox
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_project import DEFAULT, prefix_of

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
  directories:
    description: Directories beside its own in which it may write.
    type: list
    elements: str
    default: []
  project:
    description: The name of the project, which is in the names of its own directories.
    type: str
    default: celery
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

# Workers, supervisors and commands find the keys and units of their project by it.
PROJECT_VARIABLE = "CELERY_APP_PROJECT"
USER = """\
# With the user's own group; a user who was there before may have another home and shell.
User={user}
Environment=HOME=/var/lib/{prefix}
{mark}# Read by systemd as root: the app's user cannot read the file.
EnvironmentFile=/etc/{prefix}/app.env
StateDirectory={prefix}
StateDirectoryMode=0750
WorkingDirectory=/var/lib/{prefix}
UMask=0077
RemoveIPC=true
"""


def app_sandbox(user: str, directories: Sequence[str] = (), project: str = DEFAULT) -> str:
    """Return the lines that confine what runs as the app's user."""
    mark = "" if project == DEFAULT else f"Environment={PROJECT_VARIABLE}={project}\n"
    own = USER.format(user=user, prefix=prefix_of(project), mark=mark)
    writable = "".join(f"ReadWritePaths={path}\n" for path in directories)
    # Without the capability, chown keeps the owner and sets a group of the owner's, as many programs do.
    needs = {"hides_users": True, "writes_code": True, "allowed": "@chown"}
    return own + writable + service_sandbox(needs)


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., str]]:
        """Return the filter by its name."""
        return {"app_sandbox": app_sandbox}
