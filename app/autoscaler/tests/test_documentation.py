"""The reference lists each setting, metric, command and alert that exists, and nothing else."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
from celery_autoscaler.protocol.tallies import BUCKETS
from celery_autoscaler.settings import Group, Settings

DOCS = Path(__file__).parents[3] / "docs"
SETTINGS = (DOCS / "reference/settings.md").read_text()
METRICS = (DOCS / "reference/metrics.md").read_text()
WATCHERS = DOCS.parent / "roles/monitoring/files"


@pytest.mark.parametrize("kind", [Settings, Group])
def test_each_setting_is_documented_with_its_default(kind: type) -> None:
    for item in fields(kind):
        # max_concurrency is the most of `concurrency`.
        if item.name in {"groups", "name", "max_concurrency"}:
            continue
        [row] = [line for line in SETTINGS.splitlines() if line.startswith(f"| `{item.name}` |")]
        variable = item.metadata["variable"]
        assert not variable or f"`{variable}`" in row
        if isinstance(item.default, int | float):
            assert f"`{item.default:g}`" in row or f"`{item.default}`" in row


def test_the_page_of_metrics_names_the_buckets() -> None:
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
