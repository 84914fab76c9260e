"""``dead-letter``: the messages that came back too often."""

import json

import click

from celery_autoscaler.operations import actions, dead_letters
from celery_autoscaler.operations.command_line import Context, as_json_option, say
from celery_autoscaler.operations.completion import completing
from celery_autoscaler.operations.operator import operator
from celery_autoscaler.protocol.dead_letter import DeadLetter


@click.group("dead-letter", short_help="List, replay or delete what came back too often.")
def dead_letter() -> None:
    """Manage messages that came back too often."""


@dead_letter.command("list")
@click.argument("queue", required=False, shell_complete=completing("queues"))
@as_json_option
@click.pass_obj
def list_letters(context: Context, queue: str | None, as_json: bool) -> None:
    """List the dead letters of QUEUE, or of all queues."""
    broker = context.broker
    if queue:
        actions.group_of_queue(broker, queue, context.app)
    names = [queue] if queue else dead_letters.queues(broker)
    found = [letter for name in names for _, letter in dead_letters.dead_letters(broker, name)]
    if as_json:
        click.echo(json.dumps([shown(letter) for letter in found]))
        return
    for letter in found:
        say(
            f"{letter.when}  {letter.queue}  {letter.task}  {letter.worker}  "
            f"came back {letter.redeliveries} times: {letter.reason}"
        )
    if not found:
        say("No dead letters.")


def shown(letter: DeadLetter) -> dict[str, str | int]:
    """Return what is listed of a dead letter; its message may hold what not everybody may read."""
    return {
        "when": letter.when,
        "queue": letter.queue,
        "task": letter.task,
        "worker": letter.worker,
        "redeliveries": letter.redeliveries,
        "reason": letter.reason,
    }


@dead_letter.command()
@click.argument("queue", shell_complete=completing("queues"))
@click.pass_obj
def replay(context: Context, queue: str) -> None:
    """Send the dead letters of QUEUE again."""
    say(actions.replay(context.broker, operator(), queue, context.app))


@dead_letter.command()
@click.argument("queue", shell_complete=completing("queues"))
@click.confirmation_option(prompt="Delete them for good?")
@click.pass_obj
def purge(context: Context, queue: str) -> None:
    """Delete the dead letters of QUEUE."""
    say(actions.purge(context.broker, operator(), queue, context.app))
