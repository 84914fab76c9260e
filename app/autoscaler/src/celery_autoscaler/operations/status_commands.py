"""What operators ask: ``status``, ``watch``, ``why``, ``check``."""

import json
import sys
from importlib import import_module

import click
from redis.exceptions import RedisError
from rich.console import RenderableType

from celery_autoscaler import settings
from celery_autoscaler.operations import actions, known, terminal
from celery_autoscaler.operations.command_line import Context, as_json_option, say
from celery_autoscaler.operations.completion import completing
from celery_autoscaler.operations.reach import why_not
from celery_autoscaler.protocol.decision import DecisionRecord
from celery_autoscaler.protocol.reading import Refusal
from celery_autoscaler.protocol.text import listed, missing
from celery_autoscaler.supervisor import fleet_status
from celery_autoscaler.supervisor import settings_check as checks

NOT_KEEPING_UP = frozenset({"falling behind", "failing", "no workers", "no supervisor"})


@click.command(short_help="Do workers keep up?")
@as_json_option
@click.option(
    "--exit-code",
    is_flag=True,
    help="Exit with 0 if workers keep up, 5 if someone should look, 6 if tasks are late, fail or cannot run.",
)
@click.pass_obj
def status(context: Context, as_json: bool, exit_code: bool) -> None:
    """Show whether workers keep up, and each group, queue, host and worker."""
    found = fleet_status.fleet_status(context.broker)
    if as_json:
        click.echo(json.dumps(found.as_dict()))
    else:
        terminal.show(terminal.status_view(found))
    if exit_code:
        sys.exit(exit_status(found))


def exit_status(found: fleet_status.FleetStatus) -> int:
    """Return in a number what the verdict says."""
    word, _ = found.verdict
    return 0 if word == "keeping up" else 6 if word in NOT_KEEPING_UP else 5


@click.command(short_help="The same, refreshed every second.")
@click.pass_obj
def watch(context: Context) -> None:
    """Show the status, refreshed every second. It scrolls; q quits."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("watch needs a terminal; status prints the same once")
    # Nothing else needs it, and it takes its time to load.
    live_view = import_module("celery_autoscaler.operations.live_view")
    broker = context.broker

    def look() -> RenderableType:
        try:
            return terminal.status_view(fleet_status.fleet_status(broker))
        except RedisError as error:
            return terminal.unreachable_view(why_not(error, context.address))

    live_view.LiveView(look).run()


@click.command(short_help="Why did the number of workers change?")
@click.argument("group", required=False, shell_complete=completing("groups"))
@click.option("-n", "--number", type=click.IntRange(1), default=10, help="Number of decisions (default: 10).")
@as_json_option
@click.pass_obj
def why(context: Context, group: str | None, number: int, as_json: bool) -> None:
    """Show the last decisions for GROUP, or for all groups, and their reasons."""
    refused: list[Refusal] = []
    found = list(fleet_status.decisions(context.broker, number, group, refused=refused))
    if group is not None and not any(record.group == group for record in found):
        there = known.known(context.broker, context.app).groups
        if group not in there:
            raise actions.Refused(missing("group", group, there))
    if as_json:
        click.echo(json.dumps([vars(record) for record in reversed(found)]))
    else:
        show(found)
    if refused:
        say(f"ignored, not decisions: {listed(refusal.name for refusal in refused)}", err=True)


def show(found: list[DecisionRecord]) -> None:
    """Print decisions, given the newest first, the oldest first."""
    for record in reversed(found):
        terminal.show(terminal.record_view(record))
    if not found:
        say("No decisions yet.")


@click.command("check", short_help="Find settings that cost tasks or time.")
@click.option("-c", "--config", default="", help="TOML file (default: $CELERY_AUTOSCALER_CONFIG).")
@as_json_option
@click.pass_obj
def check_settings(context: Context, config: str, as_json: bool) -> None:
    """Find settings that cost tasks or time. Exit with 1 if one can lose or repeat a task."""
    found = checks.check(context.app, settings.load(context.app, config), context.broker)
    if as_json:
        click.echo(json.dumps([finding.as_dict() for finding in found]))
        sys.exit(any(finding.is_error for finding in found))
    for finding in found:
        say(str(finding))
    if not found:
        say("No problems found.")
    sys.exit(any(finding.is_error for finding in found))
