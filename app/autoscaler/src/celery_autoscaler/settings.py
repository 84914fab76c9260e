"""Settings of the supervisor: the environment for one group, a TOML file for more."""

import os
import re
import socket
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import click

from celery_autoscaler.protocol.description import Description
from celery_autoscaler.protocol.former import FORMER_NAMES
from celery_autoscaler.protocol.reading import MOST_WORKERS
from celery_autoscaler.protocol.status import START_TIMEOUT_SECONDS

CONFIG_VARIABLE = "CELERY_AUTOSCALER_CONFIG"
POOLS = ("prefork", "threads", "gevent", "eventlet", "solo")
# Those whose workers can have more or fewer slots while they run.
STRETCHING_POOLS = ("prefork", "gevent")
LAUNCHERS = ("process", "systemd")
# Lower case letters, digits, '_' and inner '-', a letter first.
GROUP_NAME = r"[a-z][a-z0-9_]*(-[a-z0-9_]+)*"


class SettingsError(click.ClickException):
    """A setting is wrong: one line that names it, its value and what is allowed."""


@dataclass(frozen=True)
class Rule:
    """What a setting may hold."""

    allowed: str
    fits: Callable[[Any], bool]


def number(low: float, high: float, unit: str = "") -> Rule:
    """Allow a number within bounds."""
    return Rule(
        f"a number from {low:g} to {high:g}{unit and ' ' + unit}",
        lambda value: isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high,
    )


def whole(low: int, high: int) -> Rule:
    """Allow a whole number within bounds."""
    return Rule(
        f"a whole number from {low} to {high}",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high,
    )


def one_of(*words: str) -> Rule:
    """Allow one of some words."""
    return Rule(" or ".join(words), lambda value: value in words)


def text(pattern: str, allowed: str) -> Rule:
    """Allow what matches a pattern."""
    return Rule(allowed, lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None)


QUEUES = Rule(
    "a list of queue names, at least one",
    lambda value: (
        isinstance(value, list | tuple)
        and bool(value)
        and all(isinstance(queue, str) and queue and "," not in queue for queue in value)
    ),
)
OPTIONS = Rule(
    "a table of options of `celery worker`, such as max_tasks_per_child = 100",
    lambda value: (
        isinstance(value, Mapping) and all(isinstance(option, str | int | float) for option in value.values())
    ),
)
SECONDS = number(0.1, 86_400, "seconds")
PERCENT = number(1, 100, "percent")
MOST_CONCURRENCY = 10_000
ONE_CONCURRENCY = whole(1, MOST_CONCURRENCY)
CONCURRENCY = Rule(
    f"a whole number from 1 to {MOST_CONCURRENCY}, or a least and a most, such as [2, 16]",
    lambda value: (
        ONE_CONCURRENCY.fits(value)
        or (
            isinstance(value, list | tuple)
            and len(value) == 2
            and all(map(ONE_CONCURRENCY.fits, value))
            and value[0] <= value[1]
        )
    ),
)
ADDRESS = text(r"|unix:/\S+|\S+:\d{1,5}", "host:port, unix:/path, or nothing")
PROJECT = text(r"[a-z][a-z0-9_]*", "lower case letters, digits and '_'")
ANY_TEXT = text(r"[^\n]*", "text in one line")
PAGES = Rule(
    'a table of projects and addresses, such as shop = "127.0.0.1:9542"',
    lambda value: (
        isinstance(value, Mapping)
        and all(ADDRESS.fits(address) and address for address in value.values())
        and all(PROJECT.fits(name) for name in value)
    ),
)


def setting(default: Any, rule: Rule, variable: str = "") -> Any:
    """Describe a setting; the environment variable, if it has one, gives its default."""
    return field(default=default, metadata={"rule": rule, "variable": variable})


