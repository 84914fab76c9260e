"""CPU and memory are those of the cgroup that limits most, of either version, or of the machine."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest
from celery_autoscaler.supervisor import host
from celery_autoscaler.supervisor.host import SMOOTH_SECONDS, Host, own_cgroups

MIB = 2**20
PRESSURE = "some avg10={} avg60=0.00 avg300=0.00 total=1\nfull avg10=99.00 avg60=0.00 avg300=0.00 total=1\n"


class Tree:
    """A cgroup file system and a /proc made of plain files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "proc/self").mkdir(parents=True)
        (folder / "cgroup").mkdir()

    def own(self, *lines: str) -> None:
        """Say which cgroups this process is in."""
        (self.folder / "proc/self/cgroup").write_text("".join(f"{line}\n" for line in lines))

    def write(self, group: str, files: Mapping[str, object]) -> None:
        """Write files of a cgroup."""
        path = self.folder / "cgroup" / group
        path.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (path / name).write_text(f"{content}\n")

    def press(self, resource: str, percent: float) -> None:
        """Say how long something waited on the whole machine."""
        path = self.folder / "proc/pressure" / resource
        path.parent.mkdir(exist_ok=True)
        path.write_text(PRESSURE.format(percent))


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    """Return the files that the host is read from."""
    monkeypatch.setattr(host, "PROC", tmp_path / "proc")
    monkeypatch.setattr(host, "CGROUPS", tmp_path / "cgroup")
    return Tree(tmp_path)


# --- Version 2 -----------------------------------------------------------------------------------------


def test_limits_of_a_cgroup_of_version_2_count(tree: Tree) -> None:
    tree.own("0::/system.slice/x.service")
    tree.write(
        "system.slice/x.service",
        {
            "memory.max": 256 * MIB,
            "memory.current": 128 * MIB,
            "memory.stat": f"anon 1\ninactive_file {64 * MIB}\nactive_file 2",
            "cpu.max": "50000 100000",
            "cpu.stat": "usage_usec 1000000\nuser_usec 5",
        },
    )

    seen = Host().look()

    assert (seen.cpus, seen.memory_limit) == (0.5, 256 * MIB)
    # What can be dropped at once is not in use.
    assert seen.memory == pytest.approx(25.0)


def test_the_tightest_of_all_cgroups_above_counts(tree: Tree) -> None:
    tree.own("0::/fleet.slice/workers.slice/x.service")
    tree.write("fleet.slice/workers.slice/x.service", {"memory.max": "max", "cpu.max": "max 100000"})
    tree.write("fleet.slice/workers.slice", {"memory.max": 512 * MIB, "cpu.max": "100000 100000"})
    tree.write(
        "fleet.slice", {"memory.max": 256 * MIB, "memory.current": 192 * MIB, "cpu.max": "25000 100000"}
    )

    seen = Host().look()

    assert (seen.cpus, seen.memory_limit) == (0.25, 256 * MIB)
    assert seen.memory == pytest.approx(75.0)


def test_of_two_memory_limits_the_one_that_is_nearer_counts(tree: Tree) -> None:
    tree.own("0::/fleet.slice/x.service")
    tree.write("fleet.slice/x.service", {"memory.max": 64 * MIB, "memory.current": 16 * MIB})
    tree.write("fleet.slice", {"memory.max": 128 * MIB, "memory.current": 120 * MIB})

    seen = Host().look()

    assert (seen.memory_limit, seen.memory) == (128 * MIB, 93.75)


def test_a_container_that_sees_its_own_cgroup_as_the_root_is_limited_by_that(tree: Tree) -> None:
    tree.own("0::/docker/0123456789ab")
    tree.write("", {"memory.max": 64 * MIB, "memory.current": 16 * MIB, "cpu.max": "10000 100000"})

    seen = Host().look()

    assert (seen.cpus, seen.memory_limit, seen.memory) == (0.1, 64 * MIB, 25.0)


def test_without_limits_the_machine_counts(tree: Tree) -> None:
    tree.own("0::/user.slice")
    tree.write("user.slice", {"memory.max": "max", "cpu.max": "max 100000"})

    seen = Host().look()

    assert seen.cpus == os.cpu_count()
    assert seen.memory_limit == psutil.virtual_memory().total


def test_limits_above_what_the_machine_has_limit_nothing(tree: Tree) -> None:
    tree.own("0::/big.slice")
    machine = psutil.virtual_memory().total
    tree.write("big.slice", {"memory.max": 2 * machine, "memory.current": 5, "cpu.max": "99000000 100000"})

    seen = Host().look()

    assert (seen.cpus, seen.memory_limit) == (os.cpu_count(), machine)


