"""What the playbooks print about the fleet, and how they refuse what was typed wrong."""

import copy
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

CHECKOUT = Path(__file__).resolve().parents[1]
PLAYBOOKS = CHECKOUT / "playbooks"
ANSIBLE_PLAYBOOK = Path(sys.executable).with_name("ansible-playbook")


def load(path: str) -> ModuleType:
    """Import a plugin."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, CHECKOUT / "plugins" / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


report = load("callback/fleet_report.py")
status = load("callback/fleet_status.py")
request = load("action/fleet_request.py")


def shown(table: Any) -> str:
    """Return what a table looks like on a terminal."""
    console = Console(width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(table)
    return console.export_text()


# --- Tables --------------------------------------------------------------------------------------------


def unit(name: str, active: str = "active") -> dict[str, str]:
    return {"unit": name, "active": active}


WORKER = {
    "answers": True,
    "units": [unit("celery-worker@general-1.service"), unit("celery-autoscaler.service")],
    "missing": [],
}


def test_tasks_are_counted_by_the_inventory_s_name_of_a_host() -> None:
    executed = {"general-1@web-1": 7, "general-1@web-10": 5, "io-1@2001:db8::11": 3}

    table = shown(report.hosts_table(dict.fromkeys(["web-1", "web-10", "2001:db8::11"], WORKER), executed))

    rows = [line.split("│") for line in table.splitlines() if "celery-autoscaler" in line]
    assert {cells[1].strip(): cells[4].strip() for cells in rows} == {
        "web-1": "7",
        "web-10": "5",
        "2001:db8::11": "3",
    }


def test_hosts_that_were_not_collected_are_silent_as_well() -> None:
    hosts = {"web1": WORKER, "web2": {**WORKER, "answers": False}}

    assert report.silent_hosts(["web1", "web2", "web3"], hosts) == ["web2", "web3"]


def test_hosts_that_do_not_answer_are_the_first_warnings() -> None:
    host = {
        "answers": True,
        "units": [unit("redis-server.service", "failed")],
        "project": "celery",
        "release": "",
        "redis": {},
        "postgres": {},
    }
    hosts = status.complete({"a": host, "z": status.SILENT}, ["a", "m", "z"])

    assert status.silent(hosts) == ["m does not answer", "z does not answer"]
    assert list(status.warnings(hosts, {})) == ["a: redis-server.service has failed"]
    assert shown(status.hosts_table(hosts, {})).count("does not answer") == 2


def test_a_supervisor_that_runs_and_does_not_report_is_a_warning() -> None:
    one = {**status.SILENT, "answers": True, "project": "celery"}
    host = {**one, "units": [unit("celery-autoscaler.service")]}
    supervisor = {"groups": {}, "state": "supervising"}

    found = list(status.warnings({"a": host, "b": host}, {"celery": {"supervisors": {"b": supervisor}}}))

    assert found == ["a: its supervisor runs but does not report: can the host reach Redis?"]


# --- What is typed -------------------------------------------------------------------------------------

INVENTORY: dict[str, Any] = {
    "all": {
        "vars": {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "celery_app_name": "tasks",
            "celery_app_supervised": True,
            "celery_app_worker_groups": [{"name": "general", "queues": ["default"], "workers": 1}],
            "postgres_repository": "backup1",
        },
        "hosts": {"backup1": {}},
        "children": {
            "redis": {"hosts": {"data1": {}}},
            "postgres": {"hosts": {"data1": {}, "data2": {"postgres_replication_of": "data1"}}},
            "workers": {
                "hosts": {
                    # Nobody listens there.
                    "worker1": {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1},
                    "worker2": {},
                    "worker3": {},
                }
            },
            "beat": {"hosts": {"worker1": {}}},
        },
    }
}


@pytest.fixture(scope="module")
def inventory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An inventory whose first worker host is dead; nothing is deployed on the others, this machine."""
    path = tmp_path_factory.mktemp("inventory") / "hosts.json"
    path.write_text(json.dumps(INVENTORY), encoding="utf-8")
    return path


def refusal(inventory: Path, playbook: str, *options: str) -> str:
    """Run a playbook from a folder without ansible.cfg; return the line in which it refuses."""
    done = subprocess.run(
        [str(ANSIBLE_PLAYBOOK), "-i", str(inventory), str(PLAYBOOKS / f"{playbook}.yml"), *options],
        check=False,
        capture_output=True,
        text=True,
        cwd=inventory.parent,
    )
    printed = done.stdout + done.stderr
    assert done.returncode not in {0, 4}, printed
    assert "changed=1" not in printed, printed
    [line] = [line for line in printed.splitlines() if line.startswith("fatal:") and "FAILED" in line] or [
        printed
    ]
    return line


