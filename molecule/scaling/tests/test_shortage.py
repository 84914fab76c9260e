"""A host that is short of memory or CPU starts no worker; the other one takes over its share."""

import time

import pytest
from support.hosts.supervised_fleet import (
    MAXIMUM,
    SUPERVISOR,
    SupervisedHost,
    all_once,
    by_host,
    decisions,
    full_load,
    wait_for_workers,
)
from support.processes.services import wait_for

testinfra_hosts = ["ansible://worker1"]
units = [SUPERVISOR]

MEMORY_THRESHOLD = 85.0  # per cent
# So low, and the limit as well, that the load exceeds it on a busy machine too.
CPU_THRESHOLD = 50.0
ROOM = 400 * 2**20  # bytes
EAT = "import time; eaten = b'x' * {0}; time.sleep(600)"
SPIN = "while True: pass"


def assert_the_other_takes_over(short: SupervisedHost, trace: str, words: str = "") -> None:
    """Check that a load that needs all workers is met without the host, which says what it is short of.

    One that is short of CPU looks seldom: when it does, the others may have all workers that are wanted.
    """
    before, since = by_host()[short.name], time.time()

    def said() -> bool:
        """Whether the host said what holds it back."""
        held = [entry["held_back"] for entry in decisions(since) if entry["host"] == short.name]
        return any(held_back.startswith(words) for held_back in held)

    with full_load(trace) as ids:
        wait_for_workers(
            lambda seen: seen[short.name] <= before and seen.total() == MAXIMUM, "all workers, elsewhere"
        )
        if words:
            wait_for(said, f"{short.name} does not say {words!r}")

    assert all_once(trace, ids)


@pytest.mark.usefixtures("idle")
def test_a_host_short_of_memory_starts_no_worker(hosts: dict[str, SupervisedHost], trace: str) -> None:
    short = hosts["worker2"]
    used = short.slice_memory()
    limit = used + ROOM

    with (
        short.slice_limit("MemoryMax", str(limit), "infinity"),
        short.load(EAT.format(int(0.95 * limit) - used)),
    ):
        wait_for(lambda: short.status()["memory"] > MEMORY_THRESHOLD, "the memory is not used")
        assert_the_other_takes_over(short, trace, "memory usage is 9")


@pytest.mark.usefixtures("idle")
def test_a_host_short_of_cpu_starts_no_worker(hosts: dict[str, SupervisedHost], trace: str) -> None:
    short = hosts["worker2"]

    with (
        short.settings(cpu_threshold=CPU_THRESHOLD),
        short.slice_limit("CPUQuota", "30%", ""),
        short.load(SPIN),
    ):
        wait_for(
            lambda: (seen := short.status())["cpus"] < 1 and seen["cpu"] > CPU_THRESHOLD,
            "the CPU is not busy",
        )
        assert_the_other_takes_over(short, trace)
