"""What the playbooks print about the fleet, and how they refuse what was typed wrong."""

import importlib.util
import json
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
        "release": "",
        "redis": {},
        "postgres": {},
    }
    hosts = status.complete({"a": host, "z": status.SILENT}, ["a", "m", "z"])

    assert status.silent(hosts) == ["m does not answer", "z does not answer"]
    assert list(status.warnings(hosts, {})) == ["a: redis-server.service has failed"]
    assert shown(status.hosts_table(hosts, {})).count("does not answer") == 2


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
