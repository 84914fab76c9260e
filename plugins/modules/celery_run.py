#!/usr/bin/python
"""Ansible module: run a command of a release with settings that are not written yet."""

from __future__ import annotations

import grp
import hashlib
import json
import os
import re
import secrets
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_environment import (
    masked,
    parse_environment,
)

DOCUMENTATION = r"""
---
module: celery_run
short_description: Run a command of a release with settings that are not written yet
description:
  - Runs on the host, as the app's user, in the sandbox of the units. The settings are in a folder under
    C(/run) for as long as the command runs; no file of the host changes.
  - What has succeeded is not run again where C(creates) or C(proof) names a file that remembers it.
  - A command that fails is no failure of the task, whose output is hidden, but C(problem), one line, and
    C(status). The whole output is then in a file beside the releases, which C(log) names.
options:
  name:
    description: What it is for, as the line of a problem begins.
    type: str
    required: true
  release:
    description: Directory of the release.
    type: path
    required: true
  command:
    description: The command. With C(script) the arguments of that.
    type: list
    elements: str
    required: true
  script:
    description: A Python program to run in the release. Its last argument is a word; a line that begins with
      it is the program's answer, as JSON, or an object with the C(problem), or the whole line as C(refused).
      What the app prints is never taken for that.
    type: str
    default: ""
  answers:
    description: Whether the command prints its answer, as JSON, and nothing else.
    type: bool
    default: false
  environment:
    description: The settings, as systemd reads them from an C(EnvironmentFile). The task must have C(no_log).
    type: list
    elements: str
    required: true
  files:
    description: Further files by name. C($FILES) in the command is replaced by their directory.
    type: dict
    default: {}
  overlay:
    description: Files that the command finds in a C(directory), in the place of what is there; a dictionary
      with this, the C(group) that can read them, and C(files) as of celery_files.
    type: dict
    default: {}
  sandbox:
    description: Settings of a unit, one a line. What they say of files and of the directory is left out.
    type: str
    required: true
  creates:
    description: File that remembers that the command has succeeded, whatever changes afterwards.
    type: path
  proof:
    description: File that remembers what the command has succeeded with, and its answer. It runs again, and
      remembers that, where anything of it is different. Only root can read the file.
    type: path
"""

# Said here otherwise: where the settings come from, and where the command runs.
LEFT_OUT = ("EnvironmentFile=", "WorkingDirectory=")
# Nothing that root runs here may be a program of the release.
SYSTEM_PATH = "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
FAILED_STEPS = {200: "CHDIR", 203: "EXEC", 216: "GROUP", 217: "USER", 226: "NAMESPACE"}
# What begins the lines of Django's system checks that stop a command; its warnings follow them.
DJANGO_ERRORS = ("CRITICALS:", "ERRORS:")
EXCEPTION = re.compile(r"[A-Za-z_][\w.]*(Error|Exception)(: |$)")
# Exit statuses from which on systemd means itself (systemd.exec(5)).
SYSTEMD = range(200, 246)


class Ended(NamedTuple):
    """A command that has ended."""

    status: int
    output: str
    error: str
    journal: str = ""
    """What systemd says of it where it could not be started."""


def properties(sandbox: str) -> list[str]:
    """Return the settings of a unit as arguments of systemd-run."""
    settings = [line.strip() for line in sandbox.splitlines() if "=" in line and not line.startswith("#")]
    return [f"--property={setting}" for setting in settings if not setting.startswith(LEFT_OUT)]


def setting(sandbox: str, name: str) -> str:
    """Return the value of a setting of a unit."""
    return next(line.removeprefix(f"{name}=") for line in sandbox.splitlines() if line.startswith(f"{name}="))


def settings_folder(sandbox: str) -> str:
    """Return the folder in which a unit has the settings that it will have."""
    return str(Path(setting(sandbox, "EnvironmentFile")).parent)


