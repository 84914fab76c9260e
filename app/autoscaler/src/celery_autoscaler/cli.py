"""The command ``celery-autoscaler``, also ``celery -A proj autoscaler``."""

import json
import logging
import os
import signal
import sys
import threading
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from celery_autoscaler import logs, settings
from celery_autoscaler.operations import actions, commands, release_gate, removal
from celery_autoscaler.operations.command_line import Commands, Context, say
from celery_autoscaler.operations.watch import Watch
from celery_autoscaler.protocol.systemd import notify
from celery_autoscaler.supervisor import settings_check as checks
from celery_autoscaler.supervisor.describing import PYTHON_VARIABLE

if TYPE_CHECKING:
    from celery_autoscaler.supervisor.loop import Supervisor

logger = logging.getLogger(__name__)


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


# --- What playbooks need ---------------------------------------------------------------------------------


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


for group in (main, autoscaler):
    for command in (run, *commands.COMMANDS, evaluate_release, tally, prove_settings, delete_keys):
        group.add_command(command)


if __name__ == "__main__":
    sys.exit(main())
