"""``failures`` and ``retry``: which tasks fail, why, and another run of them."""

import json
import time
from collections.abc import Callable, Sequence
from typing import Any

import click

from celery_autoscaler.operations import actions, dead_letters, failure_views, failures, terminal
from celery_autoscaler.operations.command_line import Context, as_json_option, say
from celery_autoscaler.operations.completion import completing
from celery_autoscaler.operations.failures import Which
from celery_autoscaler.operations.operator import operator
from celery_autoscaler.protocol.failures import KEPT_SECONDS
from celery_autoscaler.protocol.spans import read_span
from celery_autoscaler.protocol.text import missing

Command = Callable[..., Any]


def read_since(_: click.Context, __: click.Parameter, text: str) -> int:
    """Return the seconds of a span such as ``30m``; a longer one than failures are kept means all of them.

    Raises:
        click.BadParameter: It is none.
    """
    try:
        return min(KEPT_SECONDS, read_span(text))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def choosing(since: str) -> Callable[[Command], Command]:
    """Return what gives a command the options that choose failures."""
    options = (
        click.option(
            "--since", default=since, callback=read_since, help=f"Look that far back (default: {since})."
        ),
        click.option("--task", default="", help="Only this task."),
        click.option("--exception", default="", help="Only this type of exception, with or without module."),
        click.option(
            "--group", default="", help="Only this worker group.", shell_complete=completing("groups")
        ),
    )

    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


@click.command("failures", short_help="Which tasks fail, and why?")
@click.argument("kind", required=False)
@choosing("1h")
@as_json_option
@click.pass_obj
def show_failures(context: Context, /, kind: str | None, since: int, as_json: bool, **chosen: str) -> None:
    """Show what tasks failed with, the most frequent first; of KIND the traceback and the tasks."""
    which = Which(seconds=since, **chosen)
    broker = context.broker
    now = float(broker.client.time()[0])
    if kind is not None:
        known = kind_named(context, kind, which)
        tasks = list(failures.kept(broker, Which(kinds=(known.id,), seconds=since)))
        if as_json:
            click.echo(json.dumps(known.as_dict() | {"tasks": [task_as_dict(each) for each in tasks]}))
        else:
            terminal.show(failure_views.kind_view(known, tasks, now, since))
        return
    found = failures.kinds(broker, which)
    if as_json:
        click.echo(json.dumps([known.as_dict() for known in found]))
        return
    if found:
        terminal.show(failure_views.kinds_view(found, now, since))
    else:
        say(f"No failures in the last {failure_views.span(since)}.")
    if dead_letters.queues(broker):
        say("Messages that came back too often: fleet dead-letter list")


def kind_named(context: Context, name: str, which: Which) -> failures.KnownKind:
    """Return a kind by its id, or by the beginning of one.

    Raises:
        Refused: There is none, or several.
    """
    there = failures.kinds(context.broker, which)
    found = [kind for kind in there if kind.id.startswith(name)]
    if len(found) > 1:
        raise actions.Refused(f"several kinds of failures begin with '{name}'")
    if not found:
        raise actions.Refused(missing("kind of failure", name, [kind.id for kind in there]))
    return found[0]


def task_as_dict(kept: failures.Kept) -> dict[str, Any]:
    """Return a single failure for other programs; its message may hold what not everybody may read."""
    return kept.failure.as_dict() | {"can_retry": bool(kept.message), "retried_by": kept.retried}


@click.command("retry", short_help="Run failed tasks again.")
@click.argument("kinds", nargs=-1)
@click.option("--id", "ids", multiple=True, help="This task. Repeatable.")
@choosing("3d")
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Send at most that many a second.")
@click.option("--dry-run", is_flag=True, help="Show what would be sent.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@as_json_option
@click.pass_obj
def retry(context: Context, /, *, dry_run: bool, yes: bool, as_json: bool, **chosen: Any) -> None:
    """Send the messages of failed tasks again: those of KINDS, of --id, or of what the options choose.

    Each failure is sent once, however often you run this.
    """
    rate = chosen.pop("rate")
    which = chosen_failures(context, **chosen)
    if as_json and not (yes or dry_run):
        raise click.UsageError("--json asks nothing: give --dry-run or --yes")
    found = failures.plan(context.broker, which)
    if not (found.tasks or found.retried or found.not_kept):
        raise actions.Refused("no such failure is kept")
    counts = found.counts()
    if not as_json:
        say(f"{len(found.tasks)} tasks can be sent again: {failure_views.named_counts(counts) or 'none'}")
        for count, why in ((found.retried, "were sent again before"), (found.not_kept, "are too large")):
            if count:
                say(f"{count} {why}")
    sent = 0
    if found.tasks and not dry_run:
        if not yes:
            click.confirm("Send them?", abort=True)
        sent = actions.retry(context.broker, operator(), found.tasks, paced(rate))
    answer = {"tasks": counts, "sent": sent, "sent_before": found.retried, "not_kept": found.not_kept}
    if as_json:
        click.echo(json.dumps(answer))
    elif not dry_run and found.tasks:
        say(f"{sent} sent again")


def chosen_failures(
    context: Context, kinds: Sequence[str], ids: Sequence[str], since: int, **chosen: str
) -> Which:
    """Return which failures are to be retried.

    Raises:
        click.UsageError: Nothing was chosen.
    """
    named = tuple(kind_named(context, kind, Which()).id for kind in kinds)
    which = Which(kinds=named, ids=tuple(ids), seconds=since, **chosen)
    if which.is_all:
        raise click.UsageError("name kinds or tasks, or choose with --task, --exception or --group")
    return which


def paced(rate: float | None) -> Callable[[], None]:
    """Return what waits so that it is called at most that often a second."""
    due = time.monotonic()

    def wait() -> None:
        nonlocal due
        if rate:
            due += 1 / rate
            time.sleep(max(0.0, due - time.monotonic()))

    return wait
