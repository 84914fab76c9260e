#!/usr/bin/python
"""Ansible module: write a configuration file that its server rewrites as well."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.celery_fleet.platform.plugins.module_utils.redis_server import MASK, merged

DOCUMENTATION = """
module: redis_config_file
short_description: Write a configuration file of Redis or Sentinel that the server rewrites as well
description:
  - A failover has the server rewrite its file (CONFIG REWRITE) in words of its own. As long as the file
    still says what is wanted it is left alone, however that is written.
  - Of the lines that are not wanted, those above the server's own mark make a difference. What the server
    appended below is its own affair, and is lost when the file is written.
options:
  path:
    description: The file.
    type: path
    required: true
  content:
    description: The wanted text.
    type: str
    required: true
  keep:
    description: Name of a directive that is the server's to decide. Its lines stay as they are in the file.
    type: str
    required: true
  keep_if:
    description:
      - Keep them only if the file has a line whose beginning this regular expression matches. Else those of
        C(content) are written.
    type: str
    default: ""
  backup:
    description: Keep a copy of the file that is replaced.
    type: bool
    default: false
extends_documentation_fragment: [ansible.builtin.files]
"""

EXAMPLES = """
- name: Write the settings
  redis_config_file:
    path: /etc/redis/redis.conf
    content: "{{ lookup('ansible.builtin.template', 'etc/redis/redis.conf.j2') }}"
    keep: replicaof
"""

RETURN = """
backup_file: {description: The copy of the former file., type: str, returned: when there is one}
"""

SECRETS = re.compile(r"(?im)^((?:masterauth|requirepass|sentinel +(?:auth-pass +\S+|sentinel-pass)) +).*$")


def masked(text: str) -> str:
    """The text without its secrets, for a diff."""
    return SECRETS.sub(rf"\1{MASK}", text)


def write(module: AnsibleModule, path: Path, text: str) -> None:
    """Replace the file in one step; nobody reads it half written, nor before its mode is set."""
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    module.atomic_move(temporary, str(path))


def run(module: AnsibleModule) -> dict[str, Any]:
    """Compare, write and report."""
    params = module.params
    path = Path(params["path"])
    old = path.read_text(encoding="utf-8") if path.exists() else ""
    text = merged(old, params["content"], params["keep"], params["keep_if"])
    result: dict[str, Any] = {
        "changed": text != old,
        "diff": {
            "before_header": str(path),
            "after_header": str(path),
            "before": masked(old),
            "after": masked(text),
        },
    }
    if text != old and not module.check_mode:
        if params["backup"] and old:
            result["backup_file"] = module.backup_local(str(path))
        write(module, path, text)
    if path.exists():
        arguments = module.load_file_common_arguments(params)
        result["changed"] = module.set_fs_attributes_if_different(arguments, result["changed"])
    return result


def main() -> None:
    """Run as a module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "content": {"type": "str", "required": True, "no_log": True},
            "keep": {"type": "str", "required": True},
            "keep_if": {"type": "str", "default": ""},
            "backup": {"type": "bool", "default": False},
        },
        add_file_common_args=True,
        supports_check_mode=True,
    )
    module.exit_json(**run(module))


if __name__ == "__main__":
    main()
