"""What operators want of the fleet: ``pause``, ``resume``, ``scale``, ``drain``, ``replace``, ``recover``."""

import time

import click
from redis.exceptions import ResponseError

from celery_autoscaler.operations import actions, known, rollout
from celery_autoscaler.operations.command_line import Context, Unsupervised, say
from celery_autoscaler.operations.completion import completing
from celery_autoscaler.operations.operator import operator
from celery_autoscaler.protocol import broker as brokers
from celery_autoscaler.protocol import orphans, recovery
from celery_autoscaler.protocol.identity import worker_name
from celery_autoscaler.protocol.lease import leased_workers
from celery_autoscaler.protocol.text import as_text, missing
from celery_autoscaler.supervisor import fleet_status

# The ends are checked where the page's are.
BOUND = click.INT
for_option = click.option(
    "--for", "span", default="", metavar="SPAN", help="It ends by itself after 30m, 2h, 1h30m, 3d …"
)
because_option = click.option("--because", default="", metavar="TEXT", help="Why; shown wherever it is.")


@click.command(short_help="Start and stop no workers of a group, or of all.")
@click.argument("group", required=False, shell_complete=completing("groups"))
@for_option
@because_option
@click.pass_obj
def pause(context: Context, group: str | None, span: str, because: str) -> None:
    """Stop starting and stopping workers of GROUP, or of all. Dead workers are still recovered."""
    say(actions.pause(context.broker, actions.sender_of(operator(), because, span), group, context.app))


@click.command(short_help="End a pause.")
@click.argument("group", required=False, shell_complete=completing("groups"))
@click.pass_obj
def resume(context: Context, group: str | None) -> None:
    """Resume GROUP, or every paused group."""
    say(actions.resume(context.broker, operator(), group, context.app))


@click.command(short_help="Change the bounds of a group.")
@click.argument("group", shell_complete=completing("groups"))
@click.option("--min-workers", "min_workers", type=BOUND, help="Workers of the whole fleet that always run.")
@click.option("--max-workers", "max_workers", type=BOUND, help="Workers that the whole fleet never exceeds.")
@click.option("--reset", is_flag=True, help="Return to the bounds of the settings.")
@for_option
@because_option
@click.pass_obj
def scale(
    context: Context,
    /,
    group: str,
    min_workers: int | None,
    max_workers: int | None,
    reset: bool,
    **origin: str,
) -> None:
    """Change the bounds of GROUP until you reset them, or for a while."""
    if reset:
        if origin["span"]:
            raise click.UsageError("--reset and --for exclude each other")
        min_workers = max_workers = None
    sender = actions.sender_of(operator(), **origin)
    say(actions.scale(context.broker, sender, group, min_workers, max_workers, reset=reset, app=context.app))


@click.command(short_help="Let a worker, or a host, finish and take nothing new.")
@click.argument("target", metavar="WORKER|HOST", shell_complete=completing("workers", "hosts"))
@click.option("--undo", is_flag=True, help="Cancel the drain.")
@click.option("--wait", is_flag=True, help="Return when the last worker of the host has stopped.")
@click.pass_obj
def drain(context: Context, target: str, undo: bool, wait: bool) -> None:
    """Drain WORKER: it fetches nothing new, finishes its tasks, stops, and is replaced if needed.

    Drain HOST: its workers stop once other hosts run enough, and it runs none until you undo it.
    """
    broker = context.broker
    if "@" in target:
        say(actions.drain(broker, operator(), target, undo=undo))
    elif undo:
        say(actions.use_host(broker, target))
    else:
        drain_host(broker, target, wait)


def drain_host(broker: brokers.Broker, host: str, wait: bool) -> None:
    """Let a host run no workers."""
    actions.drain_host(broker, operator(), host)
    told = None
    while wait:
        supervisor = fleet_status.fleet_status(broker).supervisors.get(host)
        if supervisor is None:
            raise actions.Refused(f"the supervisor on '{host}' has ended")
        left = supervisor.workers
        if supervisor.state == "leaving" and not left:
            break
        if len(left) != told:
            told = len(left)
            say(f"{host}: {told} workers, {sum(w.active for w in left)} tasks run", err=True)
        time.sleep(rollout.LOOK_SECONDS)
    say(f"{host}: {'runs no workers' if wait else 'its workers end'}")


@click.command(short_help="Replace workers one by one.")
@click.argument("names", metavar="WORKER...", nargs=-1, required=True, shell_complete=completing("workers"))
@click.pass_obj
def replace(context: Context, names: tuple[str, ...]) -> None:
    """Replace each WORKER, one by one: a new worker consumes before the old one drains.

    This is how workers move to another release. Exits with 3 if no supervisor is alive to do it.
    """
    try:
        rollout.replace_workers(context.broker, set(names), lambda line: say(line, err=True))
    except rollout.RolloutError as error:
        raise (Unsupervised if error.unsupervised else click.ClickException)(as_text(error)) from error
    say(f"replaced: {', '.join(sorted(names))}")


@click.command(short_help="Give back the messages of dead workers.")
@click.argument("worker", required=False, shell_complete=completing("workers"))
@click.pass_obj
def recover(context: Context, worker: str | None) -> None:
    """Give back the messages of WORKER if it is dead, or of all dead workers."""
    broker = context.broker
    # Not the names that others show: whatever bytes an id has, its messages are given back.
    ids = leased_workers(broker.client, broker.keys)
    ids += orphans.forsaken(broker.client, broker.keys)
    if worker is not None:
        names = {worker_name(worker_id) for worker_id in ids}
        ids = known.named(ids, worker)
        if not ids:
            raise actions.Refused(missing("worker", worker, names))
    dead = 0
    for worker_id in ids:
        try:
            moved = recovery.recover(broker, worker_id)
        except ResponseError as error:
            say(f"{worker_name(worker_id)}: its messages cannot be given back: {error}")
            continue
        if moved is not None:
            dead += 1
            say(f"{worker_name(worker_id)}: {moved} messages given back")
        elif worker is not None:
            say(f"{worker_name(worker_id)}: its lease is valid, nothing given back")
    if worker is None and not dead:
        say(f"no dead workers; {len(ids)} have a lease")