REFUSED: list[tuple[str, Sequence[str], str]] = [
    ("drain", [], "name the worker host: -e host=<one of worker1, worker2, worker3>"),
    ("drain", ["-e", "host=wroker2"], "no worker host is named 'wroker2' (did you mean worker2?)"),
    ("drain", ["-e", "host=worker1", "--limit", "worker2"], "--limit worker2 leaves out worker1"),
    ("resume", ["-e", "host=worker1"], "worker1 does not answer; nothing was changed"),
    (
        "scale",
        ["-e", "group=genral", "-e", "min_workers=1"],
        "no worker group is named 'genral' (did you mean",
    ),
    (
        "scale",
        ["-e", "group=general", "-e", "minimum=2"],
        "minimum: the name of this variable is min_workers now",
    ),
    ("scale", ["-e", "group=general"], "give at least one of -e min_workers=…, -e max_workers=…, -e reset=…"),
    ("scale", ["-e", "group=general", "-e", "min_workers=1"], "nothing is deployed yet: site.yml does that"),
    ("pause", ["--limit", "worker1"], "no worker host answers"),
    ("pause", ["--limit", "data1"], "--limit data1 leaves no worker host; there are: worker1, worker2"),
    (
        "rollback",
        ["-e", "relaese=1"],
        "relaese: this playbook reads no such variable (did you mean release?)",
    ),
    (
        "failover_postgres",
        ["-e", "postgres_new_primary=worker2"],
        "no server of PostgreSQL is named 'worker2'",
    ),
    ("restore_postgres", ["-e", "postgres_new_primary=data2"], "and to which moment"),
    ("restore_redis", ["-e", "redis_restore_file=/nowhere"], "'/nowhere' is no file here"),
    ("backup_postgres", ["--limit", "data1"], "--limit data1 leaves no repository of backups"),
    ("rotate_redis_passwords", [], "worker1 does not answer; nothing was changed. Wait for it, or rotate"),
]


@pytest.mark.parametrize(("playbook", "options", "words"), REFUSED)
def test_a_playbook_refuses_what_was_typed_wrong_before_anything_is_done(
    inventory: Path, playbook: str, options: Sequence[str], words: str
) -> None:
    assert words in refusal(inventory, playbook, *options)


def test_every_problem_is_named_at_once() -> None:
    rules = {
        "host": {"kind": "host", "required": True, "among": ["a"]},
        "min_workers": {"pattern": "[0-9]", "allowed": "a digit"},
    }

    assert list(
        request.problems({"min_workers": "x"}, rules, typed=["hots", "min_workers", "ansible_user"])
    ) == [
        "hots: this playbook reads no such variable (did you mean host?)",
        "name the host: -e host=<one of a>",
        "min_workers: 'x' is wrong; allowed is a digit",
    ]


READ = {"group": {}, "min_workers": {"formerly": "minimum"}, "max_workers": {}, "reset": {}}


@pytest.mark.parametrize(
    ("typed", "given", "words"),
    [
        ("minimum", ["group"], "the name of this variable is min_workers now"),
        ("min", ["group"], "did you mean min_workers?"),
        ("max_worker", ["group"], "did you mean max_workers?"),
        ("gruop", [], "did you mean group?"),
        ("worker_group", [], "did you mean group?"),
        # Perhaps the inventory reads it.
        ("group_of_mine", ["group"], ""),
        ("ansible_user", [], ""),
        ("redis_operator_password", [], ""),
    ],
)
def test_a_misspelt_variable_is_named_with_the_one_that_was_meant(
    typed: str, given: Sequence[str], words: str
) -> None:
    found = list(request.problems(dict.fromkeys(given, "x"), READ, typed=[*given, typed], any_of=["reset"]))

    assert [words in line for line in found] == [True], found
    assert found[0].startswith(f"{typed}: " if words else "give at least one of "), found


# Two projects: worker1 and worker2 have one, worker3 another.
SEVERAL = copy.deepcopy(INVENTORY)
SEVERAL["all"]["children"]["workers"]["hosts"]["worker3"] = {"celery_app_project": "shop"}

