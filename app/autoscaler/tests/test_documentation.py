"""What docs/autoscaling.md lists is what there is."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from celery import Celery
from celery_autoscaler.cli import main
from celery_autoscaler.metrics import PREFIX, registry
from celery_autoscaler.settings import Group, Settings
from celery_autoscaler.supervisor import Supervisor

TEXT = (Path(__file__).parents[3] / "docs/autoscaling.md").read_text()


@pytest.mark.parametrize("kind", [Settings, Group])
def test_each_setting_is_documented_with_its_default(kind: type) -> None:
    for item in fields(kind):
        if item.name in {"groups", "name"}:
            continue
        [row] = [line for line in TEXT.splitlines() if line.startswith(f"| `{item.name}` |")]
        variable = item.metadata["variable"]
        assert not variable or f"`{variable}`" in row
        if isinstance(item.default, int | float):
            assert f"`{item.default:g}`" in row or f"`{item.default}`" in row


def test_each_metric_is_documented() -> None:
    supervisor = Supervisor(Celery(set_as_current=False), "proj", Settings(groups={}))

    names = {metric.name for metric in registry(supervisor).collect()}
    supervisor.launcher.close()

    assert [name for name in names if f"`{name.removeprefix(PREFIX)}" not in TEXT] == []


def test_each_command_is_documented() -> None:
    assert [name for name in main.commands if not re.search(rf"[ `]{name}\b", TEXT)] == []
