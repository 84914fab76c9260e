"""What the role celery_app asks of services and timers."""

from __future__ import annotations

import re
from collections.abc import Iterator

from . import beside
from .model import Host, Inventory, NotKnownError, Record
from .text import called, did_you_mean, shown

Texts = Iterator[tuple[str, str]]

SERVICES, TIMERS = "celery_app_services", "celery_app_timers"
NAME = re.compile(r"[a-z][a-z0-9_]*(-[a-z0-9_]+)*")
# What no unit can hold.
CONTROL = re.compile("[\0-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
# What systemd.time(7) knows of; the host's systemd reads it before anything is changed there.
CALENDAR = re.compile(r"[A-Za-z0-9_*:,./~+ -]+")


def each(host: Host) -> Iterator[tuple[str, str, Record]]:
    """Yield the services and timers, each with its variable and what it is called."""
    for variable in (SERVICES, TIMERS):
        try:
            records = host.records(variable, [])
        except NotKnownError:
            continue
        for position, record in enumerate(records, 1):
            yield variable, called(record.values, position), record


def unit_names(host: Host, _inventory: Inventory) -> Texts:
    """Units are named after services and timers."""
    for variable in (SERVICES, TIMERS):
        found = [record.text("name", "") for record in host.records(variable, [])]
        for given in sorted({given for given in found if found.count(given) > 1}):
            yield variable, f"duplicate name: {given}; allowed: each name once"
        for given in found:
            if given and not NAME.fullmatch(given):
                yield (
                    variable,
                    f"{shown(given)} cannot be a name; allowed: lower case letters, digits, '_' and inner "
                    "'-', a letter first",
                )


def commands(host: Host, _inventory: Inventory) -> Texts:
    """There is something to run."""
    for variable, said, record in each(host):
        for key in ("command", "ready_command"):
            words = record.texts(key, [])
            if key == "command" and record.has(key) and not words:
                yield variable, f"{said}: command is an empty list; allowed: a program and its arguments"
            if any(CONTROL.search(word) for word in words):
                yield variable, f"{said}: {key} holds a control character; allowed: a text"


def readiness(host: Host, _inventory: Inventory) -> Texts:
    """A service says that it is ready in one way."""
    for position, record in enumerate(host.records(SERVICES, []), 1):
        if record.flag("notify", False) and record.texts("ready_command", []):
            yield (
                SERVICES,
                f"{called(record.values, position)}: has both notify and ready_command; allowed: one of them",
            )


def calendars(host: Host, _inventory: Inventory) -> Texts:
    """A timer has a time."""
    for position, record in enumerate(host.records(TIMERS, []), 1):
        given = record.text("on_calendar", "daily")
        if not CALENDAR.fullmatch(given):
            yield (
                TIMERS,
                f"{called(record.values, position)}: on_calendar is {shown(given)}; allowed: a time of "
                "systemd, such as daily or Mon..Fri 04:30 (man systemd.time)",
            )


def places(host: Host, inventory: Inventory) -> Texts:
    """Services and timers run on hosts of the app."""
    apps = {name for group in ("workers", "beat") for name in inventory.groups.get(group, ())}
    known = apps | {name for name, members in inventory.groups.items() if apps & set(members)}
    for variable, said, record in each(host):
        for name in record.texts("hosts", []):
            if apps and name not in known:
                yield variable, f"{said}: hosts: {shown(name)}: {did_you_mean(name, known)}"


def limits(host: Host, _inventory: Inventory) -> Texts:
    """Limits are as systemd has them."""
    for variable, said, record in each(host):
        for text in beside.limits(record):
            yield variable, f"{said}: {text}"


RULES = (unit_names, commands, readiness, calendars, places, limits)
