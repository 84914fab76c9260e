"""The command ``celery-autoscaler``, also ``celery -A proj autoscaler``."""

import getpass
import json
import logging
import os
import signal
import sys
import threading
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click
from redis.exceptions import RedisError, ResponseError
from rich.live import Live

from celery_autoscaler import logs, settings
from celery_autoscaler.operations import (
    actions,
    dead_letters,
    known,
    release_gate,
    removal,
    rollout,
    terminal,
)
from celery_autoscaler.operations.command_line import Commands, Context, Unsupervised, say
from celery_autoscaler.operations.watch import Watch
from celery_autoscaler.protocol import broker as brokers
from celery_autoscaler.protocol import orphans, recovery
from celery_autoscaler.protocol.identity import worker_name
from celery_autoscaler.protocol.lease import leased_workers
from celery_autoscaler.protocol.reading import Refusal
from celery_autoscaler.protocol.systemd import notify
from celery_autoscaler.protocol.text import as_text, listed, missing
from celery_autoscaler.supervisor import fleet_status
from celery_autoscaler.supervisor import settings_check as checks
from celery_autoscaler.supervisor.describing import PYTHON_VARIABLE

if TYPE_CHECKING:
    from celery_autoscaler.supervisor.loop import Supervisor

logger = logging.getLogger(__name__)

# Seconds between two snapshots of `status --watch`.
WATCH_SECONDS = 1.0
# The ends are checked where the page's are.
BOUND = click.INT


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("-A", "--app", required=True, envvar="CELERY_APP", help="The Celery app, as for `celery -A`.")
@click.option(
    "--python",
    default="",
    envvar=PYTHON_VARIABLE,
    help=f"The Python of the app's environment (default: ${PYTHON_VARIABLE}, or this command's).",
)
@click.pass_context
def main(context: click.Context, app: str, python: str) -> None:
    """Supervise and manage the workers of a Celery app."""
    context.obj = Context(app, python)


@click.group(cls=Commands)
@click.pass_context
def autoscaler(context: click.Context, /, **_: Any) -> None:
    """Supervise and manage the workers of the app."""
    name = context.find_root().params["app"]
    context.obj = Context(name if isinstance(name, str) else context.obj.app.main)


# --- The supervisor ------------------------------------------------------------------------------------


@click.command()
@click.option("-c", "--config", default="", help="TOML file (default: $CELERY_AUTOSCALER_CONFIG).")
@click.option(
    "-l",
    "--loglevel",
    type=click.Choice(["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"], case_sensitive=False),
    default="INFO",
    help="Log level (default: INFO).",
)
@click.option(
    "--watch",
    "watched",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Replace the workers when files below this folder change. Repeatable.",
)
@click.pass_obj
def run(context: Context, config: str, loglevel: str, watched: tuple[Path, ...]) -> None:
    """Supervise the workers of this host until SIGTERM or SIGINT. SIGHUP reloads app and settings."""
    try:
        as_json = logs.wants_json()
    except logs.LogFormatError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        logs.log_json(sys.stdout)
        logging.getLogger().setLevel(loglevel.upper())
    else:
        logs.log_plain(sys.stdout, loglevel.upper())
    for left_out in context.app.left_out:
        logger.warning("%s holds code of the app: the supervisor connects without it", left_out)
    # The other commands start in half the time without them.
    loop = import_module("celery_autoscaler.supervisor.loop")
    endpoints = import_module("celery_autoscaler.web.endpoints")
    supervisor: Supervisor = loop.Supervisor(context.app, settings.load(context.app, config))
    server = endpoints.serve(supervisor, supervisor.settings)

    def end(number: int, _: FrameType | None) -> None:
        logger.info("%s: ending", signal.Signals(number).name)
        notify("STOPPING=1")
        supervisor.stop()

    def read_again() -> bool:
        try:
            app = context.describe()
            supervisor.reload(app, settings.load(app, config))
        except click.ClickException as error:
            logger.error("Settings not reloaded: %s", error.message)  # noqa: TRY400
            return False
        return True

    def read_beside(*_: Any) -> None:
        # An import may take longer than the ticks can wait.
        threading.Thread(target=read_again, name="reload", daemon=True).start()

    def tell() -> None:
        workers, state = len(supervisor.local), supervisor.status.state
        notify("READY=1", "WATCHDOG=1", f"STATUS={state}, {workers} workers here")

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    signal.signal(signal.SIGHUP, read_beside)
    supervisor.on_tick = tell
    if watched:
        Watch(supervisor, watched, read_again).start()
    supervisor.run()
    if server is not None:
        server.shutdown()


