"""``celery -A proj autoscaler``, as Celery finds it.

Celery loads the commands of all packages whenever any of its commands starts, a worker among them. What the
supervisor needs would make up a quarter of a worker's start, so it is loaded when it is asked for.
"""

from importlib import import_module
from typing import Any

import click


class Later(click.Command):
    """Stands for the real command until it is called."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """Let the real command take its arguments."""
        command: click.Command = import_module("celery_autoscaler.cli").autoscaler
        return command.make_context(info_name, args, parent, **extra)


autoscaler = Later("autoscaler", help="Supervise the workers of the app, and look after them.")
