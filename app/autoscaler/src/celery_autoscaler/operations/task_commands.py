"""``tasks``: what became of each task, how long it waited and how long it took."""

import json
from typing import Any

import click

from celery_autoscaler.operations import terminal
from celery_autoscaler.operations.columns import Column, Columns, names
from celery_autoscaler.operations.command_line import Context, as_json_option, say
from celery_autoscaler.protocol.spans import read_span, span_words
from celery_autoscaler.protocol.tallies import Histogram, Kind, Tally
from celery_autoscaler.supervisor import task_history

PARTS = (0.5, 0.95, 0.99)
COLUMNS = (
    names("task"), Column("ended"), Column("failed"), Column("retried", rank=2), Column("a second", rank=4),
    Column("wait p50", rank=6), Column("wait p95"), Column("wait p99", rank=3),
    Column("run p50", rank=7), Column("run p95"), Column("run p99", rank=5),
    Column("queue", is_number=False, rank=1),
)  # fmt: skip


@click.command("tasks", short_help="How often do tasks run, fail and wait?")
@click.option("--since", default="1h", help="Look that far back, at most 24h (default: 1h).")
@as_json_option
@click.pass_obj
def show_tasks(context: Context, /, since: str, as_json: bool) -> None:
    """Show, by task and queue, how many ended, failed and were retried, and how long they waited and ran.

    Those with the most failures come first, then those that wait longest.
    """
    try:
        asked = read_span(since)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--since") from error
    found, seconds = task_history.read(context.broker, asked)
    worst = sorted(found.items(), key=lambda item: badness(item[1]), reverse=True)
    if as_json:
        rows = [as_dict(kind, tally, seconds) for kind, tally in worst]
        click.echo(json.dumps({"seconds": round(seconds), "tasks": rows}))
    elif worst:
        terminal.show(table(dict(worst), seconds))
    else:
        say(f"No tasks have ended in the last {span_words(asked).removeprefix('1 ')}.")


def badness(tally: Tally) -> tuple[float, ...]:
    """Return what sorts tasks: failures, then waits."""
    return tally.outcomes["failed"], tally.wait.quantile(0.95), tally.outcomes.total()


def table(found: dict[Kind, Tally], seconds: float) -> Columns:
    """Return a row for each task and queue."""
    made = Columns(f"Tasks of the last {span_words(round(seconds))}", COLUMNS)
    for (task, queue), tally in found.items():
        ended, failed = tally.outcomes.total(), tally.outcomes["failed"]
        part = f" ({100 * failed / ended:.0f} %)" if failed else ""
        made.add(
            terminal.plain(task),
            str(ended),
            f"{failed}{part}",
            str(tally.outcomes["retried"]),
            f"{ended / seconds:.2g}",
            *(shown(tally.wait, part) for part in PARTS),
            *(shown(tally.runtime, part) for part in PARTS),
            terminal.plain(queue),
        )
    return made


def shown(histogram: Histogram, part: float) -> str:
    """Return a quantile of a histogram; a dash without any."""
    if not sum(histogram.counts):
        return "-"
    seconds = histogram.quantile(part)
    return f"{seconds:.2g} s" if seconds < 100 else f"{seconds:.0f} s"


def as_dict(kind: Kind, tally: Tally, seconds: float) -> dict[str, Any]:
    """Return a task for other programs."""
    ended = tally.outcomes.total()
    return {
        "task": kind[0],
        "queue": kind[1],
        "ended": ended,
        "per_second": round(ended / seconds, 6),
        "outcomes": dict(tally.outcomes),
        "failed_part": round(tally.outcomes["failed"] / ended, 6) if ended else 0.0,
        "wait": quantiles(tally.wait),
        "run": quantiles(tally.runtime),
    }


def quantiles(histogram: Histogram) -> dict[str, float] | None:
    """Return the seconds that a part of the tasks needed at most; nothing where that was not measured."""
    if not sum(histogram.counts):
        return None
    return {f"p{100 * part:.0f}": round(histogram.quantile(part), 6) for part in PARTS}