def test_the_cpu_of_a_cgroup_is_told_in_parts_of_its_limit(tree: Tree) -> None:
    tree.own("0::/x.slice")
    tree.write("x.slice", {"cpu.max": "50000 100000", "cpu.stat": "usage_usec 5000000"})
    looking = Host()

    assert looking.look().cpu == 0.0
    time.sleep(0.1)
    tree.write("x.slice", {"cpu.stat": "usage_usec 5150000"})

    # 0.15 s of half a CPU, averaged over three seconds.
    assert looking.look().cpu == pytest.approx(100 * 0.15 / 0.5 / SMOOTH_SECONDS, rel=0.01)


# --- Version 1 -----------------------------------------------------------------------------------------


def test_limits_of_a_cgroup_of_version_1_count(tree: Tree) -> None:
    tree.own("4:memory:/docker/abc", "3:cpu,cpuacct:/docker/abc", "1:name=systemd:/docker/abc", "0::/")
    tree.write(
        "memory/docker/abc",
        {
            "memory.limit_in_bytes": 256 * MIB,
            "memory.usage_in_bytes": 128 * MIB,
            "memory.stat": f"inactive_file 1\ntotal_inactive_file {64 * MIB}",
        },
    )
    tree.write("memory", {"memory.limit_in_bytes": 9223372036854771712})
    tree.write("cpu/docker/abc", {"cpu.cfs_quota_us": 50000, "cpu.cfs_period_us": 100000})
    tree.write("cpuacct/docker/abc", {"cpuacct.usage": 5_000_000_000})
    looking = Host()

    seen = looking.look()
    time.sleep(0.1)
    tree.write("cpuacct/docker/abc", {"cpuacct.usage": 5_150_000_000})

    assert (seen.cpus, seen.memory_limit, seen.memory) == (0.5, 256 * MIB, 25.0)
    assert looking.look().cpu == pytest.approx(100 * 0.15 / 0.5 / SMOOTH_SECONDS, rel=0.01)


def test_a_slice_of_version_1_that_is_limited_and_not_counted_uses_what_its_parent_does(tree: Tree) -> None:
    tree.own("4:cpu:/docker/abc/celery.slice", "3:cpuacct:/docker/abc", "0::/")
    tree.write("cpu/docker/abc/celery.slice", {"cpu.cfs_quota_us": 100000, "cpu.cfs_period_us": 100000})
    tree.write("cpuacct/docker/abc", {"cpuacct.usage": 5_000_000_000})
    looking = Host()

    seen = looking.look()
    time.sleep(0.1)
    tree.write("cpuacct/docker/abc", {"cpuacct.usage": 5_100_000_000})

    assert seen.cpus == 1.0
    assert looking.look().cpu == pytest.approx(100 / SMOOTH_SECONDS * 0.1, rel=0.05)


def test_a_cgroup_of_version_1_without_limits_limits_nothing(tree: Tree) -> None:
    tree.own("4:memory:/", "3:cpu,cpuacct:/")
    tree.write("memory", {"memory.limit_in_bytes": 9223372036854771712})
    tree.write("cpu", {"cpu.cfs_quota_us": -1, "cpu.cfs_period_us": 100000})

    seen = Host().look()

    assert (seen.cpus, seen.memory_limit) == (os.cpu_count(), psutil.virtual_memory().total)


def test_controllers_of_both_versions_are_found_where_they_are(tree: Tree) -> None:
    tree.own("4:memory:/a", "0::/b")
    tree.write("memory/a", {})
    tree.write("b", {})

    assert [(group.version, group.path.name) for group in own_cgroups("memory")] == [(1, "a"), (1, "memory")]
    assert [(group.version, group.path.name) for group in own_cgroups("cpu")] == [(2, "b"), (2, "cgroup")]


# --- Pressure ------------------------------------------------------------------------------------------


def test_pressure_is_that_of_the_cgroup_that_limits(tree: Tree) -> None:
    tree.own("0::/x.slice")
    tree.press("memory", 1.0)
    tree.press("cpu", 2.0)
    tree.write("x.slice", {"memory.max": 64 * MIB, "memory.pressure": PRESSURE.format("12.50")})

    seen = Host().look()

    assert (seen.memory_pressure, seen.cpu_pressure) == (12.5, 2.0)


def test_a_kernel_that_tells_no_pressure_has_none(tree: Tree) -> None:
    tree.own("0::/")

    seen = Host().look()

    assert (seen.memory_pressure, seen.cpu_pressure) == (0.0, 0.0)


# --- This machine --------------------------------------------------------------------------------------


def test_this_machine_gives_sane_numbers() -> None:
    looking = Host()
    looking.look()
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        pass
    seen = looking.look()

    assert 0 < seen.cpus <= (os.cpu_count() or 1)
    assert 0 < seen.cpu <= 150
    assert 0 < seen.memory < 100
    assert 50 * MIB < seen.memory_limit <= psutil.virtual_memory().total
    assert 0 <= seen.memory_pressure <= 100
    assert 0 <= seen.cpu_pressure <= 100
