#!/usr/bin/python
"""Ansible module: write a set of configuration files, all of them or none."""

from __future__ import annotations

import grp
import io
import json
import os
import pwd
import shutil
import stat
import tarfile
import tempfile
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = r"""
---
module: celery_files
short_description: Write a set of configuration files, all of them or none
description:
  - Writes every file beside its place first. systemd checks units and the shell checks scripts there, so that
    what is refused replaces nothing. Then all of them take their places.
  - Each file belongs to root and has the mode and the group that are given, whatever the umask is.
  - Keeps what it replaces in an archive, from which C(state=restored) puts it back.
options:
  files:
    description: The files. Where their content is secret, the task must have C(no_log).
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: Where it belongs.
        type: path
        required: true
      content:
        description: Its text.
        type: str
        required: true
      mode:
        description: Its mode, as an octal number.
        type: str
        default: "0644"
      group:
        description: Its group.
        type: str
        default: root
  directories:
    description: Folders that belong to root and that everybody may look into.
    type: list
    elements: path
    default: []
  owned:
    description: Shell patterns of files that nobody else writes.
    type: list
    elements: str
    default: []
  others:
    description: Files among those that another task of the same kind writes.
    type: list
    elements: path
    default: []
  keep:
    description: Archives of what was replaced. The first one is written if something is; the others, which an
      earlier run left, are removed. All are restored.
    type: list
    elements: path
    required: true
  state:
    description: Whether to write the files or to put back what they have replaced.
    type: str
    choices: [present, restored]
    default: present
"""

RETURN = r"""
left:
  description: Files that match a pattern of C(owned), and that are no longer named.
  type: list
  elements: str
  returned: state is present
"""

PARSERS: dict[str, Callable[[str], object]] = {".json": json.loads, ".toml": tomllib.loads}
UNITS = {".service", ".timer", ".slice"}
# In an archive: the paths of the files that were not there.
ABSENT = "absent.json"


class File(NamedTuple):
    """A file as it should be."""

    path: Path
    content: bytes
    mode: int
    uid: int
    gid: int

    def is_there(self) -> bool:
        """Tell whether the file is as it should be."""
        try:
            seen = self.path.lstat()
            attributes = (stat.S_ISREG(seen.st_mode), stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid)
            return (
                attributes == (True, self.mode, self.uid, self.gid) and self.path.read_bytes() == self.content
            )
        except FileNotFoundError:
            return False

    def write_to(self, path: Path) -> None:
        """Write it somewhere, with its owner and mode from the first byte on."""
        path.touch(mode=0o600, exist_ok=False)
        with path.open("wb") as opened:
            os.fchown(opened.fileno(), self.uid, self.gid)
            os.fchmod(opened.fileno(), self.mode)
            opened.write(self.content)
            opened.flush()
            os.fsync(opened.fileno())


def wanted(params: dict[str, Any], *, may_lack_group: bool) -> list[File]:
    """Return the files that the parameters describe."""
    uid = pwd.getpwnam("root").pw_uid
    found = []
    for file in params["files"]:
        try:
            gid = grp.getgrnam(file["group"]).gr_gid
        except KeyError:
            if not may_lack_group:
                raise
            gid = -1
        content = file["content"].encode(errors="surrogateescape")
        found.append(File(Path(file["path"]), content, int(file["mode"], 8), uid, gid))
    return found


def make_directories(files: Iterable[File]) -> None:
    """Create the missing directories above the files, open to read."""
    for file in files:
        for folder in [*reversed(file.path.parents)]:
            if not folder.exists():
                folder.mkdir()
                folder.chmod(0o755)


def is_open(folder: Path) -> bool:
    """Tell whether a folder belongs to root, and everybody may look into it."""
    try:
        seen = folder.stat()
    except FileNotFoundError:
        return False
    return (stat.S_IMODE(seen.st_mode), seen.st_uid, seen.st_gid) == (0o755, 0, 0)


def check(module: AnsibleModule, files: list[File], scratch: Path) -> None:
    """Have systemd and the shell check what they will read; fail in one line."""
    scripts = {file: scratch / file.path.name for file in files if file.content.startswith(b"#!/bin/sh\n")}
    commands = {file: ["/bin/sh", "-n", str(copy)] for file, copy in scripts.items()}
    for file, copy in scripts.items():
        file.write_to(copy)
    for file in files:
        if file.path.suffix in UNITS:
            text = file.content.decode()
            # What a unit starts may come with it: the checker must find it where it is now.
            for script, copy in scripts.items():
                text = text.replace(f"={script.path} ", f"={copy} ")
            unit = scratch / file.path.name
            unit.write_text(text)
            commands[file] = ["systemd-analyze", "verify", str(unit)]
    for file in files:
        if parse := PARSERS.get(file.path.suffix):
            try:
                parse(file.content.decode())
            except ValueError as problem:
                module.fail_json(msg=f"{file.path} would be refused: {problem}")
    for file, command in commands.items():
        code, output, error = module.run_command(command)
        if code:
            said = [line for line in (error + output).splitlines() if line.strip()]
            reason = next(
                (line for line in said if file.path.name in line), said[-1] if said else f"exit {code}"
            )
            module.fail_json(msg=f"{file.path} would be refused: {reason.replace(f'{scratch}/', '')}")


