"""What the tasks of roles and playbooks say about the files that they write."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

CHECKOUT = Path(__file__).resolve().parents[2]

# Modules that make files or folders.
WRITERS = {
    "ansible.builtin.assemble",
    "ansible.builtin.blockinfile",
    "ansible.builtin.copy",
    "ansible.builtin.file",
    "ansible.builtin.get_url",
    "ansible.builtin.lineinfile",
    "ansible.builtin.replace",
    "ansible.builtin.template",
    "ansible.builtin.unarchive",
    "community.general.ini_file",
    "celery_fleet.platform.redis_config_file",
}
COMMANDS = {"ansible.builtin.command", "ansible.builtin.shell"}
FILLED_IN = "{{"


class Task(NamedTuple):
    """A task of a role or a playbook."""

    file: str
    name: str
    module: str
    arguments: Any
    # Its loop, where that is a list in the task itself.
    loop: list[Any]

    def __str__(self) -> str:
        return f"{self.file}: {self.name}"

    def paths(self) -> Iterator[str]:
        """The paths that it writes, where no variable is among them."""
        path = str(self.arguments.get("dest") or self.arguments.get("path") or "")
        for item in self.loop or [""]:
            found = path.replace("{{ item }}", str(item))
            if found and FILLED_IN not in found:
                yield found


def flattened(entries: list[dict[str, Any]], file: str) -> Iterator[Task]:
    """The tasks among plays, blocks and tasks."""
    for entry in entries:
        for inner in ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks", "handlers"):
            yield from flattened(entry.get(inner) or [], file)
        loop = entry.get("loop")
        for module in entry.keys() & (WRITERS | COMMANDS):
            yield Task(
                file, entry.get("name", ""), module, entry[module], loop if isinstance(loop, list) else []
            )


def tasks() -> list[Task]:
    """All tasks of roles and playbooks that may write files."""
    folders = [CHECKOUT / "playbooks", *CHECKOUT.glob("roles/*/tasks"), *CHECKOUT.glob("roles/*/handlers")]
    found: list[Task] = []
    for path in sorted(path for folder in folders for path in folder.rglob("*.yml")):
        found += flattened(yaml.safe_load(path.read_text()), str(path.relative_to(CHECKOUT)))
    return found


def modes() -> dict[str, str]:
    """Mode, owner and group of each path that a task names in full, as `stat --format='%a %U %G'` says."""
    found = {}
    for task in tasks():
        said = task.arguments if isinstance(task.arguments, dict) else {}
        wanted = [str(said.get(name, FILLED_IN)) for name in ("mode", "owner", "group")]
        if task.module in WRITERS and not any(FILLED_IN in value for value in wanted):
            found.update(dict.fromkeys(task.paths(), " ".join([wanted[0].lstrip("0"), *wanted[1:]])))
    return found