@click.command("check")
@click.option("-c", "--config", default="", help="TOML file (default: $CELERY_AUTOSCALER_CONFIG).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
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


@click.command("prove")
@click.option("-c", "--config", default="", help="TOML file (default: $CELERY_AUTOSCALER_CONFIG).")
@click.pass_obj
def prove_settings(context: Context, config: str) -> None:
    """Refuse settings that `run` would refuse. Print what `check` finds without a broker, as JSON.

    Without a file only the settings of the app are looked at.
    """
    is_there = config or os.environ.get(settings.CONFIG_VARIABLE)
    read = settings.load(context.app, config) if is_there else None
    if read and (problem := checks.wrong_address(read.http)):
        raise click.ClickException(f"http: {problem}")
    click.echo(json.dumps([finding.as_dict() for finding in checks.check_settings(context.app, read)]))


@click.command()
@click.option("-w", "--watch", is_flag=True, help="Refresh every second.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")
@click.pass_obj
def status(context: Context, watch: bool, as_json: bool) -> None:
    """Show whether workers keep up, and each group, queue, host and worker."""
    if as_json:
        click.echo(json.dumps(fleet_status.fleet_status(context.broker).as_dict()))
        return
    if not watch:
        terminal.new_console().print(terminal.status_view(fleet_status.fleet_status(context.broker)))
        return
    with (
        suppress(KeyboardInterrupt),
        Live(console=terminal.new_console(), screen=True, auto_refresh=False) as live,
    ):
        while True:
            try:
                view = terminal.status_view(fleet_status.fleet_status(context.broker))
            except RedisError as error:
                view = terminal.unreachable_view(error)
            live.update(view, refresh=True)
            time.sleep(WATCH_SECONDS)


@click.command()
@click.argument("group", required=False)
@click.option("-n", "--number", type=click.IntRange(1), default=10, help="Number of decisions (default: 10).")
@click.pass_obj
def explain(context: Context, group: str | None, number: int) -> None:
    """Show the last decisions for GROUP, or for all groups, and their reasons."""
    refused: list[Refusal] = []
    found = list(fleet_status.decisions(context.broker, number, group, refused=refused))
    if group is not None and not any(record.group == group for record in found):
        there = known.known(context.broker, context.app).groups
        if group not in there:
            raise actions.Refused(missing("group", group, there))
    console = terminal.new_console()
    for record in reversed(found):
        console.print(terminal.record_view(record))
    if not found:
        say("No decisions yet.")
    if refused:
        say(f"ignored, not decisions: {listed(refusal.name for refusal in refused)}", err=True)


# --- What operators want -------------------------------------------------------------------------------


@click.command()
@click.argument("group", required=False)
@click.pass_obj
def pause(context: Context, group: str | None) -> None:
    """Stop starting and stopping workers of GROUP, or of all. Dead workers are still recovered."""
    say(actions.pause(context.broker, getpass.getuser(), group, context.app))


@click.command()
@click.argument("group", required=False)
@click.pass_obj
def resume(context: Context, group: str | None) -> None:
    """Resume GROUP, or every paused group."""
    say(actions.resume(context.broker, getpass.getuser(), group, context.app))


@click.command()
@click.argument("group")
@click.option("--min-workers", "min_workers", type=BOUND, help="Workers of the whole fleet that always run.")
@click.option("--max-workers", "max_workers", type=BOUND, help="Workers that the whole fleet never exceeds.")
@click.option("--reset", is_flag=True, help="Return to the bounds of the settings.")
@click.pass_obj
def scale(
    context: Context, group: str, min_workers: int | None, max_workers: int | None, reset: bool
) -> None:
    """Change the bounds of GROUP until you reset them."""
    if reset:
        min_workers = max_workers = None
    by = getpass.getuser()
    say(actions.scale(context.broker, by, group, min_workers, max_workers, reset=reset, app=context.app))


@click.command()
@click.argument("target", metavar="WORKER|HOST")
@click.option("--undo", is_flag=True, help="Cancel the drain.")
@click.option("--wait", is_flag=True, help="Return when the last worker of the host has stopped.")
@click.pass_obj
def drain(context: Context, target: str, undo: bool, wait: bool) -> None:
    """Drain WORKER: it fetches nothing new, finishes its tasks, stops, and is replaced if needed.

    Drain HOST: its workers stop once other hosts run enough, and it runs none until you undo it.
    """
    broker = context.broker
    if "@" in target:
        say(actions.drain(broker, getpass.getuser(), target, undo=undo))
    elif undo:
        say(actions.use_host(broker, target))
    else:
        drain_host(broker, target, wait)


def drain_host(broker: brokers.Broker, host: str, wait: bool) -> None:
    """Let a host run no workers."""
    actions.drain_host(broker, getpass.getuser(), host)
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


@click.command()
@click.argument("names", metavar="WORKER...", nargs=-1, required=True)
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


@click.command("gate")
@click.argument("release")
@click.argument("host")
@click.option(
    "--ended", type=click.IntRange(0), default=0, help="Tasks that ended before the release, from `tally`."
)
@click.option("--failed", type=click.IntRange(0), default=0, help="Failed tasks among them.")
@click.option(
    "--tolerance", type=click.FloatRange(0, 1), default=0.05, help="Allowed rise of the failure rate."
)
@click.option("--seconds", type=click.FloatRange(0), default=10.0, help="How long to watch.")
@click.pass_obj
def evaluate_release(
    context: Context, /, release: str, host: str, ended: int, failed: int, **options: float
) -> None:
    """Watch RELEASE on HOST. Exit with 1 if a worker runs another release, or more tasks fail than before."""
    verdict = release_gate.evaluate_release(
        context.broker, release, host, before=release_gate.Tally(ended, failed), **options
    )
    if not verdict.passed:
        raise actions.Refused(verdict.reason)
    say(verdict.reason)


@click.command()
@click.pass_obj
def tally(context: Context) -> None:
    """Print how many tasks the living workers ended, and how many failed, as JSON."""
    click.echo(json.dumps(vars(release_gate.tally(release_gate.workers(context.broker)))))


@click.command()
@click.argument("worker", required=False)
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


@click.command("delete-keys")
@click.option(
    "--queue", "queues", multiple=True, help="Delete this queue with its messages, too. Repeatable."
)
@click.confirmation_option(prompt="Delete all that the fleet knows of this app, dead letters included?")
@click.pass_obj
def delete_keys(context: Context, queues: tuple[str, ...]) -> None:
    """Delete the fleet's keys of an app that is removed. Its workers and supervisors must be stopped."""
    keys, messages = removal.delete_keys(context.broker, queues)
    say(f"{keys} keys and {messages} messages deleted")


# --- Dead letters --------------------------------------------------------------------------------------


@click.group("dead-letter")
def dead_letter() -> None:
    """Manage messages that came back too often."""


@dead_letter.command("list")
@click.argument("queue", required=False)
@click.pass_obj
def list_letters(context: Context, queue: str | None) -> None:
    """List the dead letters of QUEUE, or of all queues."""
    broker = context.broker
    if queue:
        actions.group_of_queue(broker, queue, context.app)
    for name in [queue] if queue else dead_letters.queues(broker):
        for _, letter in dead_letters.dead_letters(broker, name):
            say(
                f"{letter.when}  {letter.queue}  {letter.task}  {letter.worker}  "
                f"came back {letter.redeliveries} times: {letter.reason}"
            )


@dead_letter.command()
@click.argument("queue")
@click.pass_obj
def replay(context: Context, queue: str) -> None:
    """Send the dead letters of QUEUE again."""
    say(actions.replay(context.broker, getpass.getuser(), queue, context.app))


@dead_letter.command()
@click.argument("queue")
@click.confirmation_option(prompt="Delete them for good?")
@click.pass_obj
def purge(context: Context, queue: str) -> None:
    """Delete the dead letters of QUEUE."""
    say(actions.purge(context.broker, getpass.getuser(), queue, context.app))


for group in (main, autoscaler):
    for command in (
        run, status, explain, pause, resume, scale, drain, replace, evaluate_release, tally, check_settings,
        prove_settings, recover, delete_keys, dead_letter,
    ):  # fmt: skip
        group.add_command(command)


if __name__ == "__main__":
    sys.exit(main())
