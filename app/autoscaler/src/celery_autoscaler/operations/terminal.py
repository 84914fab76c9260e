"""What the command line shows: the state of the fleet, and its decisions in words.

Names and reasons come from messages and from other hosts: each is shown as text, never as markup or control.
"""

import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from rich.console import Console, Group, RenderableType
from rich.text import Text

from celery_autoscaler.operations.columns import Column, Columns, names
from celery_autoscaler.protocol.decision import DecisionRecord
from celery_autoscaler.protocol.overrides import ALL
from celery_autoscaler.protocol.status import GroupStatus, SupervisorStatus, WorkerStatus
from celery_autoscaler.protocol.text import as_text
from celery_autoscaler.supervisor.fleet_status import FleetStatus

COLOURS = {
    "keeping up": "bold green",
    "falling behind": "bold red",
    "no workers": "bold red",
    "failing": "bold red",
    "dead letters": "bold yellow",
    "unreadable": "bold yellow",
    "unsafe settings": "bold yellow",
    "leaving": "bold yellow",
    "paused": "bold yellow",
    "no supervisor": "bold red",
    "blind": "bold red",
    "ready": "green",
    "starting": "cyan",
    "draining": "yellow",
    "stopping": "yellow",
}

# What a program reads has no edge at which lines are broken.
PIPE_WIDTH = 100_000
GROUP_COLUMNS = (
    names("group"), Column("workers"), Column("wanted"), Column("waiting"), Column("oldest"),
    Column("running", rank=1), Column("arriving", rank=2), Column("a task", rank=3),
)  # fmt: skip
QUEUE_COLUMNS = (names("queue"), names("group"), Column("waiting"), Column("later", rank=1), Column("oldest"))
HOST_COLUMNS = (
    names("host"), names("state"), Column("CPU", rank=1), Column("memory", rank=2), Column("workers"),
    Column("tick", rank=3),
)  # fmt: skip
WORKER_COLUMNS = (
    names("worker"), names("state"), Column("done", rank=2), Column("runs"), Column("holds", rank=3),
    Column("memory", rank=1),
)  # fmt: skip


def new_console() -> Console:
    """Return a terminal, or a file, to which text is written as it is; only a terminal breaks lines."""
    console = Console(markup=False, emoji=False, highlight=False)
    if not sys.stdout.isatty():
        console.width = PIPE_WIDTH
    return console


def show(view: RenderableType) -> None:
    """Print a view; a name that is longer than the terminal is wide stays whole."""
    new_console().print(view, crop=False)


def plain(value: object, style: str = "") -> Text:
    """Return something from outside as text; its line breaks are shown as escapes."""
    return Text(as_text(value), style=style)


def colour(word: str) -> str:
    """Return the style of a verdict or a state; none of one that another release may know."""
    return COLOURS.get(word, "")


def unreachable_view(why: str) -> RenderableType:
    """Return what is shown while the broker does not answer."""
    return Text.assemble(("BLIND", COLOURS["blind"]), "  ", plain(why))


def status_view(status: FleetStatus) -> RenderableType:
    """Return the state of the fleet: whether it keeps up, and what groups, queues, hosts and workers do."""
    parts: list[RenderableType] = [
        Text.assemble((each.word.upper(), colour(each.word)), "  ", plain(each.why))
        for each in status.findings
    ]
    if status.last_change is not None:
        parts.append(last_change_view(status))
    if status.supervisors:
        parts += [
            groups_table(status.groups),
            queues_table(status.groups),
            hosts_table(status.supervisors),
            workers_table(status.workers),
        ]
    return Group(*parts)


def last_change_view(status: FleetStatus) -> Text:
    """Return the last start or stop of a worker, and why."""
    record = status.last_change
    if record is None:
        return Text()
    now = max((seen.at for seen in status.supervisors.values()), default=record.at)
    seconds = max(0, round(now - record.at))
    ago = f"{seconds} s" if seconds < 120 else f"{seconds // 60} min"
    return Text.assemble(
        (f"last change, {ago} ago  ", "dim"),
        plain(f"{record.group} ", "bold"),
        plain(f"{record.change}: {record.reason}"),
    )


