"""What the role celery_app asks of its variables."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from . import beside, concurrency, options, projects, services, sources, urls
from .model import UNKNOWN, Host, Inventory, NotKnownError, Record
from .text import shown

GROUP_NAME = re.compile(r"[a-z][a-z0-9_]*(-[a-z0-9_]+)*")
NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)*(:[A-Za-z_]\w*(\.\w+)*)?", re.ASCII)
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
USER = re.compile(r"[a-z_][a-z0-9_-]{0,31}")
FOLDER = re.compile(r"(/[A-Za-z0-9._+@-]+)+/?")
TAKEN_USERS = ("root", "postgres", "redis", "valkey", "prometheus")
# systemd drops a variable with one of these.
NO_TEXT = re.compile("[\0\ufdd0-\ufdef\ufffe\uffff\ud800-\udfff]")
ENVIRONMENTS = ("celery_app_environment", "celery_app_migrate_environment")
BROKER_URLS = ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL")

Texts = Iterator[tuple[str, str]]


def name(host: Host, _inventory: Inventory) -> Texts:
    """The app can be named to Celery."""
    given = host.text("celery_app_name")
    if not NAME.fullmatch(given):
        yield (
            "celery_app_name",
            f"is {shown(given)}; allowed: a module, such as tasks or proj.celery, or module:app",
        )


def place(host: Host, _inventory: Inventory) -> Texts:
    """Units, launchers and commands hold the folder."""
    root = host.text("celery_app_root")
    if not FOLDER.fullmatch(root) or "/../" in f"{root}/":
        yield "celery_app_root", f"is {shown(root)}; allowed: a whole path of letters, digits and . _ + @ -"


def user(host: Host, _inventory: Inventory) -> Texts:
    """The app runs as a user of its own."""
    given = host.text("celery_app_user")
    if not USER.fullmatch(given) or given in TAKEN_USERS:
        yield (
            "celery_app_user",
            f"is {shown(given)}; allowed: lower case letters, digits, _ and -, and none of "
            f"{', '.join(TAKEN_USERS)}",
        )


def group_names(host: Host, _inventory: Inventory) -> Texts:
    """Units are named after groups."""
    names = [group.text("name") for group in host.records("celery_app_worker_groups")]
    for given in sorted({given for given in names if names.count(given) > 1}):
        yield "celery_app_worker_groups", f"duplicate name: {given}; allowed: one group a name"
    for given in names:
        if given == "beat" or not GROUP_NAME.fullmatch(given):
            yield (
                "celery_app_worker_groups",
                f"{shown(given)} cannot be a name; allowed: lower case letters, digits, '_' and inner "
                "'-', a letter "
                "first; 'beat' is taken",
            )


def _each_group(host: Host) -> Iterator[tuple[str, Record]]:
    for position, group in enumerate(host.records("celery_app_worker_groups"), 1):
        try:
            yield shown(group.text("name")), group
        except NotKnownError:
            yield f"element {position}", group


def group_queues(host: Host, _inventory: Inventory) -> Texts:
    """Each group consumes something."""
    for called, group in _each_group(host):
        try:
            queues = group.texts("queues")
        except NotKnownError:
            continue
        if not queues:
            yield (
                "celery_app_worker_groups",
                f"{called}: queues is an empty list; allowed: at least one queue",
            )
        for queue in queues:
            if not queue.strip() or "," in queue or queue != queue.strip() or not queue.isprintable():
                yield (
                    "celery_app_worker_groups",
                    f"{called}: queues: {shown(queue)} cannot be a queue; allowed: a name without commas, "
                    "and without "
                    "blanks at its ends",
                )
        for queue in sorted({queue for queue in queues if queues.count(queue) > 1}):
            yield (
                "celery_app_worker_groups",
                f"{called}: queues: duplicate name: {queue}; allowed: each queue once",
            )


def group_options(host: Host, _inventory: Inventory) -> Texts:
    """Workers start with the options of their group."""
    for called, group in _each_group(host):
        try:
            given = group.table("options", {})
        except NotKnownError:
            continue
        for problem in options.problems(given):
            yield "celery_app_worker_groups", f"{called}: options: {problem}"


def group_concurrency(host: Host, _inventory: Inventory) -> Texts:
    """Workers run a number of tasks at a time, or stretch."""
    for called, group in _each_group(host):
        try:
            text = concurrency.problem(group, supervised=host.flag("celery_app_supervised"))
        except NotKnownError:
            continue
        if text:
            yield "celery_app_worker_groups", f"{called}: {text}"


def group_bounds(host: Host, _inventory: Inventory) -> Texts:
    """There is a number of workers between the bounds."""
    for called, group in _each_group(host):
        try:
            low, high = group.whole("min_workers", 1), group.whole("max_workers", 10)
        except NotKnownError:
            continue
        if low > high and (
            host.flag("celery_app_supervised") or {"min_workers", "max_workers"} <= group.values.keys()
        ):
            yield (
                "celery_app_worker_groups",
                f"{called}: min_workers is {low} and max_workers is {high}; allowed: a min_workers of "
                "at most max_workers",
            )


def plain(host: Host, _inventory: Inventory) -> Texts:
    """A supervisor needs workers that report to it."""
    if host.flag("celery_app_supervised") and host.flag("celery_app_plain_workers"):
        yield (
            "celery_app_supervised",
            "a supervisor learns nothing of plain workers; allowed: this one or celery_app_plain_workers",
        )


def environment(host: Host, _inventory: Inventory) -> Texts:
    """Settings are variables of an environment."""
    for variable in ENVIRONMENTS:
        try:
            given = host.table(variable, {})
        except NotKnownError:
            continue
        for key, value in given.items():
            for problem in _setting(key, value):
                yield variable, f"{key}: {problem}"
    for called, group in _each_group(host):
        try:
            given = group.table("environment", {})
        except NotKnownError:
            continue
        for key, value in given.items():
            for problem in _setting(key, value):
                yield "celery_app_worker_groups", f"{called}: environment: {key}: {problem}"
    for variable, called, record in services.each(host):
        for key, value in record.table("environment", {}).items():
            for problem in _setting(key, value):
                yield variable, f"{called}: environment: {key}: {problem}"


def _setting(key: str, value: Any) -> Iterator[str]:
    if not VARIABLE.fullmatch(key):
        yield f"{shown(key)} cannot be the name of a setting; allowed: letters, digits and _, no digit first"
    if value is UNKNOWN:
        return
    if value is None:
        yield 'is empty (null); allowed: a text, "" for an empty one'
    elif isinstance(value, Mapping | list | tuple):
        yield f"is {shown(value)}; allowed: a text, such as {{{{ value | to_json }}}}"
    elif NO_TEXT.search(str(value)):
        yield "holds a character that no variable can have; allowed: neither NUL nor what Unicode excludes"
    elif isinstance(value, str) and urls.LOOKS_LIKE_ONE.match(value) and _holds_login(value):
        yield from urls.problems(value)


def _holds_login(value: str) -> bool:
    """Whether a text is meant as the URL of a server, and not as a link."""
    return "@" in value or value.startswith(tuple(f"{scheme}://" for scheme in urls.BROKERS))


def broker(host: Host, _inventory: Inventory) -> Texts:
    """The broker keeps messages as the workers need it."""
    given = host.table("celery_app_environment")
    for key in BROKER_URLS:
        value = given.get(key)
        if not isinstance(value, str) or host.flag("celery_app_plain_workers"):
            continue
        for problem in {problem: 0 for part in urls.parts(value) if (problem := urls.broker_problem(part))}:
            yield "celery_app_environment", f"{key}: {problem}"


def logins(host: Host, inventory: Inventory) -> Texts:
    """A URL of a Redis of the inventory has the name and the password of one of its users."""
    given = [
        ("celery_app_environment", f"{key}: ", value)
        for key, value in host.table("celery_app_environment").items()
        if isinstance(value, str)
    ]
    if "workers" in host.groups and host.has("celery_autoscaler_broker_url"):
        given.append(("celery_autoscaler_broker_url", "", host.text("celery_autoscaler_broker_url")))
    for variable, where, value in given:
        said = set()
        for part in urls.parts(value):
            try:
                url = urls.parse(part)
                problem = _login_problem(url, inventory)
            except (urls.UrlError, NotKnownError):
                continue
            if problem and problem not in said:
                said.add(problem)
                yield variable, where + problem


def _login_problem(url: urls.Url, inventory: Inventory) -> str:
    """What is wrong with a log-in at a Redis server of the inventory.

    Raises:
        NotKnownError: It is not known here.
    """
    server = inventory.reached_by(url.host) if url.scheme in urls.BROKERS else None
    if server is None or not (server.groups & {"redis"}) or not url.user:
        return ""
    known = {user_.text("name"): user_ for user_ in server.records("redis_users")}
    if url.user not in known:
        allowed = ", ".join(sorted(known))
        return f"{shown(url.user)} is no user of {server.name}; allowed: {allowed} (redis_users)"
    passwords = {known[url.user].text(key, "") for key in ("password", "previous_password")}
    if url.password not in passwords:
        return (
            f"the password of {url.user}, decoded, is not the one in redis_users of {server.name}; "
            f"allowed: the same ({urls.ENCODE})"
        )
    return ""


RULES = (
    *(name, place, user, group_names, group_queues, group_options, group_concurrency),
    *(group_bounds, plain),
    *(environment, broker, logins),
    *(*projects.RULES, *beside.RULES, *services.RULES, *sources.RULES),
)
