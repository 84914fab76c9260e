"""The projects of this host, and commands for them.

The roles install one launcher a project, which has its user, settings and sandbox: ``celery-app``, or
``celery-NAME-app``. Only root may start it. What is installed under these names is all that is known here.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from celery_autoscaler.protocol.project import DEFAULT_PROJECT
from celery_autoscaler.protocol.text import missing

LAUNCHER = re.compile(r"celery(?:-([a-z0-9_]+))?-app")
COMMAND = "/usr/local/bin/fleet"
# What can be asked of all projects at once: it changes nothing, and ends.
OF_ALL = (["status"], ["why"], ["tasks"], ["failures"], ["check"], ["dead-letter", "list"])


class HostError(Exception):
    """A command cannot be given to a project: one line that says why."""


@dataclass(frozen=True)
class Project:
    """A project that is deployed on this host."""

    name: str
    launcher: Path
    settings: Path

    def command(self, arguments: Sequence[str]) -> list[str]:
        """Return what runs the command for this project."""
        own = self.settings / "autoscaler.env"
        further = ["-e", str(own)] if own.exists() else []
        return [str(self.launcher), *further, COMMAND, *arguments]


def projects(root: Path = Path("/")) -> list[Project]:
    """Return the projects of this host, by name."""
    found = {}
    for launcher in (root / "usr/local/sbin").glob("celery*-app"):
        if (match := LAUNCHER.fullmatch(launcher.name)) is not None:
            prefix = launcher.name.removesuffix("-app")
            found[match[1] or DEFAULT_PROJECT] = Project(
                match[1] or DEFAULT_PROJECT, launcher, root / "etc" / prefix
            )
    return [found[name] for name in sorted(found)]


def run(arguments: Sequence[str], root: Path = Path("/"), *, is_root: bool | None = None) -> int:
    """Become the command of the project that is meant, or ask all; return the exit status.

    Raises:
        HostError: There is none, it is not clear which, or the user may not.
    """
    name, rest = chosen(arguments)
    there = projects(root)
    if not there:
        raise HostError("no project is deployed on this host, and CELERY_APP names no app")
    meant = [project for project in there if name in (None, project.name)]
    if not meant:
        raise HostError(missing("project", name or "", [project.name for project in there]))
    if not (os.geteuid() == 0 if is_root is None else is_root):
        raise HostError(f"only root may read the settings of this host: sudo fleet {' '.join(arguments)}")
    if len(meant) == 1:
        # It has the terminal, and gets its signals.
        os.execv(meant[0].launcher, meant[0].command(rest))  # noqa: S606
    if rest[:1] not in OF_ALL and rest[:2] not in OF_ALL:
        names = ", ".join(project.name for project in there)
        raise HostError(
            f"this host has several projects: {names}; name one: fleet -p {there[0].name} {' '.join(rest)}"
        )
    return ask_all(meant, rest)


def chosen(arguments: Sequence[str]) -> tuple[str | None, list[str]]:
    """Return the project that is named in front of a command, and the rest."""
    match list(arguments):
        case ["-p" | "--project", name, *rest]:
            return name, rest
        case [first, *rest] if first.startswith("--project="):
            return first.partition("=")[2], rest
        case [first, *rest] if re.match(r"-p[^-]", first):
            return first[2:], rest
        case rest:
            return None, rest


def ask_all(meant: Sequence[Project], arguments: Sequence[str]) -> int:
    """Ask each project, and print what each answers; return the worst exit status."""
    is_json = "--json" in arguments
    statuses, answers = [0], {}
    for project in meant:
        if not is_json:
            print(f"Project {project.name}", flush=True)  # noqa: T201
        done = subprocess.run(
            project.command(arguments), check=False, stdout=subprocess.PIPE if is_json else None, text=True
        )
        statuses.append(done.returncode)
        if is_json:
            answers[project.name] = answer(done.stdout)
        elif project is not meant[-1]:
            print(flush=True)  # noqa: T201
    if is_json:
        json.dump(answers, sys.stdout)
        print()  # noqa: T201
    return max(statuses)


def answer(text: str) -> object:
    """Return what a project answered; nothing if that is no JSON: it has said why."""
    try:
        return json.loads(text)
    except ValueError:
        return None