@dataclass(frozen=True)
class Group:
    """A worker group: identical workers that consume the same queues."""

    name: str
    queues: tuple[str, ...] = setting((), QUEUES)
    pool: str = setting("prefork", one_of(*POOLS))
    """Celery's execution pool."""
    concurrency: int = setting(1, CONCURRENCY)
    """Tasks that one worker runs at a time; the least, if workers stretch."""
    max_concurrency: int = 0
    """Tasks that one worker runs at a time at most, if workers stretch; 0 if they do not."""
    target_wait: float = setting(10.0, SECONDS)
    """Seconds within which 95 % of the tasks start."""
    min_workers: int = setting(1, whole(0, MOST_WORKERS), "MIN_WORKERS")
    """Workers of the whole fleet that always run."""
    max_workers: int = setting(10, whole(1, MOST_WORKERS), "MAX_WORKERS")
    """Workers that the whole fleet never exceeds."""
    drain_timeout: float = setting(600.0, SECONDS)
    """Seconds that a worker may take to finish its tasks before it gives them back."""
    memory_max: int = setting(0, whole(0, 2**63 - 1))
    """Bytes of memory that one worker may use, and that are counted for each; 0 means no limit."""
    options: Mapping[str, Any] = field(default_factory=dict, metadata={"rule": OPTIONS, "variable": ""})
    """Further options of ``celery worker`` for the process launcher."""


@dataclass(frozen=True)
class Settings:
    """Settings of one supervisor."""

    groups: Mapping[str, Group]
    launcher: str = setting("process", one_of(*LAUNCHERS))
    tick: float = setting(1.0, number(0.1, 60, "seconds"))
    """Seconds between two looks."""
    stabilisation: float = setting(60.0, number(0, 86_400, "seconds"))
    """Seconds for which fewer workers must have been enough before one is stopped."""
    start_timeout: float = setting(START_TIMEOUT_SECONDS, SECONDS)
    """Seconds that a worker may take to consume; then it is stopped, and another one started."""
    cpu_threshold: float = setting(90.0, PERCENT, "CPU_THRESHOLD")
    memory_threshold: float = setting(85.0, PERCENT, "MEMORY_THRESHOLD")
    queue_threshold: int = setting(1000, whole(1, 1_000_000_000), "QUEUE_THRESHOLD")
    """Messages in one queue over which its group grows if they are much work; twice that is an emergency."""
    hostname: str = setting("", text(r"[A-Za-z0-9_.:-]*", "letters, digits, '_', '.', ':' and '-'"))
    """Name of this host in the names of its workers; by default the machine's own."""
    capacity: float = setting(0.0, number(0, 100_000))
    """Share of the work that this host offers in relation to the others; 0 means its number of CPUs."""
    http: str = setting("127.0.0.1:9541", ADDRESS)
    token_file: str = setting("", ANY_TEXT)
    """File with the token that HTTP clients must send, where `http` is open to more than this host."""
    read_token_file: str = setting("", ANY_TEXT)
    """File with a second token, which suffices to read (the page, `/metrics`, `/status`) and not to act."""
    pages: Mapping[str, str] = field(default_factory=dict, metadata={"rule": PAGES, "variable": ""})
    """Where the other projects of this host serve their pages, by project; the page leads there."""

    @property
    def host(self) -> str:
        """The name of this host, as Celery's ``%h``."""
        return self.hostname or socket.gethostname()


def load(app: Description, path: str = "") -> Settings:
    """Read the settings: from a TOML file if one is named, and for all else from the environment.

    Args:
        app: The app; without any group in a file, one group serves all its queues.
        path: The file; by default the one that ``CELERY_AUTOSCALER_CONFIG`` names.

    Raises:
        SettingsError: Something is wrong; says what, where, and what is allowed.
    """
    path = path or os.environ.get(CONFIG_VARIABLE, "")
    content = read_toml(path) if path else {}
    tables = content.pop("groups", {})
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise SettingsError(f"{path}: groups must be tables, such as [groups.general]")
    if not tables:
        tables = {"default": {"queues": list(app.queues)}}
    defaults: dict[str, Any] = {
        # None: each group has to name its own.
        "queues": [],
        "concurrency": app.concurrency,
        "pool": app.pool if app.pool in POOLS else "prefork",
    }
    groups = {name: read_group(name, defaults | table, path) for name, table in tables.items()}
    refuse_shared_queues(groups.values(), path)
    return Settings(groups=groups, **checked(Settings, content, path, skip={"groups"}))


