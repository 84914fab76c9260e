"""The demo of the desk stack: the load that it sends, and how it says what limits the workers."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from celery_autoscaler.protocol.status import GroupStatus
from support.role_files import CHECKOUT

spec = spec_from_file_location("demo", CHECKOUT / "compose/demo.py")
assert spec is not None
assert spec.loader is not None
demo = module_from_spec(spec)
spec.loader.exec_module(demo)

GROUP = GroupStatus(ready=1, want=8, max_workers=8)


def test_the_load_rises_stays_and_falls() -> None:
    sent = [demo.due(float(second), 8.0) for second in range(56)]
    rates = [after - before for before, after in pairwise(sent)]
    assert sent[0] == 0
    assert max(rates) == 8
    assert rates[1] <= 1
    assert rates[-1] <= 1
    assert sent[-1] == demo.due(1e6, 8.0) == 280


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        ({}, ""),
        ({"ready": 8, "limit": "max_workers"}, "limited by max_workers = 8 (MAX_WORKERS)"),
        (
            {"limit": "CPU", "held_back": "CPU usage is 97 %, above 90 %"},
            "held back: CPU usage is 97 %, above 90 % (CPU_THRESHOLD)",
        ),
        (
            {"limit": "start slots", "held_back": "started 2 of 7 (2 per CPU at a time)"},
            "workers are starting, 2 per CPU at a time",
        ),
        ({"ready": 8, "limit": "CPU", "held_back": "CPU usage is 97 %, above 90 %"}, ""),
    ],
)
def test_what_keeps_a_group_from_more_workers_is_named(seen: dict[str, Any], words: str) -> None:
    assert demo.limit(replace(GROUP, **seen)) == words


@pytest.mark.parametrize(
    ("seen", "words"),
    [
        ({}, "more workers have to start first"),
        ({"ready": 8, "limit": "max_workers"}, "limited by max_workers = 8 (MAX_WORKERS)"),
        ({"limit": "CPU", "held_back": "CPU usage is 97 %, above 90 %"}, "held back by CPU (CPU_THRESHOLD)"),
        ({"limit": "CPU", "held_back": "CPU usage is 98 %, above 90 %"}, "held back by CPU (CPU_THRESHOLD)"),
        ({"limit": "other", "held_back": "something else"}, "held back: something else"),
    ],
)
def test_a_cause_has_no_figure_of_the_moment(seen: dict[str, Any], words: str) -> None:
    assert demo.cause(replace(GROUP, **seen)) == words


@pytest.mark.parametrize(
    ("seen", "lines"),
    [
        (
            {"oldest": 2.04, "late": {}, "cpu": [99.0]},
            ["Target wait 10 s: kept. The longest wait was 2.0 s."],
        ),
        (
            {"oldest": 25.0, "late": {"starts": 2.0, "limited": 13.4}, "cpu": [40.0]},
            [
                "Target wait 10 s: exceeded. The longest wait was 25.0 s.",
                "  for 13 s: limited",
                "  for 2 s: starts",
            ],
        ),
        (
            {"oldest": 11.0, "late": {"limited": 1.0}, "cpu": [100.0, 90.0]},
            [
                "Target wait 10 s: exceeded. The longest wait was 11.0 s.",
                "  for 1 s: limited",
                "  Average CPU usage: 95 %, so tasks and starts took longer.",
            ],
        ),
    ],
)  # fmt: skip
def test_the_outcome_says_whether_the_target_was_kept_and_why_not(
    seen: dict[str, Any], lines: list[str]
) -> None:
    found = SimpleNamespace(ended=400, count=400, failed=0, workers=[1, 8, 1], target=10.0, **seen)
    first, *others = [str(line) for line in demo.Demo.outcome(found)]
    assert first == "400 of 400 tasks ended; workers: 1 → 8 → 1"
    assert others == lines


def test_the_outcome_says_that_the_rest_was_not_waited_for() -> None:
    seen = {"oldest": 2.0, "late": {}, "cpu": [40.0], "target": 10.0}
    found = SimpleNamespace(ended=333, count=400, failed=0, workers=[1], **seen)

    first, second, *_ = [str(line) for line in demo.Demo.outcome(found)]

    assert first == "333 of 400 tasks ended; workers: 1 → 1 → 1"
    assert second == "Stopped waiting for the other 67 after 300 s."
