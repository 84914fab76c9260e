"""What the role celery_autoscaler asks of its variables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations

from . import concurrency, projects, urls
from .model import Host, Inventory, NotKnownError, Record
from .text import shown

Texts = Iterator[tuple[str, str]]

ADDRESS = re.compile(r"|unix:/\S+|\S+:\d{1,5}")
NEAR = re.compile(r"$|unix:/|(127\.[0-9.]+|localhost|\[::1\]):")
TOKENS = ("celery_autoscaler_http_token", "celery_autoscaler_http_read_token")
SHORTEST = 16


def _enabled(host: Host) -> bool:
    return host.flag("celery_autoscaler_enabled", host.flag("celery_app_supervised"))


def _groups(host: Host) -> tuple[str, list[Record]]:
    """The variable that lists the groups, and the groups."""
    own = "celery_autoscaler_groups"
    variable = own if host.has(own) else "celery_app_worker_groups"
    return variable, host.records(variable) if _enabled(host) else []


def switches(host: Host, _inventory: Inventory) -> Texts:
    """Either the supervisor starts workers, or the role celery_app."""
    enabled, supervised = _enabled(host), host.flag("celery_app_supervised")
    if enabled != supervised:
        yield (
            "celery_autoscaler_enabled",
            f"is {str(enabled).lower()}, but celery_app_supervised is {str(supervised).lower()}: "
            "the supervisor and "
            "the role celery_app would fight; allowed: the same",
        )


def some_group(host: Host, _inventory: Inventory) -> Texts:
    """A supervisor has something to supervise."""
    variable, groups = _groups(host)
    if _enabled(host) and not groups:
        yield variable, "is an empty list: there is nothing to supervise; allowed: at least one group"


def known_groups(host: Host, _inventory: Inventory) -> Texts:
    """The units of a group are those of the role celery_app."""
    variable, groups = _groups(host)
    known = [group.text("name") for group in host.records("celery_app_worker_groups")]
    for name in (group.text("name") for group in groups):
        if name not in known:
            yield (
                variable,
                f"{shown(name)}: no such group in celery_app_worker_groups; allowed: {', '.join(known)}",
            )


def bounds(host: Host, _inventory: Inventory) -> Texts:
    """There is a number of workers between the bounds."""
    variable, groups = _groups(host)
    for group in groups:
        low, high = group.whole("min_workers", 1), group.whole("max_workers", 10)
        if low > high:
            yield (
                variable,
                f"{shown(group.text('name'))}: min_workers is {low} and max_workers is {high}; "
                "allowed: a min_workers of at most max_workers",
            )


def group_concurrency(host: Host, _inventory: Inventory) -> Texts:
    """Workers run a number of tasks at a time, or stretch, in groups that only the supervisor knows."""
    variable, groups = _groups(host)
    for group in groups if variable == "celery_autoscaler_groups" else ():
        if text := concurrency.problem(group, supervised=True):
            yield variable, f"{shown(group.text('name'))}: {text}"


def one_group_a_queue(host: Host, _inventory: Inventory) -> Texts:
    """Two groups would both start workers for the same tasks."""
    variable, groups = _groups(host)
    for one, other in combinations(groups, 2):
        for queue in sorted(set(one.texts("queues")) & set(other.texts("queues"))):
            yield (
                variable,
                f"queue {shown(queue)} belongs to {one.text('name')} and {other.text('name')}; "
                "allowed: one group a queue",
            )


def same_bounds(host: Host, inventory: Inventory) -> Texts:
    """The bounds of a group are those of the whole fleet."""
    variable, groups = _groups(host)
    for group in groups:
        name = group.text("name")
        ours = group.whole("min_workers", 1), group.whole("max_workers", 10)
        for other in inventory.of("workers"):
            if other.name >= host.name or projects.project_of(other) != projects.project_of(host):
                continue
            theirs = _bounds(other, name)
            if theirs not in (None, ours):
                yield (
                    variable,
                    f"{shown(name)}: min_workers and max_workers differ from those on {other.name}; "
                    "allowed: the same on all hosts, they are of the whole fleet",
                )
                break


def _bounds(host: Host, name: str) -> tuple[int, int] | None:
    """The bounds of a group on a host, if they are known."""
    try:
        for group in _groups(host)[1]:
            if group.text("name") == name:
                return group.whole("min_workers", 1), group.whole("max_workers", 10)
    except NotKnownError:
        pass
    return None


def address(host: Host, _inventory: Inventory) -> Texts:
    """The page has an address."""
    http = host.text("celery_autoscaler_http")
    if not ADDRESS.fullmatch(http):
        yield "celery_autoscaler_http", f"is {shown(http)}; allowed: host:port, unix:/path, or nothing"


def tokens(host: Host, _inventory: Inventory) -> Texts:
    """Nobody reads or acts from elsewhere without a token, and the one that reads does not act."""
    given = [host.text(name) for name in TOKENS if host.has(name)]
    if not NEAR.match(host.text("celery_autoscaler_http")) and (not given or min(map(len, given)) < SHORTEST):
        yield (
            "celery_autoscaler_http",
            f"is open to other hosts; allowed: with {' or '.join(TOKENS)} or both, of {SHORTEST} "
            "characters or more",
        )
    if len(given) == 2 and given[0] == given[1]:
        yield TOKENS[1], f"is {TOKENS[0]}; allowed: another one, as it must not suffice to act"


def broker(host: Host, _inventory: Inventory) -> Texts:
    """The supervisor reaches the broker of the app."""
    if not host.has("celery_autoscaler_broker_url"):
        return
    url = host.text("celery_autoscaler_broker_url")
    found = [*urls.problems(url), *(urls.broker_problem(part) for part in urls.parts(url))]
    for problem in {problem: 0 for problem in found if problem}:
        yield "celery_autoscaler_broker_url", problem


def same_database(host: Host, _inventory: Inventory) -> Texts:
    """The supervisor looks where the workers are."""
    if not host.has("celery_autoscaler_broker_url"):
        return
    app = host.table("celery_app_environment").get("CELERY_BROKER_URL")
    try:
        ours, theirs = (
            urls.parse(urls.parts(str(url))[0]).database
            for url in (host.text("celery_autoscaler_broker_url"), app)
        )
    except urls.UrlError:
        return
    if ours != theirs:
        yield (
            "celery_autoscaler_broker_url",
            f"names database {ours}, where the supervisor finds no workers; allowed: that of "
            f"CELERY_BROKER_URL in celery_app_environment, {theirs}",
        )


RULES = (
    *(switches, some_group, known_groups, bounds, group_concurrency, one_group_a_queue, same_bounds),
    *(address, tokens, broker, same_database),
)
