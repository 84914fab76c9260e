"""Ansible callback: print the fleet's report as tables at the end of a playbook that made one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
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
name: fleet_report
type: aggregate
short_description: Print the fleet's report as tables
description:
  - Prints the statistic C(fleet_report) that C(playbooks/verify.yml) sets, after the recap, and last the
    statistic C(fleet_findings), settings by which tasks can be lost, doubled or delayed.
  - Says nothing when no play has set them.
"""


def services(units: list[dict[str, str]], missing: list[str]) -> str:
    """Return the services of a host other than workers; in red those that should be there and are not."""
    active = {unit["unit"] for unit in units if unit["active"] == "active"}
    names = {shown_unit(unit) for unit in active if not is_worker(unit)}
    down = [_state(name, good=False) for name in missing]
    return "  ".join([*(_state(name, good=True) for name in sorted(names)), *down]) or "-"


def _state(text: str, good: bool) -> str:
    return f"[green]{text}[/]" if good else f"[bold red]{text} DOWN[/]"


def silent_hosts(expected: Collection[str], hosts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the hosts that did not answer: those that said so, and those that nothing was collected of."""
    return sorted(name for name in {*expected, *hosts} if not hosts.get(name, {}).get("answers", False))


def hosts_table(hosts: Mapping[str, Mapping[str, Any]], executed: Mapping[str, int]) -> Table:
    """Return a row for each host that answers: its services, its workers, and the tasks they executed."""
    table = Table(title="Hosts", title_justify="left")
    table.add_column("host")
    table.add_column("services")
    table.add_column("workers", justify="right")
    table.add_column("tasks executed", justify="right")
    for host, seen in sorted(hosts.items()):
        if not seen["answers"]:
            continue
        workers = [unit for unit in seen["units"] if is_worker(unit["unit"])]
        active = sum(unit["active"] == "active" for unit in workers)
        count = sum(tasks for worker, tasks in executed.items() if worker.endswith(f"@{host}"))
        # A supervisor's workers come and go; those that have failed are too many.
        supervised = any(is_supervisor(unit["unit"]) for unit in seen["units"])
        failed = sum(unit["active"] == "failed" for unit in workers)
        wanted = active + failed if supervised else len(workers)
        cells = [_state(f"{active} of {wanted}", active == wanted), str(count)]
        if not (workers or supervised):
            cells = ["-", "-"]
        table.add_row(host, services(seen["units"], seen["missing"]), *cells)
    return table


def queues_table(queues: dict[str, dict[str, Any]], title: str = "Queues") -> Table:
    """Return a row for each queue: what was sent to it and what became of it."""
    table = Table(title=title, title_justify="left")
    table.add_column("queue")
    for column in ("workers", "sent", "executed", "failed"):
        table.add_column(column, justify="right")
    for name, queue in queues.items():
        executed = _state(str(queue["executed"]), queue["executed"] == queue["sent"])
        failed = _state(str(queue["failed"]), queue["failed"] == 0)
        table.add_row(name, str(len(queue["workers"])), str(queue["sent"]), executed, failed)
    return table


def findings_table(hosts: dict[str, list[dict[str, str]]]) -> Table:
    """Return a row for each setting by which tasks can be lost, doubled or delayed, and whose it is."""
    found: dict[tuple[str, str], list[str]] = {}
    for host, findings in sorted(hosts.items()):
        for finding in findings:
            found.setdefault((finding["level"], finding["text"]), []).append(host)
    table = Table(title="Settings to look at (celery-autoscaler check)", title_justify="left")
    table.add_column("level")
    table.add_column("setting", overflow="fold")
    table.add_column("hosts")
    for (level, text), names in sorted(found.items()):
        style = "bold red" if level == "error" else "yellow"
        table.add_row(Text(level, style=style), Text(text), Text(", ".join(names)))
    return table


class CallbackModule(CallbackBase):  # type: ignore[misc]
    """Prints the report when the playbook ends."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "fleet_report"

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Print the tables."""
        told = stats.custom.get("_run", {})
        console = Console()
        if report := told.get("fleet_report"):
            probes = report["probes"] or {"": {"queues": {}, "workers": {}}}
            executed = {name: count for probe in probes.values() for name, count in probe["workers"].items()}
            for name in silent_hosts(report["expected"], report["hosts"]):
                console.print(f"[bold red]{name} does not answer[/]")
            console.print(hosts_table(report["hosts"], executed))
            for project, probe in sorted(probes.items()):
                title = f"Queues of {project}" if len(probes) > 1 else "Queues"
                console.print(queues_table(probe["queues"], title))
        if findings := told.get("fleet_findings"):
            console.print(findings_table(findings))
