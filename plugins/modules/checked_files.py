#!/usr/bin/python
"""Ansible module: write files together, once the programs that read them have accepted all of them."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.celery_fleet.platform.plugins.module_utils.quiet_module import QuietModule
from ansible_collections.celery_fleet.platform.plugins.module_utils.systemd_units import template, unread

DOCUMENTATION = """
module: checked_files
short_description: Write files together, once the programs that read them have accepted all of them
description:
  - Compares all files with what is wanted. Where one differs, all are written below a scratch folder, and the
    checks are run on them there. What a check says is the one line of the failure; nothing is written then.
  - A check whose program is not installed is left out, and so is a unit that is not there, as in the check
    mode of a bare host.
  - Folders that are missing are created, with the mode 0755.
options:
  files:
    description: The files.
    type: list
    elements: dict
    default: []
    suboptions: &file
      path: {description: The file., type: path, required: true}
      content: {description: The wanted text., type: str, required: true}
      mode: {description: Its mode., type: str, default: "0644"}
      owner: {description: Its owner., type: str, default: root}
      group: {description: Its group., type: str, default: root}
  secret_files:
    description: Files whose text is never shown.
    type: list
    elements: dict
    default: []
    suboptions: *file
  checks:
    description:
      - Commands that read the scratch files. C({root}) in a word is the scratch folder, which stands for
        C(/).
      - A command that fails refuses the files, and so does one that complains of a scratch file.
    type: list
    elements: list
    default: []
  units:
    description:
      - Units among the files, which systemd has to understand together with what the host has.
      - Files of a unit that systemd has not read since they were written count as written, for an earlier
        play was cut off before its handlers.
    type: list
    elements: str
    default: []
"""

EXAMPLES = """
- name: Write the unit
  checked_files:
    files:
      - path: /etc/systemd/system/copy.timer
        content: "{{ lookup('ansible.builtin.template', 'etc/systemd/system/copy.timer.j2') }}"
    units: [copy.timer]
"""

RETURN = """
written: {description: The files that were written or not read by systemd., type: list, returned: always}
"""

CHECKED_WITHIN_SECONDS = 60
UNIT_FOLDERS = ("/etc/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
# Where the reason is.
TELLING = re.compile(r"FAILED|ERROR: |\[\w+Error\]")
# pgBackRest exits with 0 nevertheless.
UNREADABLE = "status: error (other)"
# What names a file and says nothing against it.
QUIET = re.compile(r"Checking |SUCCESS")


class RefusedError(Exception):
    """Why the files are not written, in one line."""


def text_of(file: dict[str, Any]) -> str:
    """The wanted text; a lookup may have taken its last line feed."""
    return str(file["content"]).rstrip("\n") + "\n"


def present(path: Path) -> str | None:
    """The text of a file, None if there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def stage(root: Path, files: list[dict[str, Any]]) -> None:
    """Write the files below a folder that stands for the root."""
    for file in files:
        path = root / str(file["path"]).lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text_of(file), encoding="utf-8")


