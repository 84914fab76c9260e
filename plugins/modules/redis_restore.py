#!/usr/bin/python
"""Ansible module: start a Redis server with the data of an RDB file, and count what it has."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.celery_fleet.platform.plugins.module_utils.redis_server import (
    RedisError,
    answer,
    connect,
    login_arguments,
    program,
    wait_until_ready,
)

DOCUMENTATION = """
module: redis_restore
short_description: Start a Redis server with the data of an RDB file
description:
  - Checks the file, stops the server, lays the file down as the base of its append-only file, starts the
    server and compares the number of its keys with that of the file.
  - Refuses a server that has keys, and a file that is not whole, before anything is touched.
options:
  file:
    description: The RDB file, on the host.
    type: path
    required: true
  unit:
    description: Unit of the server.
    type: str
    default: redis-server.service
  timeout:
    description: Seconds within which the data must be loaded.
    type: int
    default: 3600
extends_documentation_fragment: [celery_fleet.platform.redis_login]
"""

EXAMPLES = """
- name: Load the copy
  redis_restore:
    file: /var/backups/redis/redis-20260101T023000Z.rdb
    socket: /run/redis/redis-server.sock
    username: operator
    passwords: ["{{ operator_password }}"]
"""

RETURN = """
expected: {description: Keys of the file that had not expired., type: int, returned: always}
keys: {description: Keys of the server., type: int, returned: when it was restored}
"""


def counted(report: str) -> tuple[int, int, int]:
    """What redis-check-rdb says of a file: keys, those that expire at a time, those that have done so."""

    def number(words: str) -> int:
        found = re.search(rf"^\[info\] (\d+) {words}$", report, re.MULTILINE)
        if not found:
            raise RedisError(f"redis-check-rdb does not say how many '{words}'")
        return int(found[1])

    return number("keys read"), number("expires"), number("already expired")


def keys_of(info: dict[str, str]) -> int:
    """The keys of all databases, from INFO."""
    numbers = (
        re.search(r"keys=(\d+)", value) for name, value in info.items() if re.fullmatch(r"db\d+", name)
    )
    return sum(int(found[1]) for found in numbers if found)


def check(module: AnsibleModule, file: Path) -> tuple[int, int, int]:
    """Refuse a file that is not whole; count its keys."""
    if not file.is_file():
        raise RedisError(f"{file}: no such file")
    code, output, _errors = module.run_command([program("check-rdb"), str(file)])
    if code != 0 or "RDB looks OK" not in output:
        raise RedisError(f"{file} is no whole RDB file")
    return counted(output)


def lay_down(file: Path, settings: dict[str, str]) -> None:
    """Make the file the base of the append-only file. A server that has one looks at no other file."""
    folder = Path(settings["dir"])
    name = settings["appendfilename"]
    log = folder / settings["appenddirname"]
    shutil.rmtree(log, ignore_errors=True)
    (folder / settings["dbfilename"]).unlink(missing_ok=True)
    log.mkdir()
    base = log / f"{name}.1.base.rdb"
    shutil.copyfile(file, base)
    manifest = log / f"{name}.manifest"
    manifest.write_text(f"file {base.name} seq 1 type b\n", encoding="utf-8")
    for path, mode in ((log, 0o750), (base, 0o640), (manifest, 0o640)):
        shutil.chown(path, folder.owner(), folder.group())
        path.chmod(mode)


def run(module: AnsibleModule) -> dict[str, Any]:
    """Refuse or restore, and count."""
    params = module.params
    file = Path(params["file"])
    read, expiring, expired = check(module, file)
    expected = read - expired
    server = connect(params["socket"], params["username"], params["passwords"])
    present = keys_of(server.info())
    if present:
        raise RedisError(
            f"this server has {present} keys; allowed is an empty one (FLUSHALL as the operator empties it)"
        )
    result: dict[str, Any] = {"changed": True, "expected": expected}
    if module.check_mode:
        return result
    names = ("dir", "appendonly", "appendfilename", "appenddirname", "dbfilename")
    settings: dict[str, str] = server.do(("CONFIG", "GET", *names))[0]
    if settings["appendonly"] != "yes":
        raise RedisError("this server has no append-only file; run the role first")
    module.run_command(["systemctl", "stop", params["unit"]], check_rc=True)
    lay_down(file, settings)
    module.run_command(["systemctl", "start", params["unit"]], check_rc=True)
    wait_until_ready(params["socket"], params["username"], params["passwords"], params["timeout"])
    keys = keys_of(connect(params["socket"], params["username"], params["passwords"]).info("keyspace"))
    # Those that expire at a time may have done so by now.
    if not read - expiring <= keys <= read:
        raise RedisError(f"the file has {expected} keys, the server {keys}")
    return result | {"keys": keys}


def main() -> None:
    """Run as a module."""
    module = AnsibleModule(
        argument_spec={
            "file": {"type": "path", "required": True},
            **login_arguments(),
            "unit": {"type": "str", "default": "redis-server.service"},
            "timeout": {"type": "int", "default": 3600},
        },
        supports_check_mode=True,
    )
    answer(module, run)


if __name__ == "__main__":
    main()
