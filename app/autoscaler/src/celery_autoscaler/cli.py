"""The command ``celery-autoscaler``."""

import sys

import click
from celery.app.utils import find_app
from redis.exceptions import RedisError

from celery_autoscaler import dead_letters, recovery
from celery_autoscaler.broker import Broker, NotRedis, connect
from celery_autoscaler.keys import worker_name


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-A", "--app", required=True, envvar="CELERY_APP", help="The Celery app, as for `celery -A`.")
@click.pass_context
def main(context: click.Context, app: str) -> None:
    """Look after the workers of a Celery app."""
    try:
        context.obj = connect(find_app(app))
    except (NotRedis, ImportError, AttributeError, RedisError) as error:
        raise click.ClickException(f"-A {app}: {error}") from error


@main.command()
@click.argument("worker", required=False)
@click.pass_obj
def recover(broker: Broker, worker: str | None) -> None:
    """Give back the messages of WORKER, if it is dead; of all dead workers if none is named."""
    ids = [member.decode() for member in broker.client.zrange(broker.keys.workers, 0, -1)]
    if worker is not None:
        ids = [worker_id for worker_id in ids if worker in (worker_id, worker_name(worker_id))]
        if not ids:
            raise click.ClickException(f"no worker '{worker}' has a lease or messages to give back")
    dead = 0
    for worker_id in ids:
        moved = recovery.recover(broker.client, broker.keys, worker_id, separator=broker.separator)
        if moved is not None:
            dead += 1
            click.echo(f"{worker_name(worker_id)}: {moved} messages given back")
        elif worker is not None:
            click.echo(f"{worker_name(worker_id)}: its lease lives, nothing is given back")
    if worker is None and not dead:
        click.echo(f"no worker is dead; {len(ids)} have a lease")


@main.command()
@click.argument("worker")
@click.option("--undo", is_flag=True, help="Let it take messages again.")
@click.pass_obj
def drain(broker: Broker, worker: str, undo: bool) -> None:
    """Let WORKER take nothing new and finish what it holds."""
    if worker not in {
        worker_name(member.decode()) for member in broker.client.zrange(broker.keys.workers, 0, -1)
    }:
        raise click.ClickException(f"no worker '{worker}' has a lease")
    if undo:
        broker.client.srem(broker.keys.drain, worker)
    else:
        broker.client.sadd(broker.keys.drain, worker)
    click.echo(f"{worker}: {'takes messages again' if undo else 'takes nothing new'}")


@main.group("dead-letter")
def dead_letter() -> None:
    """Look at the messages that came back too often."""


@dead_letter.command("list")
@click.argument("queue", required=False)
@click.pass_obj
def list_letters(broker: Broker, queue: str | None) -> None:
    """List the dead letters of QUEUE, or of all queues."""
    for name in [queue] if queue else dead_letters.queues(broker):
        for _, letter in dead_letters.letters(broker, name):
            click.echo(
                f"{letter.when}  {letter.queue}  {letter.task}  {letter.worker}  "
                f"came back {letter.redeliveries} times: {letter.reason}"
            )


@dead_letter.command()
@click.argument("queue")
@click.pass_obj
def replay(broker: Broker, queue: str) -> None:
    """Send the dead letters of QUEUE to their lists again."""
    click.echo(f"{queue}: {dead_letters.replay(broker, queue)} messages sent again")


@dead_letter.command()
@click.argument("queue")
@click.confirmation_option(prompt="Delete them for good?")
@click.pass_obj
def purge(broker: Broker, queue: str) -> None:
    """Delete the dead letters of QUEUE."""
    click.echo(f"{queue}: {dead_letters.purge(broker, queue)} messages deleted")


if __name__ == "__main__":
    sys.exit(main())
