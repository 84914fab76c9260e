"""The stack of compose.yaml does not drift away from what the roles deploy."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import docker
import psycopg
import pytest
import yaml
from support.processes import services
from support.role_files import CHECKOUT, load_module

access = load_module("postgres_access")
SQL = CHECKOUT / "compose/postgres.sql"


def test_the_files_are_what_the_roles_render() -> None:
    """`make compose-files` writes them."""
    done = subprocess.run(
        ["ansible-playbook", "--inventory=localhost,", "--check", "playbooks/containers/compose-files.yml"],
        check=True,
        capture_output=True,
        text=True,
        cwd=CHECKOUT,
    )
    assert re.search(r"ok=4 +changed=0 ", done.stdout), done.stdout


def test_the_app_gets_the_settings_that_the_roles_give_it() -> None:
    stack = yaml.safe_load((CHECKOUT / "compose.yaml").read_text(encoding="utf-8"))
    inventory = CHECKOUT / "inventories/local/group_vars/all/app.yml"
    deployed = yaml.safe_load(inventory.read_text(encoding="utf-8"))
    for service in ("migrate", "worker", "beat"):
        missing = deployed["celery_app_environment"].keys() - stack["services"][service]["environment"].keys()
        assert not missing, service
    assert stack["services"]["worker"]["environment"].keys() >= {
        "MIN_WORKERS", "MAX_WORKERS", "CPU_THRESHOLD", "MEMORY_THRESHOLD", "QUEUE_THRESHOLD"
    }  # fmt: skip


def test_the_example_of_the_settings_names_their_defaults() -> None:
    stack = (CHECKOUT / "compose.yaml").read_text(encoding="utf-8")
    example = (CHECKOUT / ".env.example").read_text(encoding="utf-8")
    used = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", stack))
    assert dict(re.findall(r"(?m)^#(\w+)=(.*)$", example)) == used


def test_every_setting_has_a_rule() -> None:
    stack = (CHECKOUT / "compose.yaml").read_text(encoding="utf-8")
    rules = (CHECKOUT / "compose/stack_settings.py").read_text(encoding="utf-8")
    named = set(re.findall(r'(?m)^    "([A-Z_]+)": ', rules))
    assert named >= set(re.findall(r"\$\{(\w+)", stack))


class Module:
    """What the code of the module `postgres_access` asks of Ansible."""

    check_mode = True

    def __init__(self, **params: Any) -> None:
        self.params = {"port": 5432, "extensions": [], "slots": []} | params


@pytest.fixture
def server(docker_client: docker.DockerClient) -> Iterator[services.PostgresServer]:
    """A PostgreSQL server on which compose/postgres.sql was run."""
    found = services.PostgresServer(docker_client)
    try:
        yield found
    finally:
        found.stop()


def test_the_users_may_do_what_the_role_allows_them(
    server: services.PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    passwords = {"owner": "an-owner-password-1", "app": "an-app-password-1"}
    files = "".join(f"printf %s {password} >/secrets/{name}; " for name, password in passwords.items())
    server.run(f"mkdir /secrets; {files}", user="root")
    server.psql(SQL.read_text(encoding="utf-8"))

    def connect(_: object, database: str) -> psycopg.Connection[Any]:
        return replace(server.admin, name=database).connect()

    monkeypatch.setattr(access.Server, "connect", connect)
    # The driver of the hosts; not needed where it does not connect.
    monkeypatch.setitem(sys.modules, "psycopg2", psycopg)
    users = [
        {"name": f"celery_{name}", "password": password, "replication": False, "monitor": False}
        for name, password in passwords.items()
    ]
    wanted = Module(
        users=users,
        databases=[{"name": "celery", "owner": "celery_owner"}],
        grants=[{"database": "celery", "user": "celery_app", "access": "read_write"}],
        extensions=["pg_stat_statements"],
    )
    assert access.run(wanted)["statements"] == []
