"""Nothing is sent twice, whatever becomes of beat."""

import time
from collections.abc import Iterator

import pytest
from beat_schedule import Scratch
from services import wait_for
from testinfra.host import Host

units = ["celery-beat"]

# Seconds by which an interval may be shorter than the period: two messages, each with its own delay on the way.
TOLERANCE = 0.5
LOCK = 30  # seconds for which the lock of a beat that died is kept
LOG, PIDFILE = "/tmp/second-beat.log", "/var/lib/celery/second-beat.pid"  # noqa: S108 -- on the host under test


@pytest.fixture(autouse=True)
def beat(host: Host) -> Iterator[None]:
    """Have beat run before and after each test."""
    host.check_output("systemctl start celery-beat")
    yield
    host.check_output("systemctl start celery-beat")


@pytest.fixture
def second_beat(host: Host) -> Iterator[None]:
    """Start a beat by hand beside that of systemd."""
    host.check_output(f"celery-app celery -A tasks beat -l INFO --pidfile {PIDFILE} >{LOG} 2>&1 &")
    wait_for(lambda: "Starting..." in host.file(LOG).content_string, "the second beat does not start")
    yield
    host.run(f"kill $(cat {PIDFILE})")
    wait_for(lambda: not host.file(PIDFILE).exists, "the second beat does not end")


def test_a_restart_sends_nothing_early(host: Host, scratch: Scratch) -> None:
    scratch.intervals(more=3)

    host.check_output("systemctl restart celery-beat")

    assert min(scratch.intervals(more=4)) > scratch.period - TOLERANCE


def test_missed_times_are_not_made_up_in_a_burst(host: Host, scratch: Scratch) -> None:
    scratch.intervals(more=2)
    outage = 3 * scratch.period

    host.check_output("systemctl stop celery-beat")
    time.sleep(outage)
    host.check_output("systemctl start celery-beat")

    intervals = scratch.intervals(more=4)
    assert min(intervals) > scratch.period - TOLERANCE
    assert sum(interval > outage for interval in intervals) == 1


def test_a_killed_beat_goes_on_after_its_lock_has_ended(host: Host, scratch: Scratch) -> None:
    scratch.intervals(more=2)

    host.check_output("systemctl kill --signal=KILL celery-beat")

    intervals = scratch.intervals(more=3, within=LOCK + 30)
    assert min(intervals) > scratch.period - TOLERANCE
    assert max(intervals) < LOCK + 20


def test_a_second_beat_sends_nothing_while_the_first_lives_and_takes_over_when_it_stops(
    host: Host, scratch: Scratch, second_beat: None
) -> None:
    del second_beat

    intervals = scratch.intervals(more=6)
    assert min(intervals) > scratch.period - TOLERANCE
    assert "Sending due task" not in host.file(LOG).content_string

    host.check_output("systemctl stop celery-beat")

    assert min(scratch.intervals(more=3)) > scratch.period - TOLERANCE
    assert "Sending due task" in host.file(LOG).content_string
