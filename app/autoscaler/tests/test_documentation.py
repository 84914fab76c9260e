"""The reference lists each setting, metric, command and alert that exists, and nothing else."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from celery import Celery
from celery_autoscaler.cli import main
from celery_autoscaler.metrics import registry
from celery_autoscaler.settings import Group, Settings
from celery_autoscaler.supervisor import Supervisor
from celery_autoscaler.task_counts import BUCKETS

DOCS = Path(__file__).parents[3] / "docs"
SETTINGS = (DOCS / "reference/settings.md").read_text()
COMMANDS = (DOCS / "reference/commands.md").read_text()
METRICS = (DOCS / "reference/metrics.md").read_text()
WATCHERS = DOCS.parent / "roles/monitoring/files"


@pytest.mark.parametrize("kind", [Settings, Group])
def test_each_setting_is_documented_with_its_default(kind: type) -> None:
    for item in fields(kind):
        if item.name in {"groups", "name"}:
            continue
        [row] = [line for line in SETTINGS.splitlines() if line.startswith(f"| `{item.name}` |")]
        variable = item.metadata["variable"]
        assert not variable or f"`{variable}`" in row
        if isinstance(item.default, int | float):
            assert f"`{item.default:g}`" in row or f"`{item.default}`" in row


def test_the_page_of_metrics_lists_what_there_is() -> None:
    supervisor = Supervisor(Celery(set_as_current=False), "proj", Settings(groups={}))
    supervisor.context.status = {"cpu": 0.0, "memory": 0.0}

    there_are = {
        (
            metric.name + ("_total" if metric.type == "counter" else ""),
            metric.type,
            tuple(getattr(metric, "_labelnames", ())),
        )
        for metric in registry(supervisor).collect()
    }
    supervisor.launcher.close()
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in METRICS.splitlines()
        if line.startswith("| `")
    ]

    listed = {
        (name.strip("`"), kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels, *_ in rows
    }
    assert listed == there_are
    assert all(unit and meaning for *_, unit, meaning in rows)
    assert ", ".join(f"{end:g}" for end in BUCKETS[:-1]) + f" and {BUCKETS[-1]:g} s" in METRICS


@pytest.mark.parametrize("file", ["dashboard.json", "rules.yml"])
def test_what_watches_the_fleet_asks_for_metrics_that_there_are(file: str) -> None:
    names = re.findall(r"\bcelery_(?:autoscaler|tasks?)_\w+", (WATCHERS / file).read_text())
    asked = {re.sub("_(bucket|count|sum)$", "", name) for name in names}

    assert asked
    assert asked - set(re.findall(r"^\| `(\w+)`", METRICS, re.MULTILINE)) == set()


def test_each_alert_is_documented() -> None:
    alerts = re.findall(r"- alert: (\w+)", (WATCHERS / "rules.yml").read_text())

    assert re.findall(r"^## (\w+)$", (DOCS / "how-to/alerts.md").read_text(), re.MULTILINE) == alerts


def test_each_command_is_documented() -> None:
    assert [name for name in main.commands if not re.search(rf"[ `]{name}\b", COMMANDS)] == []
