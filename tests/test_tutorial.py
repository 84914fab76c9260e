"""The project and the inventory that the tutorial has its reader type."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from celery import Celery
from celery_autoscaler.protocol.description import describe
from celery_autoscaler.supervisor.settings_check import check_app
from support.read_inventories import findings
from support.role_files import CHECKOUT

TEXT = (CHECKOUT / "docs/tutorial/bring-your-own-project.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Return the blocks of code of a language, in their order."""
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The app of its single file."""
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://localhost/0")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "redis://localhost/1")
    monkeypatch.delitem(sys.modules, "app", raising=False)
    path = tmp_path / "app.py"
    path.write_text(blocks("python")[1], encoding="utf-8")
    spec = spec_from_file_location("app", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.app


def test_its_projects_can_lose_no_task(app: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in re.findall(r'os\.environ\["(\w+)"\]', blocks("python")[0]):
        monkeypatch.setenv(name, "redis://localhost/0")
    settings: dict[str, Any] = {"os": os}
    exec(blocks("python")[0], settings)  # noqa: S102 -- what the reader writes
    shop = Celery("shop", set_as_current=False)
    shop.config_from_object(SimpleNamespace(**settings), namespace="CELERY")
    for of, name in ((app, "app"), (shop, "shop")):
        assert [str(finding) for finding in check_app(describe(of, name)) if finding.is_error] == []


def test_its_inventory_is_one(tmp_path: Path) -> None:
    mine = tmp_path / "inventories/mine"
    shutil.copytree(CHECKOUT / "inventories/local", mine, ignore=shutil.ignore_patterns(".secrets"))
    hosts, variables, groups = blocks("yaml")[:3]
    (mine / "hosts.yml").write_text(hosts, encoding="utf-8")
    (tmp_path / "shop").mkdir()
    variables = variables.replace("~/shop", str(tmp_path / "shop"))
    (mine / "group_vars/all/app.yml").write_text(variables, encoding="utf-8")
    workers = mine / "group_vars/workers.yml"
    first = workers.read_text(encoding="utf-8").partition("\n# On every worker host")[0]
    workers.write_text(f"{first}\n{groups}", encoding="utf-8")
    done = subprocess.run(
        ["ansible-inventory", "--inventory", mine, "--host", "host1"],
        check=True,
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
    )
    host = json.loads(done.stdout)
    assert host["celery_app_name"] == "shop"
    assert host["celery_app_supervised"]
    assert [group["queues"] for group in host["celery_app_worker_groups"]] == [["celery"]]
    assert set(re.findall(r'os\.environ\["(\w+)"\]', blocks("python")[0])) == set(
        host["celery_app_environment"]
    )
    # site.yml begins with that.
    assert findings(mine) == []