def refusal(output: str, root: str) -> str:
    """What a program says against the files, in one line: where it begins, else its last line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    for number, line in enumerate(lines):
        if TELLING.search(line) or (f"{root}/" in line and not QUIET.match(line)):
            # A heading is followed by the reason.
            found = " ".join(lines[number : number + 2]) if line.endswith(":") else line
            break
    else:
        found = [*lines[-1:], "it says nothing"][0]
    # What follows is no text: a file that cannot be decrypted.
    return re.split("[\x00-\x08\x0e-\x1f\ufffd]", found.replace(root, ""))[0][:300]


def run_check(command: list[str], root: str, written: Collection[str]) -> None:
    """Have a program read the scratch files.

    Raises:
        RefusedError: what it says of them.
    """
    if not shutil.which(command[0]):
        return
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{root}/etc/systemd/system:", "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(
            [word.replace("{root}", root) for word in command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=CHECKED_WITHIN_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RefusedError(f"{command[0]} did not end within {CHECKED_WITHIN_SECONDS} s") from None
    output, refused = done.stdout, done.returncode != 0 or UNREADABLE in done.stdout
    if command[0] == "systemd-analyze":
        output = complaints(output, written)
        # It leaves out what it does not understand, and only says so.
        refused = f"{root}/" in output or (refused and output != "")
    if refused:
        raise RefusedError(f"{command[0]} refuses what would be written: {refusal(output, root)}")


def complaints(output: str, written: Collection[str]) -> str:
    """What systemd says against units, but for programs that are written together with them."""
    lines = [line for line in output.splitlines() if line.strip()]
    absent = [re.search(r"Command (\S+) is not executable", line) for line in lines]
    return "\n".join(
        line for line, found in zip(lines, absent, strict=True) if not (found and found[1] in written)
    )


def is_there(unit: str, written: Collection[str]) -> bool:
    """Whether the host has a unit, or will have it."""
    places = [f"{folder}/{template(unit)}" for folder in UNIT_FOLDERS]
    return any(place in written or Path(place).exists() for place in places)


def check(params: dict[str, Any]) -> None:
    """Have all checks read all files."""
    commands = [list(map(str, command)) for command in params["checks"]]
    paths = {file["path"] for file in [*params["files"], *params["secret_files"]]}
    # In the check mode of a bare host there is nothing yet to which the files add something.
    units = [unit for unit in params["units"] if is_there(unit, paths)]
    if units:
        commands.append(["systemd-analyze", "verify", "--man=no", *units])
    if not commands:
        return
    # The programs may run as others than root do; nobody else reads it.
    with tempfile.TemporaryDirectory(prefix="checked-files-") as root:
        stage(Path(root), [*params["files"], *params["secret_files"]])
        for command in commands:
            run_check(command, root, paths)


def write(module: AnsibleModule, file: dict[str, Any]) -> None:
    """Replace a file in one step; nobody reads it half written."""
    path = Path(file["path"])
    missing = [folder for folder in path.parents if not folder.exists()]
    for folder in reversed(missing):
        folder.mkdir()
        folder.chmod(0o755)
    handle, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text_of(file))
        module.atomic_move(temporary, str(path))
    finally:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()


def attributes(module: AnsibleModule, file: dict[str, Any]) -> bool:
    """Give a file its owner and mode; whether they differed."""
    arguments = module.load_file_common_arguments(
        {**module.params, **file, "attributes": None}, path=file["path"]
    )
    return bool(module.set_fs_attributes_if_different(arguments, False))


def run(module: AnsibleModule) -> dict[str, Any]:
    """Compare, check, write and report."""
    params = module.params
    files = [*params["files"], *params["secret_files"]]
    before = {file["path"]: present(Path(file["path"])) for file in files}
    differing = [file for file in files if before[file["path"]] != text_of(file)]
    units = [unit for unit in params["units"] if is_there(unit, ())]
    late = unread(units, [file["path"] for file in files if file not in differing])
    if differing:
        check(params)
    if not module.check_mode:
        for file in differing:
            write(module, file)
    # In the check mode of a bare host there is no file, and perhaps no group yet.
    others = [file["path"] for file in files if Path(file["path"]).exists() and attributes(module, file)]
    shown = [file for file in differing if file in params["files"]]
    return {
        "changed": bool(differing or late or others),
        "written": [*(file["path"] for file in differing), *late],
        "diff": [
            {
                "before_header": file["path"],
                "after_header": file["path"],
                "before": before[file["path"]] or "",
                "after": text_of(file),
            }
            for file in shown
        ],
    }


def main() -> None:
    """Run as a module."""
    suboptions: dict[str, Any] = {
        "path": {"type": "path", "required": True},
        "content": {"type": "str", "required": True},
        "mode": {"type": "str", "default": "0644"},
        "owner": {"type": "str", "default": "root"},
        "group": {"type": "str", "default": "root"},
    }
    hidden = {**suboptions, "content": {"type": "str", "required": True, "no_log": True}}
    module = QuietModule(
        argument_spec={
            "files": {"type": "list", "elements": "dict", "default": [], "options": suboptions},
            "secret_files": {"type": "list", "elements": "dict", "default": [], "options": hidden},
            "checks": {"type": "list", "elements": "list", "default": []},
            "units": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    try:
        result = run(module)
    except RefusedError as error:
        module.fail_json(msg=str(error))
    module.exit_json(**result)


if __name__ == "__main__":
    main()
