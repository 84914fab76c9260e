"""The role celery_app without a host: its modules, its units, its settings."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.celery_fleet.platform.plugins.module_utils.fleet_rules import of_role
from ansible_collections.celery_fleet.platform.plugins.module_utils.fleet_rules.evaluation import inventory
from support.made_up_fleets import as_written
from support.made_up_projects import AWKWARD, INPUTS
from support.role_files import (
    FACTS,
    load_shared,
    refusal,
    render,
)

environment = load_shared("celery_environment")


def test_settings_mean_the_same_to_a_shell_and_to_the_module(tmp_path: Path) -> None:
    template = "etc/celery/app.env.j2"
    text = render("celery_app", [template], INPUTS)[template]
    (tmp_path / "app.env").write_bytes(text.encode())
    dump = "import json, os, sys; json.dump(dict(os.environ), sys.stdout)"

    seen_by_shell = json.loads(
        subprocess.run(
            ["sh", "-c", 'set -a; . "$1"; python3 -c "$2"', "-", str(tmp_path / "app.env"), dump],
            check=True,
            capture_output=True,
        ).stdout
    )

    assert {name: seen_by_shell[name] for name in AWKWARD} == AWKWARD
    assert environment.read_environment(tmp_path / "app.env") == AWKWARD


WRONG: list[tuple[dict[str, Any], str]] = [
    (
        {"celery_app_root": "/opt/my app"},
        "celery_app_root: is '/opt/my app'; allowed: a whole path of letters",
    ),
    ({"celery_app_root": "opt/app"}, "celery_app_root: is 'opt/app'"),
    ({"celery_app_root": "/opt/%n"}, "celery_app_root: is '/opt/%n'"),
    ({"celery_app_user": "root"}, "celery_app_user: is 'root'; allowed: lower case letters"),
    ({"celery_app_user": "my user"}, "celery_app_user: is 'my user'"),
    ({"celery_app_name": "proj app"}, "celery_app_name: is 'proj app'; allowed: a module"),
    ({"celery_app_environment": {"EMPTY": None}}, "celery_app_environment: EMPTY: is empty (null)"),
    ({"celery_app_environment": {"LIST": [1]}}, "celery_app_environment: LIST: is a list"),
    ({"celery_app_environment": {"MY-NAME": "x"}}, "celery_app_environment: MY-NAME: 'MY-NAME' cannot be"),
    ({"celery_app_environment": {"NUL": "a\0b"}}, "celery_app_environment: NUL: holds a character"),
    ({"celery_app_migrate_environment": {"NONE": None}}, "celery_app_migrate_environment: NONE: is empty"),
]
RIGHT: list[dict[str, Any]] = [
    {"celery_app_environment": AWKWARD},
    {"celery_app_environment": {"NUMBER": 1, "PART": 0.5, "EMPTY": ""}},
    {
        "celery_app_root": "/srv/celery-2.0/",
        "celery_app_user": "_deploy",
        "celery_app_name": "proj.celery:app",
    },
]


def refused(inputs: dict[str, Any]) -> list[str]:
    """What the role refuses in its inputs."""
    seen = inventory({"worker1": INPUTS | inputs}, {"workers": ["worker1"]}, as_written)
    found = of_role("celery_app", seen.hosts["worker1"], seen)
    return [f"{finding.variable}: {finding.text}" for finding in found]


@pytest.mark.parametrize(("inputs", "message"), WRONG)
def test_what_cannot_work_is_named_in_one_line(inputs: dict[str, Any], message: str) -> None:
    (line,) = refused(inputs)

    assert message in line
    assert "\n" not in line


@pytest.mark.parametrize("inputs", RIGHT)
def test_what_can_work_passes(inputs: dict[str, Any]) -> None:
    assert refused(inputs) == []


def test_the_role_itself_refuses_wrong_input_and_another_distribution() -> None:
    """In a playbook of somebody's own, with nothing but the path of the roles."""
    other = {**FACTS, "distribution_major_version": "11", "distribution_version": "11.9"}

    assert refusal("celery_app", INPUTS | {"celery_app_root": "/my app", "ansible_facts": other}) == (
        "the host runs Debian 11.9; supported: Debian 12, 13; "
        "celery_app_root: is '/my app'; allowed: a whole path of letters, digits and . _ + @ -"
    )
