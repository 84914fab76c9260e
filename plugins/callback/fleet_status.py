"""Ansible callback: print the state of the fleet on one screen."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ansible.plugins.callback import CallbackBase
from ansible_collections.celery_fleet.platform.plugins.module_utils.celery_project import (
    is_supervisor,
    is_worker,
    shown_unit,
)
from rich.console import Console
from rich.table import Table
from rich.text import Text

DOCUMENTATION = r"""
name: fleet_status
type: aggregate
short_description: Print the state of the fleet on one screen
description:
  - Prints the statistic C(fleet_status) that C(playbooks/status.yml) sets, after the recap.
  - Says nothing when no play has set it.
"""

Host = Mapping[str, Any]
# What supervisors say of the fleet of each project; nothing where none answers.
Fleets = Mapping[str, Mapping[str, Any]]
# Of a host that answered to nothing, or was lost while it was asked.
SILENT: Host = {"answers": False, "units": [], "project": "", "release": "", "redis": {}, "postgres": {}}


def complete(hosts: Mapping[str, Host], expected: Collection[str]) -> dict[str, Host]:
    """Return what was collected of all hosts that were to be asked."""
    return {name: hosts.get(name, SILENT) for name in {*expected, *hosts}}


def new_table(title: str, *columns: str) -> Table:
    """Return a table whose columns after the first two are figures."""
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number > 1 else "left")
    return table


def services(host: Host) -> Text:
    """Return the services of a host: the active ones, and in red those that have failed."""
    words = Text()
    for unit in host["units"]:
        if is_worker(unit["unit"]) or unit["active"] not in {"active", "failed", "activating"}:
            continue
        good = unit["active"] == "active"
        words.append(shown_unit(unit["unit"]) + " ", style="" if good else "bold red")
    return words


def supervisors_of(fleets: Fleets) -> dict[str, Any]:
    """Return what the supervisors of all projects say, by host."""
    return {
        name: told
        for _, fleet in sorted(fleets.items())
        for name, told in sorted(fleet.get("supervisors", {}).items())
    }


def hosts_table(hosts: Mapping[str, Host], fleets: Fleets) -> Table:
    """Return a row for each host."""
    table = new_table("Hosts", "host", "services", "release", "workers", "CPU", "memory")
    supervisors = supervisors_of(fleets)
    for name, host in sorted(hosts.items()):
        seen = supervisors.get(name, {})
        workers = [unit for unit in host["units"] if is_worker(unit["unit"])]
        table.add_row(
            name,
            services(host) if host["answers"] else Text("does not answer", style="bold red"),
            host["release"] or "-",
            str(sum(unit["active"] == "active" for unit in workers)) if workers or seen else "-",
            f"{seen['cpu']:.0f} %" if seen else "-",
            f"{seen['memory']:.0f} %" if seen else "-",
        )
    return table


def groups_table(groups: Mapping[str, Mapping[str, Any]], title: str = "Workers and queues") -> Table:
    """Return a row for each worker group and each of its queues that is not empty."""
    table = new_table(title, "group", "queue", "workers", "waiting", "oldest")
    for name, group in groups.items():
        late = group["age"] > group["target_wait"]
        table.add_row(
            name,
            "all",
            f"{group['ready']} of {group['min_workers']}-{group['max_workers']}"
            + (f", {group['slots']} slots" if group.get("max_concurrency") else ""),
            str(group["waiting"]),
            Text(f"{group['age']:.1f} of {group['target_wait']:g} s", style="bold red" if late else ""),
        )
        for queue, found in group["queues"].items():
            if found["messages"]:
                table.add_row("", queue, "", str(int(found["messages"])), f"{found['age']:.1f} s")
    return table


def data_table(hosts: Mapping[str, Host]) -> Table:
    """Return a row for each server of data."""
    table = new_table("Data", "server", "role", "memory", "lag")
    for name, host in sorted(hosts.items()):
        redis, postgres = host["redis"], host["postgres"].get("state", {})
        if "role" in redis:
            limit = f" of {redis['maxmemory'] / 2**20:.0f}" if redis["maxmemory"] else ""
            table.add_row(f"{name} Redis", redis["role"], f"{redis['memory'] / 2**20:.0f}{limit} MiB", "-")
        if postgres.get("running"):
            role = "standby" if postgres["standby"] else "primary"
            lag = f"{int(host['postgres']['lag']) / 2**20:.1f} MiB" if postgres["standby"] else "-"
            table.add_row(f"{name} PostgreSQL", role, "-", lag)
    return table


def unheard(hosts: Mapping[str, Host], fleets: Fleets) -> Iterator[str]:
    """Yield the hosts whose supervisor runs, and which no other one knows of."""
    for name, host in sorted(hosts.items()):
        runs = any(is_supervisor(unit["unit"]) and unit["active"] == "active" for unit in host["units"])
        fleet = fleets.get(host["project"], {})
        if fleet and runs and name not in fleet.get("supervisors", {}):
            yield f"{name}: its supervisor runs but does not report: can the host reach Redis?"


# What supervisors call settings by which tasks can be lost, doubled or left waiting.
UNSAFE = "unsafe settings"


def silent(hosts: Mapping[str, Host]) -> list[str]:
    """Return the hosts that did not answer, a line each."""
    return [f"{name} does not answer" for name, host in sorted(hosts.items()) if not host["answers"]]


def mixed_releases(hosts: Mapping[str, Host]) -> Iterator[str]:
    """Yield the projects whose hosts are not on one release."""
    releases: dict[str, set[str]] = {}
    for host in hosts.values():
        if host["release"]:
            releases.setdefault(host["project"], set()).add(host["release"])
    for project, found in sorted(releases.items()):
        if len(found) > 1:
            whose = f"the hosts of {project}" if len(releases) > 1 else "the hosts"
            yield f"{whose} are on {len(found)} releases: {', '.join(sorted(found))}"


def warnings(hosts: Mapping[str, Host], fleets: Fleets) -> Iterator[str]:
    """Yield what somebody should look at, beside the hosts that do not answer."""
    for name, host in sorted(hosts.items()):
        for unit in host["units"]:
            if unit["active"] == "failed":
                yield f"{name}: {unit['unit']} has failed"
        if host.get("plain"):
            yield f"{name}: plain Celery workers, for which no guarantee about workers and scaling holds"
        for words in (host["redis"].get("lacking"), host["redis"].get("msg")):
            if words:
                yield f"{name}: Redis: {words}"
        yield from (f"{name}: PostgreSQL: {error}" for error in host["postgres"].get("errors", []))
    yield from unheard(hosts, fleets)
    yield from mixed_releases(hosts)
    supervisors = supervisors_of(fleets)
    held = {
        f"{name}: held back: {group['held_back']}"
        for name, supervisor in supervisors.items()
        for group in supervisor["groups"].values()
        if group["held_back"]
    }
    yield from sorted(held)
    # Drained for maintenance: easily forgotten.
    for name, supervisor in supervisors.items():
        if supervisor["state"] == "leaving":
            yield f"{name}: runs no workers, drained by {supervisor['why']}; resume.yml ends that"
    for _, fleet in sorted(fleets.items()):
        yield from (
            f"unsafe settings: {one['why']}" for one in fleet.get("also", ()) if one["word"] == UNSAFE
        )


def backups(hosts: Mapping[str, Host]) -> Iterator[str]:
    """Yield what is known of the backups."""
    for name, host in sorted(hosts.items()):
        if host["postgres"].get("backup"):
            yield f"{name}: {host['postgres']['backup']}"


def verdict(fleet: Mapping[str, Any], whose: str) -> Text:
    """Return in a line whether a fleet keeps up."""
    if not fleet:
        return Text(f"{whose}No supervisor answers.", style="bold red")
    style = "bold green" if fleet["verdict"] == "keeping up" else "bold red"
    return Text.assemble(whose, (fleet["verdict"].upper(), style), f"  {fleet['why']}")


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Prints the state when the playbook ends."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "fleet_status"

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Print the screen."""
        report = stats.custom.get("_run", {}).get("fleet_status")
        if not report:
            return
        hosts, fleets = complete(report["hosts"], report["expected"]), report["fleets"] or {"": {}}
        console = Console(highlight=False)
        console.print()
        dead = silent(hosts)
        for line in dead:
            console.print(Text(line, style="bold red"))
        for project, fleet in sorted(fleets.items()):
            console.print(verdict(fleet, f"{project}: " if len(fleets) > 1 else ""))
        console.print(hosts_table(hosts, fleets))
        for project, fleet in sorted(fleets.items()):
            if fleet.get("groups"):
                title = "Workers and queues" + (f" of {project}" if len(fleets) > 1 else "")
                console.print(groups_table(fleet["groups"], title))
        console.print(data_table(hosts))
        for line in backups(hosts):
            console.print(Text(f"Backup  {line}"))
        found = list(warnings(hosts, fleets))
        for line in found:
            console.print(Text(f"Warning  {line}", style="bold yellow"))
        if not found and not dead:
            console.print(Text("No warnings.", style="green"))
