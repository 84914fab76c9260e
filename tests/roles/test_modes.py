"""Every file and folder that a role writes has owner, group and mode, whatever the umask of the host."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
from support.role_files import CHECKOUT
from support.role_tasks import COMMANDS, WRITERS, Task, tasks

# Commands that make a file by a redirection, by an option, or by what they are.
MAKES_FILES = re.compile(
    r"(?<![0-9&])>(?!&)|\b(touch|mkdir|install|cp|tee|tar --(create|extract)|pg_createcluster)\b|-out\b"
)
# They say the mode themselves, or nobody but root needs the file.
COMMANDS_WITH_MODES = {
    "archive | Have pgBackRest read what is newer than what it runs": "a mark that root alone looks for",
    "archive | Make the key and the certificate": "a task after it gives both their owner and mode",
}
# Calls that make files or folders.
MAKERS = {
    *(
        "copy",
        "copyfile",
        "copytree",
        "mkdir",
        "makedirs",
        "mkdtemp",
        "mkstemp",
        "move",
        "open",
        "TemporaryDirectory",
    ),
    *("touch", "write_bytes", "write_text"),
}
# How the modules that make files see to their modes.
MODULES_WITH_MODES = {
    "modules/celery_bundle.py": "on the controller; sets the modes in the archive",
    "modules/celery_current.py": "a mark that root alone looks for, and links",
    "modules/celery_files.py": "gives each file its owner, group and mode",
    "modules/celery_proof.py": "on the controller, in a scratch folder",
    "modules/celery_release.py": "sets its umask",
    "modules/celery_run.py": "gives each file its mode",
    "module_utils/celery_content.py": "on the controller, for the user that plays",
    "module_utils/celery_container.py": "on the controller, in a scratch folder of the user that plays",
    "module_utils/celery_git.py": "on the controller, for the user that plays",
    "module_utils/celery_interpreter.py": "on the controller; sets the modes in the archive",
    "module_utils/celery_lock_formats.py": "on the controller, for the user that plays",
    "module_utils/celery_pythons.py": "gives folders their mode; its modules set their umask",
    "module_utils/celery_wheels.py": "on the controller, for the user that plays",
    "module_utils/celery_shared_wheels.py": "its module sets its umask; links have the mode of the file",
    "module_utils/celery_tools.py": "on the controller; what may hold a secret is for its user alone",
    "modules/checked_files.py": "gives each file its owner, group and mode",
    "modules/certificate.py": "on the controller; gives keys their mode when it makes them",
    "modules/postgres_pgbouncer.py": "a scratch folder that it gives to the user of PgBouncer",
    "modules/postgres_source.py": "lets everybody read what it writes",
    "module_utils/postgres_files.py": "gives each file its owner and mode",
    "module_utils/postgres_scratch.py": "a scratch folder that it gives to the user of the server",
    "modules/redis_config_file.py": "takes owner, group and mode",
    "modules/redis_restore.py": "gives each file its owner and mode",
    "module_utils/scratch_process.py": "a log in a scratch folder",
    "module_utils/redis_scratch.py": "a scratch folder that it gives to the user of the scratch server",
}


def lacks(task: Task) -> list[str]:
    """What a task that makes files does not say about them."""
    arguments = task.arguments
    if arguments.get("state") in {"absent", "link"}:
        return []
    # On the controller the files belong to the user that plays.
    wanted = ["mode"] if task.file.startswith("playbooks/containers/") else ["owner", "group", "mode"]
    missing = [name for name in wanted if name not in arguments]
    if "mode" not in missing and not is_exact(arguments["mode"]):
        missing.append(f"mode {arguments['mode']}")
    return missing


def is_exact(mode: object) -> bool:
    """Whether a mode is four digits, or chosen among such."""
    digits = re.findall(r"'(\d+)'", mode) if isinstance(mode, str) and "{{" in mode else [mode]
    return "item[" in str(mode) or (
        digits != [] and all(re.fullmatch(r"0[0-7]{3}", str(part)) for part in digits)
    )


def test_every_task_that_writes_files_says_owner_group_and_mode() -> None:
    writers = [task for task in tasks() if task.module in WRITERS]

    assert len(writers) > 30
    assert {str(task): missing for task in writers if (missing := lacks(task))} == {}


def test_commands_that_make_files_are_known() -> None:
    found = {
        task.name
        for task in tasks()
        if task.module in COMMANDS
        and isinstance(task.arguments, dict)
        and ("creates" in task.arguments or MAKES_FILES.search(words(task.arguments)))
    }

    assert found == COMMANDS_WITH_MODES.keys()


def words(arguments: dict[str, Any]) -> str:
    """What a command runs, without what Ansible fills in."""
    argv = arguments.get("argv", [])
    text = arguments.get("cmd") or (argv if isinstance(argv, str) else " ".join(map(str, argv)))
    return re.sub(r"\{\{.*?\}\}", "", text, flags=re.DOTALL)


def makes_files(path: Path) -> bool:
    """Whether the code of a module makes a file or a folder."""
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if name not in MAKERS:
            continue
        given = [argument.value for argument in ast.walk(node) if isinstance(argument, ast.Constant)]
        if name != "open" or {"w", "wb", "x", "xb", "a", "ab"} & {
            value for value in given if isinstance(value, str)
        }:
            return True
    return False


def test_modules_that_make_files_are_known() -> None:
    plugins = CHECKOUT / "plugins"

    found = {
        str(path.relative_to(plugins))
        for folder in ("modules", "module_utils")
        for path in (plugins / folder).rglob("*.py")
        if makes_files(path)
    }

    assert found == MODULES_WITH_MODES.keys()


@pytest.mark.parametrize(
    ("module", "arguments", "missing"),
    [
        ("ansible.builtin.copy", {"owner": "root", "group": "root", "mode": "0644"}, []),
        ("ansible.builtin.copy", {"owner": "root", "group": "root"}, ["mode"]),
        ("ansible.builtin.copy", {"owner": "root", "group": "root", "mode": "preserve"}, ["mode preserve"]),
        ("ansible.builtin.copy", {"owner": "root", "group": "root", "mode": "u=rw"}, ["mode u=rw"]),
        ("ansible.builtin.template", {"mode": "{{ '0640' if x else '0600' }}"}, ["owner", "group"]),
        ("ansible.builtin.file", {"state": "absent"}, []),
        ("ansible.builtin.file", {"state": "touch"}, ["owner", "group", "mode"]),
    ],
)
def test_what_a_task_does_not_say_is_named(
    module: str, arguments: dict[str, Any], missing: list[str]
) -> None:
    assert lacks(Task("roles/some/tasks/main.yml", "some", module, arguments, [])) == missing
