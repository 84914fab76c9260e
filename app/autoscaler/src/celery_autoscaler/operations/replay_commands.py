"""``replay``: what other settings would have done; ``record``: the records behind it."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from celery_autoscaler.operations import recordings, terminal
from celery_autoscaler.operations.columns import Column, Columns, names
from celery_autoscaler.operations.command_line import Context, as_json_option, say
from celery_autoscaler.operations.completion import completing
from celery_autoscaler.protocol.recording import SECONDS, Record
from celery_autoscaler.protocol.spans import read_span
from celery_autoscaler.protocol.text import missing
from celery_autoscaler.settings import Group, parse_number
from celery_autoscaler.supervisor.record_store import records_of
from celery_autoscaler.supervisor.replay.comparison import RELIABLE, Comparison, compare
from celery_autoscaler.supervisor.replay.engine import CHANGES
from celery_autoscaler.supervisor.replay.outcome import Outcome

RULES = {item.name: item.metadata["rule"] for item in fields(Group) if item.name in CHANGES}
# Part of the time that is not worth a sentence.
SELDOM = 0.01


Change = tuple[str, str, float]
"""Another value of a setting: the group, the setting, the value."""


def as_seconds(_: click.Context, __: click.Parameter, text: str) -> int:
    """Return the seconds of a span such as ``24h``."""
    try:
        return read_span(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def as_changes(_: click.Context, __: click.Parameter, texts: Sequence[str]) -> list[Change]:
    """Return changes such as ``web.max_workers=20``."""
    found = []
    for text in texts:
        left, equals, value = text.partition("=")
        group, _dot, setting = left.rpartition(".")
        if not (equals and group):
            raise click.BadParameter(f"'{text}' is no change: write GROUP.SETTING=VALUE")
        if setting not in RULES:
            raise click.BadParameter(missing("setting", setting, RULES))
        number = parse_number(value)
        if not RULES[setting].fits(number):
            raise click.BadParameter(f"{text} is wrong: allowed is {RULES[setting].allowed}")
        found.append((group, setting, number))
    return found


@click.command(short_help="What would other settings have done?")
@click.argument("group", required=False, shell_complete=completing("groups"))
@click.option(
    "--since", default="24h", callback=as_seconds, metavar="SPAN", help="How far to look back (default: 24h)."
)
@click.option(
    "--set",
    "changes",
    callback=as_changes,
    multiple=True,
    metavar="GROUP.SETTING=VALUE",
    help=f"A setting to try: {', '.join(CHANGES)}. Repeatable.",
)
@click.option("--price", type=click.FloatRange(0), help="What an hour of a worker costs; shows the money.")
@click.option("--file", type=click.Path(path_type=Path), help="Replay a file of `record export`.")
@as_json_option
@click.pass_obj
def replay(
    context: Context, /, group: str | None, since: int, file: Path | None, price: float | None, **options: Any
) -> None:
    """Replay what GROUP, or each group that is set, met: waits, workers and starts with other settings.

    Runs the real control law over the recorded tasks, with the settings that were in force and with those of
    --set, and says how far its replay of the past is off.
    """
    changes: Sequence[Change] = options["changes"]
    wanted = {group} if group else {name for name, _, _ in changes}
    found: list[tuple[str, Comparison]] = []
    refused = 0
    for name in sorted(wanted) if wanted else [None]:
        blocks, useless = recordings.of_file(file, name) if file else _of_broker(context, name)
        refused += useless
        for each, some in blocks.items():
            records, useless = records_of(some)
            refused += useless
            if records := lately(records, since):
                tried = {setting: value for of, setting, value in changes if of == each}
                _check_bounds(each, records[-1], tried)
                found.append((each, compare(records, tried)))
    if options["as_json"]:
        click.echo(json.dumps({name: as_dict(comparison, price) for name, comparison in found}))
    else:
        for name, comparison in found:
            show(name, comparison, [f"{key}={value:g}" for of, key, value in changes if of == name], price)
        if not found:
            say("Nothing is recorded yet. Supervisors record ten seconds after their start.")
    if refused:
        say(f"ignored, no records that this release can read: {refused}", err=True)


@click.group(short_help="Keep what `replay` needs.")
def record() -> None:
    """Manage the records of the last week: what arrived, what was decided."""


@record.command()
@click.argument("file", type=click.File("w", encoding="utf-8"))
@click.argument("group", required=False, shell_complete=completing("groups"))
@click.pass_obj
def export(context: Context, file: Any, group: str | None) -> None:
    """Write the records of GROUP, or of all, to FILE, for `replay --file`; - is standard output."""
    blocks, _ = _of_broker(context, group)
    for name, some in blocks.items():
        file.write(recordings.dump(name, some) + "\n")


def _of_broker(context: Context, group: str | None) -> tuple[recordings.Blocks, int]:
    return recordings.of_broker(context.broker, context.app, group)


def _check_bounds(group: str, last: Record, changes: dict[str, float]) -> None:
    low = changes.get("min_workers", last.figures.min_workers)
    high = changes.get("max_workers", last.figures.max_workers)
    if changes and low > high:
        raise click.UsageError(f"{group}: min_workers {low:g} is more than max_workers {high:g}")


def lately(records: Sequence[Record], seconds: int) -> list[Record]:
    """Return the records of the last seconds before the end of the last one."""
    return [record for record in records if record.slot > records[-1].slot - seconds / SECONDS]


# --- What is shown -----------------------------------------------------------------------------------------

ROWS: tuple[tuple[str, Callable[[Outcome], str]], ...] = (
    ("p50 wait", lambda outcome: f"{outcome.waits[0]:.1f} s"),
    ("p95 wait", lambda outcome: f"{outcome.waits[1]:.1f} s"),
    ("p99 wait", lambda outcome: f"{outcome.waits[2]:.1f} s"),
    ("over target", lambda outcome: f"{100 * outcome.late:.2f} %"),
    ("worker-hours", lambda outcome: f"{outcome.worker_hours:.2f}"),
    ("slot-hours", lambda outcome: f"{outcome.slot_hours:.2f}"),
    ("starts", lambda outcome: str(outcome.starts)),
    ("most workers", lambda outcome: str(outcome.most_workers)),
    ("most memory", lambda outcome: f"{outcome.most_memory} MiB"),
)


def show(group: str, found: Comparison, tried: Sequence[str], price: float | None) -> None:
    """Print a table of what was and what would have been, and how sure that is."""
    begin, end = (datetime.fromtimestamp(at, UTC) for at in (found.begin, found.end))
    title = f"{group}, {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC: {found.measured.tasks} tasks"
    outcomes = [found.measured, found.replayed, *([found.tried] if found.tried else [])]
    heads = ["measured", "replayed", *(["\n".join(tried)] if found.tried else [])]
    table = Columns(title, [names(""), *(Column(head.replace("\n", ", ")) for head in heads)])
    for label, text in ROWS:
        table.add(label, *(text(outcome) for outcome in outcomes))
    if price is not None:
        table.add("money", *(f"{outcome.worker_hours * price:.2f}" for outcome in outcomes))
    terminal.show(table)
    for line in remarks(found):
        say(line)


def remarks(found: Comparison) -> Iterable[str]:
    """Yield how sure the figures are, in sentences."""
    yield (
        f"The replay of the settings in force was off by {100 * found.wait_off:+.0f} % in the p95 wait and "
        f"{100 * found.hours_off:+.0f} % in worker-hours."
    )
    if not found.is_reliable:
        yield f"That is more than {100 * RELIABLE:.0f} %: do not rely on small differences."
    span = found.end - found.begin
    if found.recorded < (1 - SELDOM) * span:
        yield f"Recorded are {found.recorded / 3600:.1f} of {span / 3600:.1f} hours; the replay joins them."
    if found.tried and found.tried.most_workers > found.measured.most_workers:
        yield (
            f"More workers than the {found.measured.most_workers} that were recorded: whether the hosts bear "
            "them is not known."
        )
    if found.slowed > SELDOM:
        slowed = f"{100 * found.slowed:.0f} %"
        yield (
            f"In {slowed} of the time more workers finished no more tasks: the replay keeps "
            "to the limit and the run times of then."
        )
    if found.future:
        yield "Some tasks had an ETA. The replay starts no workers ahead of them."


def as_dict(found: Comparison, price: float | None) -> dict[str, Any]:
    """Return all of it for other programs."""
    outcomes = {"measured": found.measured, "replayed": found.replayed, "tried": found.tried}
    return {
        "begin": found.begin,
        "end": found.end,
        "recorded_seconds": found.recorded,
        "wait_off": round(found.wait_off, 4),
        "worker_hours_off": round(found.hours_off, 4),
        "is_reliable": found.is_reliable,
        "remarks": list(remarks(found)),
    } | {name: outcome and _outcome_dict(outcome, price) for name, outcome in outcomes.items()}


def _outcome_dict(outcome: Outcome, price: float | None) -> dict[str, Any]:
    p50, p95, p99 = outcome.waits
    found = asdict(outcome) | {"waits": {"p50": p50, "p95": p95, "p99": p99}}
    return found | ({} if price is None else {"money": round(outcome.worker_hours * price, 4)})
