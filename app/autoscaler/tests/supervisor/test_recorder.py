"""The records of a group from what a supervisor sees at each tick."""

from __future__ import annotations

import pytest
from celery_autoscaler.protocol.ended import Ended
from celery_autoscaler.protocol.recording import RECORDS, SECONDS, Figures, Record
from celery_autoscaler.supervisor.policy.estimates import WorkerCounters
from celery_autoscaler.supervisor.recorder import ArrivalCounter, GroupRecorder, Look, spread
from hypothesis import given
from hypothesis import strategies as st

BEGIN = 1_700_000_400


def worker(processed: int, running: int = 0) -> WorkerCounters:
    """Return what a worker reports."""
    return WorkerCounters(processed, 0, float(processed), running)


def look(at: float, waiting: int = 0, processed: int = 0, **more: object) -> Look:
    """Return what a tick shows of a group with one worker."""
    return Look(
        BEGIN + at,
        Figures(target_wait=10_000),
        waiting,
        {"w": worker(processed)},
        1,
        **more,  # type: ignore[arg-type]
    )


def test_a_task_that_is_reported_late_comes_once() -> None:
    counter = ArrivalCounter()
    counter.update(1.0, 0, {"w": worker(0)})
    seen = [
        counter.update(1.0, 5, {"w": worker(0)}),
        # All five have left the list, and the worker has not said so yet.
        counter.update(1.0, 0, {"w": worker(0)}),
        counter.update(1.0, 0, {"w": worker(5)}),
    ]

    assert seen == [5, 0, 0]


def test_a_task_that_comes_back_from_a_dead_worker_comes_once() -> None:
    counter = ArrivalCounter()
    counter.update(1.0, 0, {"w": worker(0)})
    counter.update(1.0, 0, {"w": worker(1, running=1)})

    assert [counter.update(1.0, 0, {}), counter.update(1.0, 1, {})] == [0, 0]
    assert counter.update(60.0, 2, {}) == 1


@given(st.integers(0, 10_000), st.floats(0, 1e6), st.floats(0, 60))
def test_what_came_is_divided_among_the_seconds(count: int, begin: float, seconds: float) -> None:
    found = spread(count, begin, begin + seconds)

    assert sum(found.values()) == count
    assert min(found.values()) >= 0
    assert list(found) == list(range(int(begin), int(begin + seconds) + 1))


def records_of(looks: list[Look]) -> tuple[list[list[Record]], GroupRecorder]:
    """Return the blocks that become complete, and the recorder."""
    recorder = GroupRecorder()
    return [done for each in looks if (done := recorder.update(each))], recorder


def test_records_hold_whole_spans_of_ten_seconds() -> None:
    looks = [look(3.5 + n, waiting=n % 2, processed=2 * n) for n in range(30)]

    _, recorder = records_of(looks)

    assert [record.slot for record in recorder.block] == [BEGIN // SECONDS + 1, BEGIN // SECONDS + 2]
    for record in recorder.block:
        assert sum(record.arrivals) == pytest.approx(2 * SECONDS, abs=2)
        assert record.figures.worker_time == 10_000
        assert record.figures.target_wait == 10_000


def test_a_block_ends_with_ten_minutes_of_the_clock() -> None:
    blocks, recorder = records_of([look(float(n), processed=n) for n in range(-25, 1250)])

    assert [len(block) for block in blocks] == [2, RECORDS, RECORDS]
    assert [block[0].slot % RECORDS for block in blocks] == [RECORDS - 2, 0, 0]
    assert len(recorder.block) == 4


def test_what_happens_without_a_look_is_not_recorded() -> None:
    looks = [look(float(n), processed=n) for n in (*range(25), *range(125, 160))]

    [before], recorder = records_of(looks)

    assert [record.slot - BEGIN // SECONDS for record in before] == [1]
    assert [record.slot - BEGIN // SECONDS for record in recorder.block] == [13, 14]


def test_starts_and_run_times_are_recorded() -> None:
    looks = [look(float(n)) for n in range(11)]
    looks.append(look(11.0, starting=frozenset({"a", "b"}), ended={"task": Ended(2, 3.0, 5.0)}))
    looks.append(look(12.0, starting=frozenset({"b", "c"}), ended={"task": Ended(5, 9.0, 30.0)}))
    looks += [look(float(n), ended={"task": Ended(5, 9.0, 30.0)}) for n in range(13, 22)]

    _, recorder = records_of(looks)

    [record] = recorder.block
    assert record.figures.started == 3
    assert record.ended == {"task": Ended(5, 9.0, 30.0)}