def read_toml(path: str) -> dict[str, Any]:
    """Return the content of a TOML file.

    Raises:
        SettingsError: It cannot be read or is no TOML.
    """
    try:
        return tomllib.loads(Path(path).read_text())
    except RecursionError as error:
        raise SettingsError(f"{path}: it is nested too deep") from error
    except (OSError, ValueError) as error:
        # Among these: no UTF-8, no TOML, a number of thousands of digits.
        reason = getattr(error, "strerror", None) or error
        raise SettingsError(f"{path}: {reason}") from error


def read_group(name: str, table: Mapping[str, Any], path: str) -> Group:
    """Return a group from its table.

    Raises:
        SettingsError: A setting of it is wrong.
    """
    if not re.fullmatch(GROUP_NAME, name):
        raise SettingsError(
            f"{path}: '{name}' cannot be the name of a group; allowed are lower case letters, digits, '_' "
            "and inner '-', a letter first"
        )
    where = f"{path}: groups.{name}." if path else ""
    values = checked(Group, table, where, skip={"name", "max_concurrency"})
    group = Group(name=name, **values | read_concurrency(values, where))
    if group.min_workers > group.max_workers:
        raise SettingsError(
            f"{where}min_workers={group.min_workers} is wrong: allowed is at most "
            f"max_workers={group.max_workers}"
        )
    return group


def read_concurrency(values: Mapping[str, Any], where: str) -> dict[str, int]:
    """Return the least and the most tasks that one worker of a group runs, if these are two.

    Raises:
        SettingsError: Its workers cannot stretch.
    """
    given = values.get("concurrency")
    if not isinstance(given, tuple):
        return {}
    least, most = given
    if least == most:
        return {"concurrency": least}
    called = f"{where}concurrency=[{least}, {most}] is wrong: "
    if values.get("pool") not in STRETCHING_POOLS:
        raise SettingsError(
            f"{called}allowed is one number with pool={values.get('pool')}; "
            f"only {' and '.join(STRETCHING_POOLS)} can have a least and a most"
        )
    if "autoscale" in values.get("options", {}):
        raise SettingsError(f"{called}allowed is one number beside options.autoscale")
    return {"concurrency": least, "max_concurrency": most}


def refuse_shared_queues(groups: Iterable[Group], path: str) -> None:
    """Make sure that each queue belongs to one group: two would both start workers for the same tasks.

    Raises:
        SettingsError: One belongs to two.
    """
    owner: dict[str, str] = {}
    for group in groups:
        for queue in group.queues:
            if owner.setdefault(queue, group.name) != group.name:
                raise SettingsError(
                    f"{path}: queue '{queue}' belongs to the groups {owner[queue]} and {group.name}; "
                    "allowed is one group a queue"
                )


def checked(kind: type, given: Mapping[str, Any], where: str, skip: set[str]) -> dict[str, Any]:
    """Return what is given for the settings of a kind, or stands in the environment for them.

    Raises:
        SettingsError: A name is unknown, or a value is not allowed.
    """
    described = {item.name: item for item in fields(kind) if item.name not in skip}
    prefix = where if where.endswith(".") or not where else f"{where}: "
    if unknown := sorted(given.keys() - described.keys()):
        if (name := FORMER_NAMES.get(unknown[0])) in described:
            raise SettingsError(f"{prefix}{unknown[0]} is named {name} now")
        raise SettingsError(
            f"{prefix}{unknown[0]} is not a setting; there are: {', '.join(sorted(described))}"
        )
    values = {}
    for name, item in described.items():
        rule, variable = item.metadata["rule"], item.metadata["variable"]
        if name in given:
            value, called = given[name], f"{prefix}{name}"
        elif variable and variable in os.environ:
            value, called = parse_number(os.environ[variable]), variable
        else:
            continue
        if not rule.fits(value):
            raise SettingsError(f"{called}={value!r} is wrong: allowed is {rule.allowed}")
        values[name] = tuple(value) if isinstance(value, list) else value
    return values


def parse_number(value: str) -> Any:
    """Return a variable's value as a number if it is one."""
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            pass
    return value
