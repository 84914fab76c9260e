"""Nothing is sent twice, whatever becomes of beat."""

import time
from collections.abc import Iterator

import pytest
from beat_schedule import LOCK, Scratch
from deployed_app import redis
from services import wait_for
from testinfra.host import Host

testinfra_hosts = ["ansible://beat1"]
units = ["celery-beat"]

TOLERANCE = 0.5  # seconds by which an interval may be shorter than the period
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


@pytest.mark.parametrize("scratch", [10.0], indirect=True)  # longer than the restart
def test_a_restart_sends_nothing_early(host: Host, scratch: Scratch) -> None:
    scratch.intervals(more=1)

    host.check_output("systemctl restart celery-beat")

    assert min(scratch.intervals(more=1)) > scratch.period - TOLERANCE


def test_missed_times_are_not_made_up_in_a_burst(host: Host, scratch: Scratch) -> None:
    scratch.intervals(more=2)
    outage = 3 * scratch.period

    host.check_output("systemctl stop celery-beat")
    time.sleep(outage)
    host.check_output("systemctl start celery-beat")

    intervals = scratch.intervals(more=3)
    assert min(intervals) > scratch.period - TOLERANCE
    assert sum(interval > outage for interval in intervals) == 1


def test_a_killed_beat_is_started_again_and_waits_for_the_lock(host: Host, scratch: Scratch) -> None:
    scratch.intervals(more=2)
    killed = main_process(host)

    host.check_output("systemctl kill --signal=KILL celery-beat")

    sent = len(scratch.intervals())
    wait_for(lambda: main_process(host) not in {killed, "0"}, "systemd has not started it again")
    wait_for(lambda: host.service("celery-beat").is_running, "beat does not get ready")
    assert 0 < redis().ttl(LOCK) <= 30
    assert len(scratch.intervals()) == sent

    redis().expire(LOCK, 1)  # rather than wait for it

    assert min(scratch.intervals(more=3)) > scratch.period - TOLERANCE


def main_process(host: Host) -> str:
    """Return the id of beat's process, 0 if there is none."""
    return str(host.check_output("systemctl show --property=MainPID --value celery-beat"))


def test_a_second_beat_sends_nothing_while_the_first_lives_and_takes_over_when_it_stops(
    host: Host, scratch: Scratch, second_beat: None
) -> None:
    del second_beat

    intervals = scratch.intervals(more=5)
    assert min(intervals) > scratch.period - TOLERANCE
    assert "Sending due task" not in host.file(LOG).content_string

    host.check_output("systemctl stop celery-beat")

    assert min(scratch.intervals(more=3)) > scratch.period - TOLERANCE
    assert "Sending due task" in host.file(LOG).content_string
