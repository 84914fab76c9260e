"""The command ``fleet``: what operators want of the projects of a host, without naming their apps.

Where ``CELERY_APP`` names the app (in the sandbox of a project, in a container) it is the commands
themselves. Elsewhere it finds the projects of the host, and has the command run for the one that is meant.
"""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version

import click

from celery_autoscaler.operations import host_projects
from celery_autoscaler.protocol.project import DEFAULT_PROJECT, project_name
from celery_autoscaler.protocol.text import as_text

APP_VARIABLE = "CELERY_APP"
COMPLETION_VARIABLE = "_FLEET_COMPLETE"
HELP = frozenset({"-h", "--help", "--version"})


def main() -> None:
    """Run the command."""
    arguments = sys.argv[1:]
    if is_for_host(arguments):
        try:
            sys.exit(host_projects.run(arguments))
        except host_projects.HostError as error:
            click.echo(f"Error: {as_text(error)}", err=True)
            sys.exit(1)
    commands().main(prog_name="fleet", complete_var=COMPLETION_VARIABLE)


def is_for_host(arguments: Sequence[str]) -> bool:
    """Tell whether a project of this host must be asked."""
    if os.environ.get(APP_VARIABLE) or COMPLETION_VARIABLE in os.environ:
        return False
    return bool(host_projects.chosen(arguments)[1]) and HELP.isdisjoint(arguments)


def commands() -> click.Group:
    """Return the commands of operators. What they need takes a while to load."""
    command_line = import_module("celery_autoscaler.operations.command_line")
    describing = import_module("celery_autoscaler.supervisor.describing")
    completion = import_module("celery_autoscaler.operations.completion")

    @click.group(cls=command_line.Commands, context_settings={"help_option_names": ["-h", "--help"]})
    @click.option(
        "-p", "--project", help="The project, if the host has several.", shell_complete=completion.projects
    )
    @click.version_option(version("celery-autoscaler"), message="%(prog)s %(version)s")
    @click.pass_context
    def fleet(context: click.Context, project: str | None) -> None:
        """Show and manage the Celery workers of this host's projects."""
        own = project_name() or DEFAULT_PROJECT
        if project not in (None, own):
            raise click.UsageError(f"the project here is {own}")
        python = os.environ.get(describing.PYTHON_VARIABLE, "")
        context.obj = command_line.Context(os.environ.get(APP_VARIABLE, ""), python)

    group: click.Group = fleet
    for command in import_module("celery_autoscaler.operations.commands").COMMANDS:
        group.add_command(command)
    return group


if __name__ == "__main__":
    main()
