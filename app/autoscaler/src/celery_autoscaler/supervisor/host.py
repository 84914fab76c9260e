"""CPU and memory of the host, or of the cgroup that this process runs in where that has a limit.

Reads cgroup v1 and v2, from the own cgroup up to the root: the fewest CPUs and the fullest memory count.
Sources:
https://docs.kernel.org/admin-guide/cgroup-v1/ , .../cgroup-v2.html , .../accounting/psi.html
"""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from celery_autoscaler.supervisor.policy.limits import HostSeen

PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
# A v1 cgroup without a limit says some number near 2^63.
UNLIMITED = 2**60
# Seconds over which the use of the CPUs is averaged: a start alone must not look like a shortage.
SMOOTH_SECONDS = 3.0


@dataclass(frozen=True)
class Cgroup:
    """A directory of the cgroup file system, and which version it speaks."""

    path: Path
    version: int

    def read(self, name: str) -> str:
        """Return the content of a file, or nothing where there is none."""
        try:
            return (self.path / name).read_text().strip()
        except OSError:
            return ""

    def field(self, name: str, key: str) -> int:
        """Return a number from a file of ``key number`` lines, or 0."""
        for line in self.read(name).splitlines():
            found, _, value = line.partition(" ")
            if found == key:
                return int(value)
        return 0

    @property
    def memory_limit(self) -> int | None:
        """Bytes that the group may use."""
        content = self.read("memory.max" if self.version == 2 else "memory.limit_in_bytes")
        limit = int(content) if content.isdecimal() else UNLIMITED
        return limit if limit < UNLIMITED else None

    @property
    def memory_used(self) -> int:
        """Bytes in use that cannot be dropped at once."""
        used, inactive = "memory.current", "inactive_file"
        if self.version == 1:
            used, inactive = "memory.usage_in_bytes", "total_inactive_file"
        return max(0, int(self.read(used) or 0) - self.field("memory.stat", inactive))

    @property
    def cpus(self) -> float | None:
        """CPUs that the group may use."""
        if self.version == 2:
            quota, _, period = self.read("cpu.max").partition(" ")
        else:
            quota, period = self.read("cpu.cfs_quota_us"), self.read("cpu.cfs_period_us")
        return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() else None

    @property
    def cpu_seconds(self) -> float:
        """Seconds of CPU that the group has used."""
        if self.version == 2:
            return self.field("cpu.stat", "usage_usec") / 1e6
        # cpu and cpuacct are mounted together or under links of both names.
        path = CGROUPS / "cpuacct" / self.path.relative_to(CGROUPS / "cpu")
        # Where they are not, systemd may limit a slice and not count it: the parent's count applies.
        while not path.exists():
            path = path.parent
        return int(Cgroup(path, 1).read("cpuacct.usage") or 0) / 1e9


def own_cgroups(controller: str) -> Iterator[Cgroup]:
    """Yield the cgroups of this process for a controller, from its own up to the root of what it sees."""
    paths: dict[str, str] = {}
    for line in (PROC / "self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        paths |= dict.fromkeys(controllers.split(","), path)
    version = 1 if controller in paths else 2
    mount = CGROUPS / controller if version == 1 else CGROUPS
    own = mount / paths.get(controller, paths.get("", "/")).lstrip("/")
    # A container may see its own cgroup as the root while /proc names the path outside, which holds no file.
    yield Cgroup(own, version)
    while own != mount:
        own = own.parent
        yield Cgroup(own, version)


class Host:
    """Looks at the host; remembers what the use of the CPUs is counted from."""

    def __init__(self) -> None:
        self._cpu_path: Path | None = None
        self._cpu_seconds = 0.0
        self._at = 0.0
        self._cpu = 0.0
        psutil.cpu_percent()

    def look(self) -> HostSeen:
        """Return what is seen now."""
        limit, used, cgroup = self._memory()
        total = os.cpu_count() or 1
        limited = [(cpus, group) for group in own_cgroups("cpu") if (cpus := group.cpus) is not None]
        cpus, group = min(limited, key=lambda pair: pair[0], default=(float(total), None))
        if cpus >= total:
            cpus, group = float(total), None
        return HostSeen(
            cpus=cpus,
            cpu=self._cpu_percent(cpus, group),
            memory=100 * used / limit if limit else 0.0,
            memory_limit=limit,
            memory_pressure=pressure("memory", cgroup),
            cpu_pressure=pressure("cpu", group),
        )

    @staticmethod
    def _memory() -> tuple[int, int, Cgroup | None]:
        """Return limit and use in bytes, and the cgroup that limits, if one does."""
        host = psutil.virtual_memory()
        limited = [
            (group.memory_used, limit, group)
            for group in own_cgroups("memory")
            if (limit := group.memory_limit) and limit < host.total
        ]
        if not limited:
            return host.total, host.total - host.available, None
        used, limit, cgroup = max(limited, key=lambda found: found[0] / found[1])
        return limit, used, cgroup

    def _cpu_percent(self, cpus: float, group: Cgroup | None) -> float:
        now = time.monotonic()
        elapsed = now - self._at
        if group is None:
            percent, path = psutil.cpu_percent(), None
        else:
            path, seconds = group.path, group.cpu_seconds
            percent = 100 * (seconds - self._cpu_seconds) / elapsed / cpus if path == self._cpu_path else 0.0
            self._cpu_seconds = seconds
        if path != self._cpu_path or not self._at:
            self._cpu = percent
        else:
            self._cpu += min(1.0, elapsed / SMOOTH_SECONDS) * (percent - self._cpu)
        self._cpu_path, self._at = path, now
        return self._cpu


def pressure(resource: str, cgroup: Cgroup | None) -> float:
    """Return the per cent of the last 10 s in which something waited for a resource; 0 if unknown."""
    content = ""
    if cgroup is not None and cgroup.version == 2:
        content = cgroup.read(f"{resource}.pressure")
    if not content:
        try:
            content = (PROC / "pressure" / resource).read_text()
        except OSError:
            return 0.0
    # some avg10=0.12 avg60=...
    for word in content.partition("\n")[0].split():
        name, _, value = word.partition("=")
        if name == "avg10":
            return float(value)
    return 0.0
