"""What a project is called on its hosts: units, users, folders and commands begin with one prefix."""

from __future__ import annotations

import re

# The project of an inventory that names none.
DEFAULT = "celery"
# Units of any project.
WORKER = re.compile(r"celery(-[a-z0-9_]+)?-worker@")
SUPERVISOR = re.compile(r"celery(-[a-z0-9_]+)?-autoscaler\.service")
SERVED = re.compile(r"(celery(-[a-z0-9_]+)?-(service|timer)@[a-z0-9_-]+)\.(service|timer)")


def prefix_of(project: str) -> str:
    """Return what the names of a project begin with: ``celery``, or ``celery-shop`` for the project shop."""
    return DEFAULT if project == DEFAULT else f"{DEFAULT}-{project}"


def defaults_of(project: str) -> dict[str, str]:
    """Return the variables of the roles whose defaults hold the project's name."""
    prefix = prefix_of(project)
    return {
        "celery_app_user": prefix,
        "celery_app_root": f"/opt/{prefix}",
        "celery_app_files_directory": f"/etc/{prefix}/files",
    }


def is_worker(unit: str) -> bool:
    """Tell whether a unit is a worker of some project."""
    return WORKER.match(unit) is not None


def is_supervisor(unit: str) -> bool:
    """Tell whether a unit is the supervisor of some project."""
    return SUPERVISOR.fullmatch(unit) is not None


def shown_unit(unit: str) -> str:
    """Return what a unit is called on a screen: postgresql@17-main.service is postgresql there."""
    served = SERVED.fullmatch(unit)
    return served[1] if served else unit.partition("@")[0].removesuffix(".service")
