"""What all commands share: the app that they are about, how they print, and how they fail."""

import io
import sys
from functools import cached_property
from typing import Any

import click
from redis.exceptions import RedisError

from celery_autoscaler.operations.reach import address_of, why_not
from celery_autoscaler.protocol import broker as brokers
from celery_autoscaler.protocol.description import Description
from celery_autoscaler.protocol.text import as_text
from celery_autoscaler.supervisor.describing import describe

FORMER_COMMANDS = {"explain": "why"}


class Context:
    """The app that a command is about."""

    def __init__(self, name: str, python: str = "") -> None:
        self.name = name
        self.python = python

    def describe(self) -> Description:
        """Have the app described as it is now."""
        return describe(self.name, self.python)

    @cached_property
    def app(self) -> Description:
        """The app as it was described first."""
        return self.describe()

    @cached_property
    def broker(self) -> brokers.Broker:
        """The app's broker."""
        try:
            return brokers.connect(self.app)
        except RedisError as error:
            raise click.ClickException(why_not(error, self.address)) from error

    @property
    def address(self) -> str:
        """Where the app's broker is, as far as that is known."""
        return address_of(self.app.connection_for_write()) if "app" in vars(self) else ""


class Unsupervised(click.ClickException):
    """No supervisor is alive that could do it; callers that can help themselves go by the exit status."""

    exit_code = 3


class Commands(click.Group):
    """Commands whose broker may be gone at any moment, and whose errors may quote what others wrote."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 -- click's
        """Return the names in the order in which they were added."""
        return list(self.commands)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; one that had another name says so."""
        if args and args[0] in FORMER_COMMANDS and not ctx.resilient_parsing:
            ctx.fail(f"the name of this command is {FORMER_COMMANDS[args[0]]} now")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command; say in one line that Redis does not answer."""
        # A terminal that cannot show a character gets its escape.
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        try:
            return super().invoke(ctx)
        except RedisError as error:
            address = ctx.obj.address if isinstance(ctx.obj, Context) else ""
            raise click.ClickException(why_not(error, address)) from error
        except click.ClickException as error:
            lines = map(as_text, error.message.split("\n"))
            error.message = "\n".join(lines)  # type: ignore[misc]
            raise


as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for programs.")


def say(text: object, *, err: bool = False) -> None:
    """Print one line; whatever it quotes is shown as text."""
    click.echo(as_text(text), err=err)
