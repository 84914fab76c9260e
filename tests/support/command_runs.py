"""Runs of the command on an app, in the process of the test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from celery import Celery
from celery_autoscaler import cli
from celery_autoscaler.operations.command_line import Context
from celery_autoscaler.protocol.broker import connect
from celery_autoscaler.protocol.description import describe
from celery_autoscaler.protocol.overrides import Origin, Override
from celery_autoscaler.settings import Group
from celery_autoscaler.supervisor.observation import Observer
from click.testing import CliRunner, Result

GROUPS = {
    "default": Group(name="default", queues=("celery",), min_workers=0, max_workers=4),
    "slow": Group(name="slow", queues=("reports",), min_workers=0, max_workers=2),
}


Run = Callable[..., str]


def context_of(app: Celery) -> Context:
    """Return what a command knows of an app of this process."""
    context = Context("proj")
    context.app = describe(app, "proj")
    return context


def invoke(app: Celery, *arguments: str) -> Result:
    """Run a command on an app."""
    [name, *rest] = arguments
    command = cli.main.commands[name]
    return CliRunner().invoke(command, rest, obj=context_of(app))


def overrides(app: Celery) -> dict[str, Override]:
    """Return what operators have set, as the supervisors see it, without times and reasons."""
    found = Observer(connect(app), GROUPS.values()).look().overrides
    return {group: replace(each, pause=Origin(), scale=Origin()) for group, each in found.items()}


def send(app: Celery, number: int) -> None:
    """Send tasks."""
    for _ in range(number):
        app.send_task("t", ignore_result=True)