AMBIGUOUS = "name the project: -e fleet_project=<one of celery, shop>"
OF_PROJECTS: list[tuple[str, Sequence[str], str]] = [
    *((playbook, [], AMBIGUOUS) for playbook in ("rollback", "pause")),
    ("scale", ["-e", "group=general", "-e", "min_workers=1"], AMBIGUOUS),
    ("pause", ["-e", "fleet_project=shoop"], "no project is named 'shoop' (did you mean shop?)"),
    ("pause", ["-e", "project=shop"], "this playbook reads no such variable (did you mean fleet_project?)"),
    # The dead host of the other project is not asked.
    ("rollback", ["-e", "fleet_project=shop"], "nothing is deployed yet: site.yml does that"),
    ("rollback", ["--limit", "worker3"], "nothing is deployed yet: site.yml does that"),
    ("drain", ["-e", "host=worker3"], "nothing is deployed yet: site.yml does that"),
]


@pytest.mark.parametrize(("playbook", "options", "words"), OF_PROJECTS)
def test_a_playbook_acts_on_one_project(
    tmp_path: Path, playbook: str, options: Sequence[str], words: str
) -> None:
    path = tmp_path / "hosts.json"
    path.write_text(json.dumps(SEVERAL), encoding="utf-8")

    assert words in refusal(path, playbook, *options)


# --- Hosts that are cut off from Redis -----------------------------------------------------------------

CUT_OFF = "echo 'Error: Redis: Timeout connecting to server' >&2; exit 1"
DONE = "echo 'general: paused'"
PAUSED = '"msg": "general: paused"'
REFUSED_THERE = "echo 'Error: all groups are paused' >&2; exit 4"


def pause(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run pause.yml for two hosts that are this machine; their command is in the folder."""
    hosts: dict[str, Any] = {"all": {**INVENTORY["all"], "vars": {**INVENTORY["all"]["vars"]}}}
    hosts["all"]["vars"] |= {"ansible_become": False, "celery_app_root": str(folder)}
    (folder / "hosts.json").write_text(json.dumps(hosts), encoding="utf-8")
    return subprocess.run(
        [
            *(str(ANSIBLE_PLAYBOOK), "-i", str(folder / "hosts.json"), str(PLAYBOOKS / "pause.yml")),
            *("--limit", "worker2,worker3", *options),
        ],
        check=False,
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PATH": f"{folder}:{os.environ['PATH']}", "USER": "anna"},
    )


def test_who_runs_a_playbook_why_and_for_how_long_reaches_the_command(tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to("releases/1")
    command = tmp_path / "celery-app"
    command.write_text('#!/bin/sh\nshift 3\necho "$FLEET_OPERATOR: $*"\n')
    command.chmod(0o755)
    options = ["-e", "group=general", "-e", "duration=30m", "-e", 'because="provider down"']

    done = pause(tmp_path, *options)

    assert '"msg": "anna: pause --for 30m --because provider down general"' in done.stdout, done.stdout
    assert (
        "duration: 'soon' is wrong; allowed is 30m, 2h, 1h30m or 3d"
        in pause(tmp_path, "-e", "duration=soon").stdout
    )


@pytest.mark.parametrize(
    ("answers", "asked", "words"),
    [
        ([DONE, DONE], 1, PAUSED),
        ([CUT_OFF, DONE], 2, PAUSED),
        ([REFUSED_THERE, DONE], 1, '"msg": "all groups are paused"'),
        (
            [CUT_OFF, CUT_OFF],
            2,
            '"msg": "worker2: Redis: Timeout connecting to server;'
            ' worker3: Redis: Timeout connecting to server"',
        ),
    ],
    ids=["done", "the second can", "refused", "nobody can"],
)
def test_hosts_are_asked_until_one_has_an_answer(
    tmp_path: Path, answers: Sequence[str], asked: int, words: str
) -> None:
    """Both hosts are this machine: the command answers each time as the next one of them."""
    (tmp_path / "current").symlink_to("releases/1")
    command = tmp_path / "celery-app"
    command.write_text(f"#!/bin/sh\nset -- {tmp_path}/*-answer\nmv $1 $1.given\n. $1.given\n")
    command.chmod(0o755)
    for number, answer in enumerate(answers):
        (tmp_path / f"{number}-answer").write_text(answer)

    done = pause(tmp_path)

    assert words in done.stdout, done.stdout + done.stderr
    assert (done.returncode == 0) == (words == PAUSED)
    assert len(list(tmp_path.glob("*-answer"))) == len(answers) - asked


def test_the_playbooks_find_their_roles_and_plugins_from_any_folder(tmp_path: Path) -> None:
    inventory = CHECKOUT / "inventories/local"

    done = subprocess.run(
        [str(ANSIBLE_PLAYBOOK), "-i", str(inventory), "--syntax-check", str(PLAYBOOKS / "site.yml")],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )

    assert done.returncode == 0, done.stdout + done.stderr
