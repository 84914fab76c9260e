"""What a run that changes nothing costs: site.yml and deploy.yml on 1, 2 and 4 hosts, in tasks and seconds.

``make bench-plays`` makes the hosts as containers, deploys the site once and times the runs after it;
``--peer ROLE`` (any number) times a play of another project's role on the same hosts, if it is installed.
Times depend on the machine: what counts is the ratio between rows of the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

ROOT = Path(__file__).parents[1]
PLAYBOOKS = ROOT / "playbooks"
TOOLS = Path(sys.executable).parent
FOLDER = ROOT / ".cache/plays"
SIZES = (1, 2, 4)
ROUNDS = 3


class PlayError(Exception):
    """A playbook failed; its last lines."""


@dataclass(frozen=True)
class Fleet:
    """Some hosts, the first of which has the servers and beat, and all of which have workers."""

    size: int

    @property
    def inventory(self) -> Path:
        """Where the inventory stands."""
        return FOLDER / str(self.size)

    def write(self) -> None:
        """Write the inventory."""
        names = [f"host{number}" for number in range(1, self.size + 1)]
        network = f"celery-fleet-plays-{self.size}"
        first: dict[str, Any] = {"hosts": {names[0]: {}}}
        every: dict[str, Any] = {"hosts": {name: {} for name in names}}
        content = {
            "all": {
                "vars": {
                    "ansible_connection": "community.docker.docker",
                    "ansible_become": False,
                    "container_network": network,
                    "container_image": "celery-fleet/host:trixie",
                    "fleet_checkout": str(ROOT),
                },
                "hosts": {name: {"ansible_host": f"{network}-{name}"} for name in names},
                "children": {"redis": first, "postgres": first, "beat": first, "workers": every},
            }
        }
        self.inventory.mkdir(parents=True, exist_ok=True)
        (self.inventory / "hosts.yml").write_text(json.dumps(content), encoding="utf-8")
        variables = self.inventory / "group_vars"
        if not variables.is_symlink():
            variables.symlink_to(ROOT / "inventories/local/group_vars")

    def play(self, *playbooks: Path) -> tuple[int, float]:
        """Run playbooks; return how many tasks they ran on all hosts together, and the seconds.

        Raises:
            PlayError: One of them failed.
        """
        environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
        begin = time.monotonic()
        command = [str(TOOLS / "ansible-playbook"), f"--inventory={self.inventory}", *map(str, playbooks)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        seconds = time.monotonic() - begin
        if done.returncode != 0:
            raise PlayError("\n".join([*done.stdout.splitlines()[-20:], *done.stderr.splitlines()[-5:]]))
        return sum(map(int, re.findall(r": ok=(\d+) ", done.stdout))), seconds

    @contextmanager
    def deployed(self) -> Iterator[None]:
        """Make the hosts and deploy the site, and remove them at the end."""
        self.write()
        try:
            self.play(PLAYBOOKS / "containers/create.yml", PLAYBOOKS / "site.yml")
            yield
        finally:
            self.play(PLAYBOOKS / "containers/destroy.yml")


def play_of(role: str) -> Path:
    """Write a playbook that applies a role to all hosts."""
    path = FOLDER / f"{role}.yml"
    play = {"name": f"Apply {role}", "hosts": "all", "become": True, "roles": [{"role": role}]}
    path.write_text(json.dumps([play]), encoding="utf-8")
    return path


def is_installed(role: str) -> bool:
    """Whether Ansible finds a role."""
    command = [str(TOOLS / "ansible-galaxy"), "role", "list"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    return re.search(rf"^- {re.escape(role)}, ", listed.stdout, re.MULTILINE) is not None


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--hosts", type=int, nargs="+", default=SIZES, help="numbers of hosts (default: 1 2 4)"
    )
    parser.add_argument(
        "--rounds", type=int, default=ROUNDS, help=f"runs, whose median counts (default: {ROUNDS})"
    )
    parser.add_argument("--peer", action="append", default=[], metavar="ROLE", help="another role to time")
    options = parser.parse_args()
    if missing := [role for role in options.peer if not is_installed(role)]:
        parser.error(f"--peer: not installed: {', '.join(missing)} (ansible-galaxy role install does that)")

    FOLDER.mkdir(parents=True, exist_ok=True)
    contenders = {"site.yml": PLAYBOOKS / "site.yml", "deploy.yml": PLAYBOOKS / "deploy.yml"}
    contenders |= {role: play_of(role) for role in options.peer}
    table = Table("hosts", "changes nothing", "tasks", "seconds", "seconds a host", title="Median of each")
    with Progress(transient=True) as progress:
        total = len(options.hosts) * (1 + len(contenders) * options.rounds)
        bar = progress.add_task("deploying", total=total)
        for size in options.hosts:
            fleet = Fleet(size)
            progress.update(bar, description=f"deploying {size} hosts")
            with fleet.deployed():
                progress.advance(bar)
                for name, playbook in contenders.items():
                    if name in options.peer:
                        fleet.play(playbook)
                    times, tasks = [], 0
                    for _ in range(options.rounds):
                        progress.update(bar, description=f"{name} on {size} hosts")
                        tasks, seconds = fleet.play(playbook)
                        times.append(seconds)
                        progress.advance(bar)
                    median = statistics.median(times)
                    table.add_row(str(size), name, str(tasks), f"{median:.1f}", f"{median / size:.1f}")
    Console().print(table)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PlayError as failure:
        sys.exit(f"a playbook failed:\n{failure}")
