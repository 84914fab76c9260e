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


def group(**values: Any) -> dict[str, Any]:
    """Inputs with one worker group."""
    usual = {"name": "web", "queues": ["web"], "pool": "prefork", "concurrency": 1, "workers": 1}
    return {"celery_app_worker_groups": [usual | values]}


def service(**values: Any) -> dict[str, Any]:
    """Inputs with one service."""
    return {"celery_app_services": [{"name": "web", "command": ["gunicorn"]} | values]}


def timer(**values: Any) -> dict[str, Any]:
    """Inputs with one timer."""
    return {"celery_app_timers": [{"name": "tick", "command": ["true"]} | values]}


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
    (group(environment={"NONE": None}), "celery_app_worker_groups: 'web': environment: NONE: is empty"),
    (group(memory_max="2GB"), "'web': memory_max is '2GB'; allowed: bytes, or a number with K, M, G or T"),
    (group(cpu_quota=1.5), "'web': cpu_quota is '1.5'; allowed: per cent of one CPU, such as 150%"),
    (group(concurrency=0), "'web': concurrency is 0; allowed: a whole number from 1 to 10000, or a least"),
    (group(concurrency=[1, 2, 3]), "'web': concurrency is a list; allowed: a whole number"),
    (group(concurrency=["two", 3]), "'web': concurrency is a list; allowed: a whole number"),
    (group(concurrency=[2, 4]), "nothing tells the workers to stretch; allowed: one number, or celery_app"),
    (
        group(concurrency=[2, 4], options={"autoscale": "4,2"}),
        "'web': concurrency is a list beside options.autoscale; allowed: one of them",
    ),
    (group(memory_maximum="2G"), "'web': memory_maximum is unknown; did you mean memory_max?"),
    ({"celery_app_packages": ["git", "rm -rf"]}, "celery_app_packages: 'rm -rf' cannot be a package"),
    ({"celery_app_directories": [{"path": "srv/x"}]}, "celery_app_directories: 'srv/x': path is 'srv/x'"),
    ({"celery_app_directories": [{"path": "/srv/../etc"}]}, "'/srv/../etc': path is"),
    ({"celery_app_directories": [{"path": "/home/me/x"}]}, "'/home/me/x' is a folder of the system"),
    ({"celery_app_directories": [{"path": "/var/lib/"}]}, "'/var/lib' is a folder of the system"),
    ({"celery_app_directories": [{"path": "/opt"}]}, "'/opt' is that of the releases; allowed: one beside"),
    (
        {"celery_app_directories": [{"path": "/srv/x", "mode": "rwx"}]},
        "'/srv/x': mode is 'rwx'; allowed: octal",
    ),
    ({"celery_app_directories": [{"path": "/srv/x"}, {"path": "/srv/x/"}]}, "duplicate path: /srv/x"),
    ({"celery_app_directories": [{"pth": "/srv/x", "path": "/srv/y"}]}, "pth is unknown; did you mean path?"),
    ({"celery_app_files": [{"dest": "../x", "content": ""}]}, "celery_app_files: '../x' cannot be a file"),
    ({"celery_app_files": [{"dest": "x"}]}, "'x': has neither content nor src; allowed: one of them"),
    ({"celery_app_files": [{"dest": "x", "content": "", "src": "y"}]}, "'x': has both content and src"),
    ({"celery_app_files": [{"dest": "x", "src": "/nowhere/x"}]}, "'x': src: there is no file /nowhere/x"),
    (
        {"celery_app_files": [{"dest": "x", "content": "", "read_by": ["beats"]}]},
        "'x': read_by: 'beats': did you mean beat?",
    ),
    (
        {"celery_app_files": [{"dest": "x", "content": "", "mode": "0777"}]},
        "mode is '0777'; allowed: 0640, 0644",
    ),
    ({"celery_app_files_directory": "/etc"}, "celery_app_files_directory: is '/etc'; allowed: a whole path"),
    (
        {"celery_app_after_migrate_commands": [{"command": ["x"], "hosts": ["worker"]}]},
        "celery_app_after_migrate_commands: element 1: hosts: 'worker': did you mean worker1?",
    ),
    ({"celery_app_after_migrate_commands": [{"command": []}]}, "element 1: command is an empty list"),
    (service(name="Web"), "celery_app_services: 'Web' cannot be a name; allowed: lower case letters"),
    (service(command=[]), "celery_app_services: 'web': command is an empty list; allowed: a program"),
    (service(command=["a\0"]), "celery_app_services: 'web': command holds a control character"),
    (service(redy_command=["true"]), "'web': redy_command is unknown; did you mean ready_command?"),
    (service(notify=True, ready_command=["true"]), "'web': has both notify and ready_command; allowed: one"),
    (service(hosts=["worker"]), "celery_app_services: 'web': hosts: 'worker': did you mean workers?"),
    (service(memory_max="2GB"), "celery_app_services: 'web': memory_max is '2GB'; allowed: bytes"),
    (service(environment={"NONE": None}), "celery_app_services: 'web': environment: NONE: is empty"),
    (service(start_timeout=0), "celery_app_services: 'web': start_timeout is 0; allowed: a whole number"),
    (
        {"celery_app_services": [{"name": "web", "command": ["x"]}] * 2},
        "celery_app_services: duplicate name: web; allowed: each name once",
    ),
    (timer(), "celery_app_timers: 'tick': on_calendar is missing"),
    (timer(on_calendar="daily; true"), "'tick': on_calendar is 'daily; true'; allowed: a time of systemd"),
    (timer(on_calender="daily", on_calendar="daily"), "on_calender is unknown; did you mean on_calendar?"),
]
RIGHT: list[dict[str, Any]] = [
    {"celery_app_environment": AWKWARD},
    {"celery_app_environment": {"NUMBER": 1, "PART": 0.5, "EMPTY": ""}},
    {
        "celery_app_root": "/srv/celery-2.0/",
        "celery_app_user": "_deploy",
        "celery_app_name": "proj.celery:app",
    },
    group(environment={"OMP_NUM_THREADS": 1}, memory_max="512M", cpu_quota="150%"),
    {
        "celery_app_packages": ["git", "libldap2", "libpq5=15.1-1~deb12u1", "libc6:i386"],
        "celery_app_directories": [
            {"path": "/srv/data", "mode": "2770"},
            {"path": "/mnt/nfs", "mount": True},
        ],
        "celery_app_files": [{"dest": "settings.py", "content": "A = 1", "read_by": ["beat"]}],
        "celery_app_after_migrate_commands": [{"command": ["python", "manage.py", "collectstatic"]}],
    },
    service(command=["sh", "-c", "one\ntwo"], hosts=["workers"], notify=True, cpu_quota="50%"),
    timer(on_calendar="Mon..Fri *-*-* 04:30:00 Europe/Berlin", hosts=["worker1"], randomized_delay=900),
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