def groups_table(groups: Mapping[str, GroupStatus]) -> Columns:
    """Return a row for each group."""
    table = Columns("Groups", GROUP_COLUMNS, "set by hand")
    for name, group in groups.items():
        late = group.age > group.target_wait
        takes = group.service_time
        others = [
            f"+{count} {state}"
            for state, count in (("starting", group.starting), ("draining", group.draining))
            if count
        ]
        table.add(
            plain(name),
            Text.assemble(
                (str(group.ready), "bold"), *(f"\n{other}" for other in [*slots_of(group), *others])
            ),
            "\n".join([f"{group.want} of {group.min_workers}-{group.max_workers}", *wanted_slots(group)]),
            str(group.waiting) + (f"\n+{group.future} later" if group.future else ""),
            Text(f"{group.age:.1f} of {group.target_wait:g} s", style="bold red" if late else ""),
            str(group.busy),
            f"{group.arrivals:.1f}/s",
            f"{takes:.2g} s" if takes else "-",
            prose=plain(group.override, "yellow") if group.override else None,
        )
    return table


def slots_of(group: GroupStatus) -> list[str]:
    """Return the slots that there are, if the group's workers stretch."""
    return [f"{group.slots} slots"] if group.max_concurrency else []


def wanted_slots(group: GroupStatus) -> list[str]:
    """Return the slots that are wanted, if the group's workers stretch, and those of one worker."""
    between = f"{group.concurrency}-{group.max_concurrency}"
    return [f"{group.want_slots} slots, {between} a worker"] if group.max_concurrency else []


def queues_table(groups: Mapping[str, GroupStatus]) -> RenderableType:
    """Return a row for each queue that is not empty; those that are stand in one line."""
    table = Columns("Queues", QUEUE_COLUMNS)
    empty = []
    for name, group in groups.items():
        for queue, found in group.queues.items():
            if not found.messages:
                empty.append(queue)
                continue
            table.add(plain(queue), plain(name), str(found.waiting), str(found.future), f"{found.age:.1f} s")
    shown: list[RenderableType] = [table] if table.rows else [Text("\nQueues", style="bold")]
    if empty:
        shown.append(plain("empty: " + ", ".join(sorted(empty)), "dim"))
    return Group(*shown)


def hosts_table(supervisors: Mapping[str, SupervisorStatus]) -> Columns:
    """Return a row for each host with a supervisor."""
    table = Columns("Hosts", HOST_COLUMNS, "held back")
    for host, status in sorted(supervisors.items()):
        held = {group.held_back for group in status.groups.values() if group.held_back}
        table.add(
            plain(host),
            plain(status.state, colour(status.state)),
            f"{status.cpu:.0f} % of {status.cpus:g}",
            f"{status.memory:.0f} %",
            str(len(status.workers)),
            f"{1000 * status.tick.took:.0f} ms",
            prose=plain("; ".join(sorted(held)), "yellow") if held else None,
        )
    return table


def workers_table(workers: Iterable[WorkerStatus]) -> Columns:
    """Return a row for each worker."""
    table = Columns("Workers", WORKER_COLUMNS, "now")
    for worker in workers:
        running = [f"{task.task} for {task.seconds:.0f} s" for task in worker.running]
        shown = ", ".join(running[:2]) + (f" and {len(running) - 2} more" if len(running) > 2 else "")
        why = f" ({worker.why})" if worker.why else ""
        table.add(
            plain(worker.name),
            plain(worker.state + why, colour(worker.state)),
            str(worker.processed),
            str(worker.active),
            str(worker.reserved),
            f"{worker.memory / 2**20:.0f} MiB",
            prose=plain(shown) if shown else None,
        )
    return table


def record_view(record: DecisionRecord) -> Text:
    """Return a decision in words."""
    when = datetime.fromtimestamp(record.at, UTC).strftime("%Y-%m-%d %H:%M:%S")
    group = "all groups" if record.group == ALL else record.group
    begin = Text.assemble((f"{when} UTC  ", "dim"), plain(f"{group}  ", "bold"))
    if record.by:
        return begin + plain(record.reason)
    held = f"; held back on {record.host}: {record.held_back}" if record.held_back else ""
    return Text.assemble(
        begin,
        plain(record.change, "bold red" if record.emergency else "bold"),
        plain(f": {record.reason}"),
        plain(held, "yellow"),
    )