def keep(archive: Path, files: list[File]) -> None:
    """Write what is in the place of the files, and which of them are not there, into an archive."""
    absent = [str(file.path) for file in files if not file.path.exists()]
    partial = archive.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600, exist_ok=False)
    with tarfile.open(partial, mode="w", dereference=True) as tar:
        for file in files:
            if str(file.path) not in absent:
                tar.add(file.path, str(file.path).lstrip("/"))
        listed = json.dumps(absent).encode()
        member = tarfile.TarInfo(ABSENT)
        member.size = len(listed)
        tar.addfile(member, io.BytesIO(listed))
    partial.replace(archive)


def kept(archive: Path) -> tuple[list[File], list[Path]]:
    """Return the files that an archive holds, and the paths where none was."""
    files = []
    absent: list[Path] = []
    with tarfile.open(archive) as tar:
        for member in tar:
            opened = tar.extractfile(member)
            content = opened.read() if opened else b""
            if member.name == ABSENT:
                absent = [Path(path) for path in json.loads(content)]
            else:
                path = Path("/") / member.name
                files.append(File(path, content, member.mode, member.uid, member.gid))
    return files, absent


def put(module: AnsibleModule, files: list[File], archive: Path | None) -> None:
    """Check the files, keep what they replace, and put them in their places."""
    make_directories(files)
    folders: dict[Path, Path] = {}
    try:
        for file in files:
            if file.path.parent not in folders:
                folders[file.path.parent] = Path(tempfile.mkdtemp(prefix=".new-", dir=file.path.parent))
            file.write_to(folders[file.path.parent] / file.path.name)
        if archive is not None:
            # Where programs may be executed, unlike what is under /tmp and /run on some hosts.
            with tempfile.TemporaryDirectory(prefix=".check-", dir=archive.parent) as scratch:
                check(module, files, Path(scratch))
            keep(archive, files)
        for file in files:
            (folders[file.path.parent] / file.path.name).replace(file.path)
    finally:
        for folder in folders.values():
            shutil.rmtree(folder, ignore_errors=True)


def differences(files: list[File]) -> list[dict[str, str]]:
    """Return what Ansible shows with ``--diff``."""
    shown = []
    for file in files:
        try:
            before = file.path.read_bytes()
        except OSError:
            before = b""
        shown.append(
            {
                "before_header": str(file.path),
                "after_header": str(file.path),
                "before": before.decode(errors="replace"),
                "after": file.content.decode(errors="replace"),
            }
        )
    return shown


def left_over(params: dict[str, Any]) -> list[str]:
    """Return the files that the role owns and no longer wants."""
    named = {file["path"] for file in params["files"]} | set(params["others"])
    found = {str(path) for pattern in params["owned"] for path in Path("/").glob(pattern.lstrip("/"))}
    return sorted(found - named)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "files": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "path": {"type": "path", "required": True},
                    "content": {"type": "str", "required": True},
                    "mode": {"type": "str", "default": "0644"},
                    "group": {"type": "str", "default": "root"},
                },
            },
            "directories": {"type": "list", "elements": "path", "default": []},
            "owned": {"type": "list", "elements": "str", "default": []},
            "others": {"type": "list", "elements": "path", "default": []},
            "keep": {"type": "list", "elements": "path", "required": True},
            "state": {"type": "str", "choices": ["present", "restored"], "default": "present"},
        },
        supports_check_mode=True,
    )
    archives = [Path(path) for path in module.params["keep"]]
    if module.params["state"] == "restored":
        restored = False
        for archive in (path for path in archives if path.exists()):
            restored = True
            if not module.check_mode:
                files, absent = kept(archive)
                put(module, files, None)
                for path in absent:
                    path.unlink(missing_ok=True)
        module.exit_json(changed=restored)
    changed = [f for f in wanted(module.params, may_lack_group=module.check_mode) if not f.is_there()]
    created = [str(file.path) for file in changed if not file.path.exists()]
    diff = differences(changed)
    if not module.check_mode:
        # Of an earlier run, which ended well or was put back.
        for archive in archives:
            archive.unlink(missing_ok=True)
        if changed:
            put(module, changed, archives[0])
    folders = [Path(path) for path in module.params["directories"]]
    closed = [path for path in folders if not is_open(path)]
    if not module.check_mode:
        for path in closed:
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o755)
            os.chown(path, 0, 0)
    module.exit_json(
        changed=bool(changed or closed), created=created, diff=diff, left=left_over(module.params)
    )


if __name__ == "__main__":
    main()
