"""Ansible filter: the sandbox of a service that the roles run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ansible.errors import AnsibleFilterError

DOCUMENTATION = r"""
name: service_sandbox
short_description: The sandbox of a service that the roles run
description:
  - Returns the lines of a unit of systemd that confine a service, without a line feed at the end.
  - C(RemoveIPC) is not among them. When a unit ends, it takes the shared memory of its user's other services
    too.
options:
  _input:
    description: What the service needs beyond the sandbox.
    type: dict
    required: true
    suboptions:
      capabilities:
        description: The capabilities that it keeps.
        type: str
        default: ""
      families:
        description: The kinds of addresses that it may use. With V(AF_UNIX) alone it has no network at all.
        type: str
        default: AF_UNIX AF_INET AF_INET6
      home:
        description: V(read-only) shows it the homes, V(tmpfs) those that C(BindPaths) names, V(true) hides
          them.
        type: str
        default: "true"
      system:
        description: V(full) lets it write wherever its user may, but in the folders of the system.
        type: str
        default: strict
      hides_users:
        description: Whether all users but root and its own are hidden.
        type: bool
        default: false
      writes_code:
        description: Whether it may run memory that it has written, as compilers at run time do.
        type: bool
        default: false
      denied:
        description: What is denied of the system calls of an ordinary service.
        type: str
        default: "@privileged"
      allowed:
        description: What of that is allowed nevertheless.
        type: str
        default: ""
"""

EXAMPLES = r"""
- name: Show the sandbox of a service without a network
  ansible.builtin.debug:
    msg: "{{ {'families': 'AF_UNIX'} | celery_fleet.platform.service_sandbox }}"
"""

RETURN = r"""
_value:
  description: Lines of the section C([Service]).
  type: str
"""

DEFAULTS: dict[str, Any] = {
    "capabilities": "",
    "families": "AF_UNIX AF_INET AF_INET6",
    "home": "true",
    "system": "strict",
    "hides_users": False,
    "writes_code": False,
    "denied": "@privileged",
    "allowed": "",
}


def service_sandbox(needs: Mapping[str, Any]) -> str:
    """Return the lines that confine a service.

    Raises:
        AnsibleFilterError: It needs what the sandbox does not know.
    """
    if unknown := sorted(needs.keys() - DEFAULTS.keys()):
        raise AnsibleFilterError(
            f"service_sandbox: {', '.join(unknown)} is unknown; known: {', '.join(DEFAULTS)}"
        )
    sandbox = DEFAULTS | dict(needs)
    lines = [
        "NoNewPrivileges=true",
        f"CapabilityBoundingSet={sandbox['capabilities']}",
        "LockPersonality=true",
        *([] if sandbox["writes_code"] else ["MemoryDenyWriteExecute=true"]),
        "PrivateDevices=true",
        *(["PrivateNetwork=true"] if sandbox["families"] == "AF_UNIX" else []),
        "PrivateTmp=true",
        *(["PrivateUsers=true"] if sandbox["hides_users"] else []),
        "ProtectClock=true",
        "ProtectControlGroups=true",
        f"ProtectHome={sandbox['home']}",
        "ProtectHostname=true",
        "ProtectKernelLogs=true",
        "ProtectKernelModules=true",
        "ProtectKernelTunables=true",
        "ProtectProc=invisible",
        f"ProtectSystem={sandbox['system']}",
        f"RestrictAddressFamilies={sandbox['families']}",
        "RestrictNamespaces=true",
        "RestrictRealtime=true",
        "RestrictSUIDSGID=true",
        "SystemCallArchitectures=native",
        "SystemCallFilter=@system-service",
        f"SystemCallFilter=~{sandbox['denied']}",
        *([f"SystemCallFilter={sandbox['allowed']}"] if sandbox["allowed"] else []),
        "# A denied call fails as it does without the right to it.",
        "SystemCallErrorNumber=EPERM",
    ]
    return "\n".join(lines)


class FilterModule:
    """What Ansible loads."""

    def filters(self) -> dict[str, Callable[..., str]]:
        """Return the filter by its name."""
        return {"service_sandbox": service_sandbox}
