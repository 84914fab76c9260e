"""What projects ask of an inventory: names of their own, and nothing in common on a host."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from itertools import combinations

from . import urls
from .model import Finding, Host, Inventory, NotKnownError
from .text import shown

Texts = Iterator[tuple[str, str]]

MOST_LETTERS = 20
PROJECT = re.compile(rf"[a-z][a-z0-9_]{{0,{MOST_LETTERS - 1}}}")
# /opt/celery-fleet holds the environment of the supervisors; celery-autoscaler-launch starts one.
TAKEN = ("autoscaler", "fleet")
# Groups whose hosts have a project.
APPS = frozenset({"workers", "beat"})
# What two projects of a host would take from each other.
OWN = {
    "celery_app_user": "another user",
    "celery_app_root": "another directory",
    "celery_app_files_directory": "another directory",
    "celery_autoscaler_http": "another port, such as 127.0.0.1:9542",
}
# By a supervisor alone.
SERVED, SUPERVISED = "celery_autoscaler_http", "celery_app_supervised"


def name(host: Host, _inventory: Inventory) -> Texts:
    """Units, the user, folders and keys have the name of the project in theirs."""
    given = host.text("celery_app_project")
    if not PROJECT.fullmatch(given) or given in TAKEN:
        yield (
            "celery_app_project",
            f"is {shown(given)}; allowed: up to {MOST_LETTERS} lower case letters, digits and _, a letter "
            f"first, and none of {', '.join(TAKEN)}",
        )


def project_of(host: Host) -> str:
    """Return the project of a host; nothing if it has none, or cannot be known."""
    try:
        return host.text("celery_app_project") if host.groups & APPS else ""
    except NotKnownError:
        return ""


def one_app(host: Host, inventory: Inventory) -> Texts:
    """A project is one app: its migrations run once, and each of its workers runs the tasks of all."""
    project = host.text("celery_app_project")
    # The first one suffices: each of the others is compared with it, too.
    first = next((other for other in inventory.hosts.values() if project_of(other) == project), host)
    if first.text("celery_app_name") != host.text("celery_app_name"):
        yield (
            "celery_app_project",
            f"{shown(project)} is the project of {first.name}, too, which has the app "
            f"{shown(first.text('celery_app_name'))}; allowed: a project of its own for each app",
        )


def may_be_one(hosts: Sequence[Host]) -> bool:
    """Return whether names of the inventory may mean one host: it has a name for each of its projects."""
    projects = [project_of(host) for host in hosts]
    others = [host for host in hosts if host.groups & {"redis", "postgres", "monitoring"}]
    return all(projects) and len(set(projects)) == len(projects) and len(others) <= 1


def in_common(hosts: Sequence[Host]) -> Iterator[Finding]:
    """Find what two projects of one host would take from each other."""
    for variable, allowed in OWN.items():
        for one, other in combinations(hosts, 2):
            with suppress(NotKnownError):
                given = other.text(variable)
                if variable == SERVED and not (one.flag(SUPERVISED) and other.flag(SUPERVISED)):
                    continue
                if given and given == one.text(variable):
                    yield Finding(
                        variable,
                        f"is {shown(given)}, as on {one.name}, which is the same host; allowed: {allowed}",
                        other.name,
                    )


def shared_queues(inventory: Inventory) -> Iterator[Finding]:
    """Find queues of one name that two projects have in one database: each would take the other's tasks."""
    firsts: dict[str, Host] = {}
    for host in inventory.hosts.values():
        if project := project_of(host):
            firsts.setdefault(project, host)
    for one, other in combinations(firsts.values(), 2):
        with suppress(NotKnownError, urls.UrlError):
            both = _queues(one) & _queues(other)
            if both and _database(one, inventory) == _database(other, inventory):
                yield Finding(
                    "celery_app_environment",
                    f"CELERY_BROKER_URL: names the database of the project {project_of(one)}, which has the "
                    f"{'queues' if len(both) > 1 else 'queue'} {', '.join(sorted(both))}, too; allowed: "
                    "another database, other queues, or another global_keyprefix in the app",
                    other.name,
                    fatal=False,
                )


def _queues(host: Host) -> set[str]:
    groups = host.records("celery_app_worker_groups")
    return {queue for group in groups for queue in group.texts("queues")}


def _database(host: Host, inventory: Inventory) -> tuple[str, int, str]:
    """Return the server and the database of a project's broker.

    Raises:
        NotKnownError: It is not known here.
        urls.UrlError: The URL is none.
    """
    given = host.table("celery_app_environment").get("CELERY_BROKER_URL")
    if not isinstance(given, str):
        raise NotKnownError("CELERY_BROKER_URL")
    url = urls.parse(urls.parts(given)[0])
    server = inventory.reached_by(url.host)
    port = url.port or urls.DEFAULT_PORTS.get(url.scheme, 0)
    return (server.name if server else url.host, port, url.database)


RULES = (name, one_app)