def telling(lines: list[str]) -> str:
    """Return the line of an output that says what is wrong; hints, SQL and warnings may follow it."""
    for number, line in enumerate(lines[:-1]):
        if line in DJANGO_ERRORS:
            return lines[number + 1]
    said, in_frames = lines[-1], False
    for line in lines:
        if line.startswith("Traceback (most recent call last):"):
            in_frames = True
        elif (in_frames and not line.startswith(" ")) or EXCEPTION.match(line):
            said, in_frames = line, False
    return said.strip()


def told(ended: Ended, answer: Any, name: str) -> str:
    """Return the line that says why a command has failed; C(refused) begins with a variable of its own."""
    if isinstance(answer, dict) and "refused" in answer:
        return str(answer["refused"])
    return f"{name}: {answer['problem'] if isinstance(answer, dict) else reason(ended)}"


def reason(ended: Ended) -> str:
    """Return the line that says why a command has failed."""
    if ended.status in SYSTEMD and (lines := ended.journal.strip().splitlines()):
        # Before the last ones, which say only that it failed.
        said = [line for line in lines if "Failed at step" in line or "failed:" in line] or lines
        return said[0].partition(": ")[2] or said[0]
    for text in (ended.error, ended.output):
        if lines := [line.rstrip() for line in text.splitlines() if line.strip()]:
            return telling(lines).removeprefix("Error: ")
    if ended.status in FAILED_STEPS:
        return f"systemd could not start it ({FAILED_STEPS[ended.status]})"
    if ended.status > 128 and ended.status - 128 in set(signal.Signals):
        name = signal.Signals(ended.status - 128).name
        return f"it was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"it ended with status {ended.status} and said nothing"


def answer_in(output: str, word: str) -> Any:
    """Return the answer of a program among what the app has printed; nothing if it gave none."""
    found = [line.removeprefix(word) for line in output.splitlines() if line.startswith(word)]
    return json.loads(found[-1]) if found else None


@contextmanager
def staged(files: Mapping[str, str], environments: list[str]) -> Iterator[tuple[Path, list[Path]]]:
    """Have files that the app's user can read, and settings that root alone can, while a command runs."""
    with tempfile.TemporaryDirectory(prefix="celery-run-", dir="/run") as folder:
        root = Path(folder)
        root.chmod(0o711)
        for name, text in files.items():
            (root / name).write_text(text, encoding="utf-8")
            (root / name).chmod(0o644)
        paths = []
        for number, text in enumerate(environments):
            path = root / f"environment-{number}"
            path.touch(mode=0o600, exist_ok=False)
            path.write_bytes(text.encode(errors="surrogateescape"))
            paths.append(path)
        yield root, paths


@contextmanager
def overlaid(root: Path, overlay: Mapping[str, Any]) -> Iterator[list[str]]:
    """Have files in the place of a folder; yield the settings of a unit that show them there."""
    if not overlay:
        yield []
        return
    gid = grp.getgrnam(overlay["group"]).gr_gid
    folder, target = root / "overlay", Path(overlay["directory"])
    folder.mkdir(mode=0o755)
    for file in overlay["files"]:
        path = folder / Path(file["path"]).name
        path.touch(mode=0o600, exist_ok=False)
        os.chown(path, 0, gid)
        path.write_bytes(file["content"].encode(errors="surrogateescape"))
        path.chmod(int(file["mode"], 8))
    is_new = not target.exists()
    target.mkdir(parents=True, exist_ok=True)
    try:
        yield [f"--property=BindReadOnlyPaths={folder}:{target}"]
    finally:
        if is_new:
            target.rmdir()


