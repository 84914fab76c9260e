"""A replay does what a finer simulation did, from the record alone, also with other settings."""

from __future__ import annotations

from dataclasses import replace

import pytest
from celery_autoscaler.protocol.ended import Ended
from celery_autoscaler.protocol.recording import BLOCKS, MOST_BYTES, RECORDS, Figures, Record, dump, load
from celery_autoscaler.supervisor.replay.comparison import compare
from celery_autoscaler.supervisor.replay.engine import Replay
from celery_autoscaler.supervisor.replay.outcome import measured
from hypothesis import given
from hypothesis import strategies as st
from support.recorded_loads import recorded, records_of
from support.scaling_traces import LOADS

# Half an hour of each; of jobs that come seldom an hour, for the first of each is unlike all others.
LOAD = {each.name: replace(each, seconds=3600.0 if each.name == "cron" else 1800.0) for each in LOADS}
# Seconds of wait that a tick more or less explains.
TICK = 1.0


@pytest.mark.parametrize(
    ("name", "seed"),
    [
        ("burst", 1),
        ("burst", 2),
        ("on-off", 1),
        ("on-off", 3),
        ("cron", 1),
        ("diurnal", 1),
        ("saturated, flat", 1),
        ("burst, 2 hosts", 1),
        ("rare from 0, 30 s", 1),
    ],
)
def test_a_replay_of_the_settings_in_force_does_what_was_done(name: str, seed: int) -> None:
    truth, blocks = recorded(LOAD[name], seed)
    found = compare(records_of(blocks), {})

    assert found.measured.worker_hours == pytest.approx(truth.hours, rel=0.02)
    assert found.measured.waits[1] == pytest.approx(truth.wait(0.95), rel=0.1, abs=TICK / 5)
    assert found.replayed.waits[1] == pytest.approx(truth.wait(0.95), rel=0.15, abs=TICK / 2)
    assert found.replayed.worker_hours == pytest.approx(truth.hours, rel=0.15)
    assert sum(map(len, blocks)) / len(records_of(blocks)) < MOST_BYTES / RECORDS


def test_what_others_would_have_done_is_what_they_do() -> None:
    usual = LOAD["burst"]
    other = replace(usual, group=replace(usual.group, max_workers=20, target_wait=5.0))
    records = records_of(recorded(usual, 1)[1])
    truth, _ = recorded(other, 1)

    found = Replay(records, {"max_workers": 20, "target_wait": 5.0}).run()

    assert found.waits[1] == pytest.approx(truth.wait(0.95), rel=0.15)
    assert found.worker_hours == pytest.approx(truth.hours, rel=0.15)
    assert found.most_workers <= 20 + 5
    assert found.late == pytest.approx(sum(wait > 5.0 for wait in truth.waits) / len(truth.waits), abs=0.03)


def record(slot: int, arrivals: int = 0, **figures: int) -> Record:
    """Return a record of a group of one slot a worker, in which a number of tasks comes each second."""
    usual = Figures(
        target_wait=10_000, min_workers=1, max_workers=10, concurrency=1, stabilisation=60_000,
        queue_threshold=1000, tick=1000, startup=3000, hosts=1, ready=1, worker_time=10_000,
    )  # fmt: skip
    return Record(slot, usual._replace(**figures), (arrivals,) * 10)


def test_a_group_without_tasks_keeps_its_minimum() -> None:
    found = Replay([record(slot) for slot in range(60)], {"min_workers": 3}).run()

    assert (found.tasks, found.starts, found.waits) == (0, 2, (0.0, 0.0, 0.0))
    assert found.worker_hours == pytest.approx(3 * 600 / 3600, rel=0.01)


def test_no_more_is_started_than_the_hosts_had_room_for() -> None:
    records = [record(slot, 20, room=1 + 3) for slot in range(60)]

    assert Replay(records, {}).run().most_workers == 3


def test_no_more_slots_are_used_than_were_found_useful() -> None:
    records = [record(slot, 20, useful_slots=4, tried_slots=8) for slot in range(60)]

    assert Replay(records, {}).run().most_workers == 4


def test_nothing_is_started_or_stopped_in_a_pause() -> None:
    records = [record(slot, 5, paused=1) for slot in range(60)]

    assert Replay(records, {}).run().starts == 0


def test_tasks_that_never_began_count_with_what_they_waited() -> None:
    records = [record(slot, 5, paused=1, ready=0) for slot in range(6)]

    found = Replay(records, {}).run()

    assert found.tasks == 300
    assert found.waits[0] == pytest.approx(30, abs=2)
    assert measured([replace(each, waiting=tuple(50 * slot + 5 * n for n in range(1, 11)))
                     for slot, each in enumerate(records)]).waits[0] == pytest.approx(30, abs=2)  # fmt: skip


@given(
    st.lists(st.tuples(*[st.integers(0, 40) for _ in Figures._fields]), min_size=1, max_size=5),
    st.lists(st.integers(0, 30), min_size=20, max_size=20),
    st.sampled_from([{}, {"max_workers": 3}, {"concurrency": 4}, {"target_wait": 1.0}, {"min_workers": 30}]),
)
def test_whatever_is_recorded_can_be_replayed(
    figures: list[tuple[int, ...]], counts: list[int], changes: dict[str, float]
) -> None:
    records = [
        Record(slot, Figures(*each), tuple(counts[:10]), tuple(counts[10:]), {"a": Ended(2, 8.0, 40.0)})
        for slot, each in enumerate(figures)
    ]

    found = compare(load(dump(records)), changes)

    before = max(0, counts[10] - counts[0])
    assert found.measured.tasks == found.replayed.tasks == before + sum(counts[:10]) * len(records)


def test_the_same_record_gives_the_same_outcome() -> None:
    records = records_of(recorded(LOAD["on-off"], 1)[1])[:60]

    assert Replay(records, {}).run() == Replay(records, {}).run()


def test_idle_days_are_passed_quickly() -> None:
    # About half a second where each second would be looked at for half a minute.
    records = [record(slot) for slot in range(BLOCKS * RECORDS)]
    replayed = Replay(records, {})
    looks = 0
    decide = replayed.law.decide

    def counted(*seen: object) -> object:
        nonlocal looks
        looks += 1
        return decide(*seen)  # type: ignore[arg-type]

    replayed.law.decide = counted  # type: ignore[method-assign,assignment]
    replayed.run()

    assert looks < BLOCKS * RECORDS / 5
