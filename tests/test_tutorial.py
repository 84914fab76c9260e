"""The project and the inventory that the tutorial has its reader type."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest
from celery_autoscaler.supervisor.settings_check import check_app
from support.read_inventories import findings
from support.role_files import CHECKOUT

TEXT = (CHECKOUT / "docs/tutorial/bring-your-own-project.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """Return the blocks of code of a language, in their order."""
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The app of its app.py."""
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://localhost/0")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "redis://localhost/1")
    monkeypatch.delitem(sys.modules, "app", raising=False)
    path = tmp_path / "app.py"
    path.write_text(blocks("python")[0], encoding="utf-8")
    spec = spec_from_file_location("app", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.app


def test_its_project_can_lose_no_task(app: Any) -> None:
    assert [str(finding) for finding in check_app(app) if finding.is_error] == []
    called = re.search(r"celery -A app call (\S+)", TEXT)
    assert called is not None
    assert called[1] in app.tasks


def test_its_inventory_is_one(tmp_path: Path) -> None:
    mine = tmp_path / "inventories/mine"
    shutil.copytree(CHECKOUT / "inventories/local", mine, ignore=shutil.ignore_patterns(".secrets"))
    removed = re.search(r"^\$ rm -rf (.*)$", TEXT, re.MULTILINE)
    assert removed is not None
    for name in set(removed[1].split()) - {"inventories/mine/.secrets"}:
        (tmp_path / name).unlink()
    hosts, variables, groups = blocks("yaml")[:3]
    (mine / "hosts.yml").write_text(hosts, encoding="utf-8")
    (tmp_path / "invoices").mkdir()
    variables = variables.replace("~/invoices", str(tmp_path / "invoices"))
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
    assert host["celery_app_name"] == "app"
    assert host["celery_app_supervised"]
    assert [group["queues"] for group in host["celery_app_worker_groups"]] == [["celery"]]
    assert not [name for name in host if name.startswith("postgres_")]
    # site.yml begins with that.
    assert findings(mine) == []
