"""Nothing is sent twice, whatever becomes of beat."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
from support.hosts.beat_schedule import LOCK, Scratch
from support.hosts.deployed_app import redis
from support.hosts.lost_hosts import without_network, without_power
from support.hosts.scenario import Scenario
from support.processes.services import wait_for
from testinfra.host import Host

testinfra_hosts = ["ansible://beat1"]
units = ["celery-beat"]

logger = logging.getLogger(__name__)

LOCK_TIMEOUT = 30.0  # seconds for which a beat that has died keeps the lock
SENT = "Sending due task"
TOLERANCE = 0.5  # seconds by which an interval may be shorter than the period
OTHER = Scenario("beat").hosts("beat")["beat2"]


@pytest.fixture(autouse=True)
def beat(host: Host) -> Iterator[None]:
    """Have beat run before and after each test, on this host alone."""
    OTHER.check_output("systemctl stop celery-beat")
    host.check_output("systemctl start celery-beat")
    yield
    host.check_output("systemctl start celery-beat")


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
    host: Host, scratch: Scratch
) -> None:
    begin = time.time()
    OTHER.check_output("systemctl start celery-beat")

    intervals = scratch.intervals(more=5)
    assert min(intervals) > scratch.period - TOLERANCE
    assert SENT not in said(OTHER, begin)

    host.check_output("systemctl stop celery-beat")

    assert min(scratch.intervals(more=3)) > scratch.period - TOLERANCE
    assert SENT in said(OTHER, begin)


@contextmanager
def killed() -> Iterator[None]:
    """Let the other host lose its power until the block ends."""
    with without_power("celery-fleet-beat-beat2"):
        yield
    wait_for(lambda: OTHER.run("systemctl is-active celery-beat").rc == 0, "beat does not come back")


@contextmanager
def frozen() -> Iterator[None]:
    """Stop the other beat in the middle of what it does until the block ends."""
    OTHER.check_output("systemctl kill --signal=STOP celery-beat")
    try:
        yield
    finally:
        OTHER.check_output("systemctl kill --signal=CONT celery-beat")


def cut_off() -> AbstractContextManager[None]:
    """Pull the other host's network cable until the block ends."""
    return without_network(OTHER)


@pytest.mark.parametrize("blow", [killed, frozen, cut_off])
@pytest.mark.parametrize("scratch", [1.0], indirect=True)
def test_another_host_takes_over_from_one_that_dies_and_nothing_is_sent_twice(
    host: Host, scratch: Scratch, blow: Callable[[], AbstractContextManager[None]]
) -> None:
    host.check_output("systemctl stop celery-beat")
    OTHER.check_output("systemctl start celery-beat")
    scratch.intervals(more=20)
    host.check_output("systemctl start celery-beat")
    begin = time.time()

    with blow():
        before = len(scratch.intervals())
        # One that was under way may still arrive.
        scratch.intervals(more=20, within=2 * LOCK_TIMEOUT + 20)
        assert SENT in said(host, begin)
    # The one that came back finds the lock taken.
    intervals = scratch.intervals(more=20)

    gap = max(intervals)
    logger.info(
        "%s: %d sent; the longest interval %.1f s, from no. %d",
        blow.__name__,
        len(intervals) + 1,
        gap,
        before,
    )
    assert len(intervals) >= 59
    assert min(intervals) > scratch.period - TOLERANCE
    assert gap < 2 * LOCK_TIMEOUT
    assert sum(interval > scratch.period + 10 for interval in intervals) == 1
    assert SENT not in said(OTHER, time.time() - 5)


def said(host: Host, since: float) -> str:
    """Return what beat has logged on a host since a time."""
    show = f"journalctl --no-pager --output=cat --since=@{since:.6f} --unit=celery-beat.service"
    return str(host.check_output(show))
