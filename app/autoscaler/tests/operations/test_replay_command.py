"""`replay` and `record export`: what other settings would have done, for people and for programs."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path

import pytest
from celery import Celery
from celery_autoscaler.operations.recordings import dump as dump_line
from celery_autoscaler.operations.recordings import load
from celery_autoscaler.protocol.broker import connect
from celery_autoscaler.protocol.reading import UnreadableError
from celery_autoscaler.protocol.recording import RECORDS, Figures, Record, dump
from hypothesis import given
from hypothesis import strategies as st
from support.command_runs import Run, invoke

NOW = int(time.time()) // 10
FIGURES = Figures(
    target_wait=10_000, min_workers=1, max_workers=4, concurrency=1, stabilisation=60_000,
    queue_threshold=1000, tick=1000, startup=3000, hosts=1, ready=4, worker_time=40_000, memory=200,
)  # fmt: skip


def blocks(records: int = RECORDS, **figures: int) -> list[bytes]:
    """Return a block: two tasks come each second, and four workers run them at once."""
    return [dump([Record(NOW - records + n, FIGURES._replace(**figures), (2,) * 10) for n in range(records)])]


@pytest.fixture
def file(tmp_path: Path) -> str:
    """Return a file with the record of two groups."""
    path = tmp_path / "record"
    path.write_text(
        dump_line("web", blocks()) + "\n" + dump_line("slow", blocks(30)) + "\n", encoding="utf-8"
    )
    return str(path)


def test_what_was_stands_beside_what_would_have_been(run: Run, file: str) -> None:
    shown = run(
        *("replay", "web", "--file", file, "--set", "web.max_workers=9", "--set", "web.target_wait=5"),
        *("--price", "0.5"),
    )

    assert "UTC: 1200 tasks measured replayed max_workers=9, target_wait=5 p50 wait 0.0 s" in shown
    assert "worker-hours 0.67 0.67" in shown
    assert "money 0.33 0.33" in shown
    assert "The replay of the settings in force was off by +0 % in the p95 wait" in shown
    assert "slow" not in shown


def test_programs_get_all_of_it(run: Run, file: str) -> None:
    found = json.loads(run("replay", "--file", file, "--json", "--since", "1h", "--price", "1"))

    assert list(found) == ["web", "slow"]
    web = found["web"]
    assert web["tried"] is None
    assert web["measured"]["tasks"] == web["replayed"]["tasks"] == 1200
    assert web["measured"]["money"] == pytest.approx(web["measured"]["worker_hours"], abs=1e-3)
    assert set(web["measured"]["waits"]) == {"p50", "p95", "p99"}
    assert (web["recorded_seconds"], web["is_reliable"]) == (600, True)


def test_only_the_time_that_is_asked_for_is_replayed(run: Run, file: str) -> None:
    found = json.loads(run("replay", "web", "--file", file, "--json", "--since", "2m"))

    assert found["web"]["recorded_seconds"] == 120


def test_what_the_replay_cannot_know_is_said(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "record"
    odd = [*blocks(30, useful_slots=3, future=2, worker_time=90_000), dump([Record(NOW - 200)]), b"odd"]
    path.write_text(dump_line("web", odd), encoding="utf-8")

    shown = run("replay", "--file", str(path), "--set", "web.min_workers=9", "--set", "web.max_workers=9")

    assert "That is more than 15 %: do not rely on small differences." in shown
    assert "Recorded are 0.1 of 0.6 hours" in shown
    assert "More workers than the 4 that were recorded" in shown
    assert "In 97 % of the time more workers finished no more tasks:" in shown
    assert "Some tasks had an ETA." in shown
    assert "ignored, no records that this release can read: 1" in shown


def test_records_go_from_redis_into_a_file_and_are_replayed_alike(
    app: Celery, run: Run, refuse: Run, tmp_path: Path
) -> None:
    broker = connect(app)
    assert run("replay") == "Nothing is recorded yet. Supervisors record ten seconds after their start."
    broker.client.hset(broker.keys.record("web"), str(NOW), blocks()[0])
    broker.client.hset(broker.keys.record("web"), str(NOW + 1), b"odd")
    path = tmp_path / "record"

    run("record", "export", str(path), "web")

    assert run("replay", "web", "--file", str(path)) == run("replay", "web")
    assert "ignored, no records that this release can read: 1" in run("replay", "web")
    assert "cannot read" in refuse("replay", "--file", str(tmp_path / "none"))
    assert "no group named 'nowhere'" in refuse("replay", "nowhere", "--file", str(path))
    path.write_text("odd")
    assert "holds no records: 'odd' is no JSON" in refuse("replay", "--file", str(path))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ("web", "'web' is no change: write GROUP.SETTING=VALUE"),
        ("max_workers=3", "'max_workers=3' is no change"),
        ("web.max_worker=3", "did you mean max_workers?"),
        ("web.max_workers=none", "allowed is a whole number from 1 to 10000"),
        ("web.target_wait=0", "allowed is a number from 0.1 to 86400 seconds"),
        ("web.min_workers=5", "min_workers 5 is more than max_workers 4"),
    ],
)
def test_a_wrong_change_is_refused_in_one_line(app: Celery, file: str, change: str, why: str) -> None:
    result = invoke(app, "replay", "--file", file, "--set", change)

    assert result.exit_code == 2
    assert why in result.output.splitlines()[-1]


@given(
    st.binary(max_size=200)
    | st.text(max_size=50).map(lambda text: json.dumps({"version": 1, "blocks": [text]}).encode())
)
def test_whatever_a_line_holds_it_is_read_or_refused(line: bytes) -> None:
    with suppress(UnreadableError):
        group, found = load(line)
        assert load(dump_line(group, found).encode()) == (group, found)