def run(
    params: Mapping[str, Any], command: list[str], environments: list[Path], shown: Iterable[str] = ()
) -> Ended:
    """Run a command of the release as a unit that goes with it."""
    release = Path(params["release"])
    source = release / "source"
    directory = source if source.is_dir() else setting(params["sandbox"], "WorkingDirectory")
    unit = f"celery-run-{secrets.token_hex(4)}"
    arguments = [
        *("/usr/bin/systemd-run", "--quiet", "--pipe", "--wait", "--collect", f"--unit={unit}"),
        *properties(params["sandbox"]),
        *shown,
        *(f"--property=EnvironmentFile={path}" for path in environments),
        f"--working-directory={directory}",
        f"--setenv=PATH={release / 'venv/bin'}:{SYSTEM_PATH}",
        f"--setenv=CELERY_APP_PYTHON={release / 'venv/bin/python'}",
        *("--", "/usr/bin/env", "--", *command),
    ]
    done = subprocess.run(
        arguments,
        input=params["script"],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    journal = ""
    if done.returncode in SYSTEMD and not done.stderr.strip():
        show = ["journalctl", "--no-pager", "--output=cat", f"--unit={unit}.service"]
        journal = subprocess.run(show, capture_output=True, text=True, errors="replace", check=False).stdout
    return Ended(done.returncode, done.stdout, done.stderr, journal)


def remember(path: Path, text: str, mode: int) -> None:
    """Write a file of the release, with its mode whatever the umask is."""
    partial = path.with_name(f".{path.name}.new")
    partial.unlink(missing_ok=True)
    partial.touch(mode=0o600, exist_ok=False)
    partial.write_text(text, encoding="utf-8")
    partial.chmod(mode)
    partial.replace(path)


def fingerprint(params: Mapping[str, Any]) -> str:
    """Return what differs wherever anything of a command differs."""
    said = {
        name: params[name] for name in ("command", "script", "environment", "files", "overlay", "sandbox")
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def remembered(path: Path) -> dict[str, Any]:
    """Return what a proof remembers; nothing of one that is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "release": {"type": "path", "required": True},
            "command": {"type": "list", "elements": "str", "required": True},
            "script": {"type": "str", "default": ""},
            "answers": {"type": "bool", "default": False},
            "environment": {"type": "list", "elements": "str", "required": True, "no_log": True},
            "files": {"type": "dict", "default": {}},
            "overlay": {"type": "dict", "default": {}},
            "sandbox": {"type": "str", "required": True},
            "creates": {"type": "path"},
            "proof": {"type": "path"},
        },
        supports_check_mode=True,
    )
    params = module.params
    release = Path(params["release"])
    proof = Path(params["proof"]) if params["proof"] else None
    creates = Path(params["creates"]) if params["creates"] else None
    key = fingerprint(params)
    seen = remembered(proof) if proof is not None else {}
    if (creates is not None and creates.exists()) or seen.get("key") == key:
        module.exit_json(changed=False, answer=seen.get("answer"), problem="")
    if module.check_mode:
        module.exit_json(changed=creates is not None, answer=None, problem="")
    word = f"answer-{secrets.token_hex(16)}:"
    with (
        staged(params["files"], params["environment"]) as (folder, environments),
        overlaid(folder, params["overlay"]) as shown,
    ):
        command = [argument.replace("$FILES", str(folder)) for argument in params["command"]]
        if params["script"]:
            command = ["python", "-", *command, word]
        ended = run(params, command, environments, shown)
    settings: dict[str, str] = {}
    for text in params["environment"]:
        settings |= parse_environment(text)
    if ended.status:
        # Above the releases: one that is refused does not stay.
        log = release.parents[1] / "failed.log"
        remember(log, f"{' '.join(command)}\n{ended.output}{ended.error}{ended.journal}", 0o600)
        problem = told(ended, answer_in(ended.output, word), params["name"])
        problem = masked(problem, settings).replace(str(folder), settings_folder(params["sandbox"]))
        module.exit_json(
            changed=False,
            problem=problem,
            log=str(log),
            answer=None,
            status=ended.status,
        )
    answer = json.loads(ended.output) if params["answers"] else answer_in(ended.output, word)
    if creates is not None:
        remember(creates, "", 0o644)
    if proof is not None:
        remember(proof, json.dumps({"key": key, "answer": answer}) + "\n", 0o600)
    module.exit_json(changed=creates is not None, answer=answer, problem="")


if __name__ == "__main__":
    main()
