"""What the role redis asks of its variables."""

from __future__ import annotations

import re
from collections.abc import Iterator

from .model import Host, Inventory, NotKnownError, Record
from .names import reference
from .specs import settings
from .text import shown

Texts = Iterator[tuple[str, str]]

USER = re.compile(r"[A-Za-z0-9_.-]+")
# Users whose password stands in files of other programs.
IN_FILES = ("replication", "sentinel", "backup", "monitor")
FILE_PASSWORD = re.compile(r"[^\s\"'\\#]+")
SHORTEST = 16
QUEUE = re.compile(r"[^\s*?\"()\[\]\\]+")


def _named(user: Record) -> str:
    try:
        return user.text("name")
    except NotKnownError:
        return "an element without a name"


def users(host: Host, _inventory: Inventory) -> Texts:
    """Each user has a name, a password and rights."""
    given = host.records("redis_users")
    names = [_named(user) for user in given]
    for name, user in zip(names, given, strict=True):
        if name == "default" or not USER.fullmatch(name):
            yield (
                "redis_users",
                f"{shown(name)} cannot be a name; allowed: letters, digits, _ . -, but not default, "
                "which stays "
                "switched off",
            )
        if "preset" not in user.values and "rules" not in user.values:
            yield "redis_users", f"{name} has neither a preset nor rules; allowed: one of them or both"
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield "redis_users", f"duplicate name: {name}; allowed: one user a name"


def queues(host: Host, _inventory: Inventory) -> Texts:
    """Who only sends tasks may be bound to some queues."""
    for user in host.records("redis_users"):
        if "queues" not in user.values:
            continue
        name = _named(user)
        if user.values.get("preset") != "producer":
            yield (
                "redis_users",
                f"{name} has queues, which go with the preset producer only; allowed: no queues",
            )
        given = user.texts("queues")
        if not given:
            yield (
                "redis_users",
                f"queues of {name} is empty; allowed: at least one, or no queues for all of them",
            )
        for queue in given:
            if not QUEUE.fullmatch(queue):
                yield (
                    "redis_users",
                    f"{shown(queue)} of {name} cannot be the name of a queue; allowed: no blank, quote, "
                    "parenthesis, * ? [ ] and backslash",
                )


def passwords(host: Host, _inventory: Inventory) -> Texts:
    """Passwords are long, and fit into the files that hold them."""
    for user in host.records("redis_users"):
        try:
            password = user.text("password")
        except NotKnownError:
            continue
        if len(password) < SHORTEST:
            yield (
                "redis_users",
                f"the password of {_named(user)} is shorter than {SHORTEST} characters; allowed: "
                f"{SHORTEST} or more",
            )
        if user.values.get("preset") in IN_FILES and not FILE_PASSWORD.fullmatch(password):
            yield (
                "redis_users",
                f"the password of {_named(user)} has a character that its files cannot hold; "
                "allowed: no blank, quote, backslash or #",
            )


def _with_preset(host: Host, preset: str) -> list[Record]:
    return [user for user in host.records("redis_users") if user.values.get("preset") == preset]


def operator(host: Host, _inventory: Inventory) -> Texts:
    """The role can log in."""
    name = host.text("redis_operator")
    if name not in [_named(user) for user in _with_preset(host, "operator")]:
        yield (
            "redis_operator",
            f"redis_users has no user {shown(name)} with the preset operator; allowed: the name of one",
        )


def backup(host: Host, _inventory: Inventory) -> Texts:
    """Copies are made by a user of their own."""
    if host.flag("redis_backup") and not _with_preset(host, "backup"):
        yield "redis_backup", "redis_users has no user with the preset backup; allowed: with one"


def memory(host: Host, _inventory: Inventory) -> Texts:
    """Redis and PostgreSQL share the memory of a host."""
    if not {"redis", "postgres"} <= host.groups:
        return
    redis, postgres = host.whole("redis_maxmemory_percent"), host.whole("postgres_memory_percent")
    if redis + postgres > 100:
        yield (
            "redis_maxmemory_percent",
            f"is {redis} and postgres_memory_percent is {postgres}, more memory than there is; "
            "allowed: 100 together",
        )


def replication(host: Host, inventory: Inventory) -> Texts:
    """The servers of a set agree on their first primary."""
    first = host.text("redis_replication_of")
    if not first:
        return
    if not _with_preset(host, "replication"):
        yield "redis_replication_of", "redis_users has no user with the preset replication; allowed: with one"
    if re.match(r"localhost$|127\.|::1$", first):
        yield (
            "redis_replication_of",
            f"{first} makes each host a replica of itself; allowed: the address at which the "
            "others reach the "
            "first primary",
        )
    other = inventory.reached_by(first)
    if other is not None and other.name != host.name:
        theirs = other.text("redis_replication_of", "")
        if theirs != first:
            yield (
                "redis_replication_of",
                f"two primaries: it is {first} here and {shown(theirs)} on {other.name}; allowed: both "
                "the same",
            )


def extra(host: Host, _inventory: Inventory) -> Texts:
    """Settings of the role are set by its variables."""
    taken = settings("redis", "__redis_owned_settings", "__redis_tls_settings", "__redis_refused_settings")
    for name in sorted(host.table("redis_extra_settings").keys() & taken):
        yield "redis_extra_settings", f"{name} belongs to the role; allowed: use its variable"


def sentinels(host: Host, inventory: Inventory) -> Texts:
    """The sentinels of a primary can agree."""
    if not host.flag("redis_sentinel"):
        return
    first, master = host.text("redis_replication_of"), host.text("redis_sentinel_master")
    if not first:
        yield "redis_replication_of", "is empty; allowed: the address of the first primary, for the sentinels"
    if not _with_preset(host, "sentinel"):
        yield "redis_sentinel", "redis_users has no user with the preset sentinel; allowed: with one"
    others = [
        other
        for other in inventory.hosts.values()
        if other.flag("redis_sentinel") and other.text("redis_sentinel_master") == master
    ]
    if len(others) < 3 or len(others) % 2 == 0:
        yield (
            "redis_sentinel",
            f"{len(others)} hosts have a sentinel of {master}; allowed: an odd number, 3 or more",
        )
    quorum = host.whole("redis_sentinel_quorum")
    if not 1 <= quorum <= len(others):
        yield (
            "redis_sentinel_quorum",
            f"{quorum} of {len(others)} sentinels cannot agree; allowed: a majority",
        )
    for other in others:
        theirs = other.text("redis_replication_of")
        if theirs != first:
            yield (
                "redis_sentinel",
                f"two primaries of the name {master}: {first} here and {shown(theirs)} on {other.name}; "
                "allowed: one",
            )


first_primary = reference("redis_replication_of", elsewhere=True)

RULES = (users, queues, passwords, operator, backup, memory, first_primary, replication, extra, sentinels)
