"""Failures on a terminal. Names, texts and tracebacks come from the app: each is shown as text."""

from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.text import Text

from celery_autoscaler.operations.columns import Column, Columns, names
from celery_autoscaler.operations.failures import Kept, KnownKind
from celery_autoscaler.operations.terminal import plain
from celery_autoscaler.protocol.failures import Failure
from celery_autoscaler.protocol.spans import span_words
from celery_autoscaler.protocol.text import as_text

KIND_COLUMNS = (
    names("kind"), Column("failures"), names("task"), Column("last"), Column("first", rank=1),
)  # fmt: skip
TASK_COLUMNS = (
    names("task"), Column("ago"), names("worker"), Column("retries", rank=1),
)  # fmt: skip
# Single failures that are shown of a kind.
SHOWN = 10


def span(seconds: float) -> str:
    """Return a span as it follows "the last"."""
    return span_words(seconds).removeprefix("1 ")


def moment(seconds: float) -> str:
    """Return a time of the last days."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def ago(now: float, seconds: float) -> str:
    """Return how long ago something was, in short."""
    passed = max(0, round(now - seconds))
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if passed >= 2 * size:
            return f"{passed // size} {unit}"
    return f"{passed} s"


def where(failure: Failure) -> str:
    """Return where an exception was raised; nothing if no code of the app's did it."""
    return f" at {failure.place} in {failure.function}" if failure.place else ""


def summary(failure: Failure) -> str:
    """Return an exception, the first line of what it says, and where it was raised."""
    says = f": {failure.text.splitlines()[0]}" if failure.text.strip() else ""
    return f"{failure.exception}{says}{where(failure)}"


def kinds_view(found: Sequence[KnownKind], now: float, since: float) -> RenderableType:
    """Return a table of kinds of failures."""
    table = Columns(f"Failures in the last {span(since)}", KIND_COLUMNS, "exception")
    for kind in found:
        release = f", since release {kind.seen.release}" if kind.seen.release else ""
        table.add(
            plain(kind.id, "bold"),
            str(kind.count),
            plain(kind.example.task),
            f"{ago(now, kind.seen.last)} ago",
            f"{ago(now, kind.seen.first)} ago",
            prose=plain(f"{summary(kind.example)}{release}", "dim"),
        )
    first = found[0].id
    return Group(
        table,
        Text(f"\nfleet failures {first}  shows the traceback", style="dim"),
        Text(f"fleet retry {first}  runs its tasks again", style="dim"),
    )


def kind_view(kind: KnownKind, tasks: Sequence[Kept], now: float, since: float) -> RenderableType:
    """Return a kind, its last failure, and the single ones that are kept."""
    example, seen = kind.example, kind.seen
    facts = {
        "failures": f"{kind.count} in the last {span(since)}, {seen.total} since {moment(seen.first)}",
        "since release": seen.release,
        "last": moment(example.at),
        "task id": example.id,
        "queue": example.queue,
        "worker": example.worker,
        "release": example.release if example.release != seen.release else "",
        "retries": str(example.retries),
        "arguments": example.arguments,
    }
    rows: list[RenderableType] = [
        Text.assemble(
            (kind.id, "bold"),
            "  ",
            plain(example.task, "bold"),
            "  ",
            plain(f"{example.exception}{where(example)}"),
        )
    ]
    rows += [Text.assemble((f"{name:<15}", "dim"), plain(value)) for name, value in facts.items() if value]
    if example.traceback:
        rows.append(Text())
        # A line break of it begins a line; all else is shown as text.
        lines = example.traceback.rstrip().split("\n")
        rows += [Text(as_text(line.expandtabs()), no_wrap=True, overflow="ignore") for line in lines]
    rows.append(tasks_table(tasks, now))
    ready = sum(bool(each.message) and not each.retried for each in tasks)
    rows.append(Text(f"{len(tasks)} tasks kept, {ready} can run again: fleet retry {kind.id}", style="dim"))
    return Group(*rows)


def tasks_table(tasks: Sequence[Kept], now: float) -> Columns:
    """Return the newest of single failures."""
    table = Columns("Tasks", TASK_COLUMNS, "sent again")
    for each in tasks[:SHOWN]:
        state = "" if each.message else "cannot be sent again: too large"
        if each.retried:
            state = f"sent again by {each.retried}"
        table.add(
            plain(each.failure.id),
            f"{ago(now, each.failure.at)}",
            plain(each.failure.worker),
            str(each.failure.retries),
            prose=plain(state) if state else None,
        )
    return table


def named_counts(counts: dict[str, int]) -> str:
    """Return how many tasks of each name there are, in one line."""
    return ", ".join(f"{count} {as_text(task)}" for task, count in counts.items())
