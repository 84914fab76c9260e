"""What the role postgres asks of its variables."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from .concurrency import least_and_most
from .model import Host, Inventory, NotKnownError, Record
from .names import reference
from .redis import memory
from .specs import settings
from .text import shown

Texts = Iterator[tuple[str, str]]

PASSWORD = re.compile(r"[!-~]{16,}")
LONG_ENOUGH = "16 or more ASCII characters without blanks"
USER = re.compile(r"[a-z_][a-z0-9_]{0,62}")
# Users that belong to PostgreSQL or to the role.
TAKEN = ("postgres", "public", "all", "replicator", "monitor")
HOST = re.compile(r"\.?[A-Za-z0-9]([A-Za-z0-9_-]*)(\.[A-Za-z0-9_-]+)*\.?")
# Connections that only the administrator gets (superuser_reserved_connections).
RESERVED = 3


def _names(records: list[Record]) -> list[str]:
    return [record.text("name") for record in records]


def _members(host: Host, inventory: Inventory) -> list[str]:
    """The servers that replicate with this one, the first primary first."""
    root = host.text("postgres_replication_of") or host.name
    others = [
        other.name
        for other in inventory.hosts.values()
        if other.values.get("postgres_replication_of") == root
    ]
    return [root, *others]


def users(host: Host, _inventory: Inventory) -> Texts:
    """Each user has a name and a password."""
    given = host.records("postgres_users")
    names = _names(given)
    for name in names:
        if name in TAKEN or not USER.fullmatch(name):
            yield (
                "postgres_users",
                f"{shown(name)} cannot be a name; allowed: lower case letters, digits, _, and none of "
                f"{', '.join(TAKEN)}",
            )
    for name in sorted({name for name in names if names.count(name) > 1}):
        yield "postgres_users", f"duplicate name: {name}; allowed: one user a name"


def passwords(host: Host, inventory: Inventory) -> Texts:
    """Passwords are long, and fit wherever they are written."""
    for user in host.records("postgres_users"):
        try:
            name, password = user.text("name"), user.text("password")
        except NotKnownError:
            continue
        if not PASSWORD.fullmatch(password):
            yield (
                "postgres_users",
                f"the password of {name} is too short or has other characters; allowed: {LONG_ENOUGH}",
            )
    wanted = ["postgres_monitor_password"] if host.has("postgres_monitor_password") else []
    if len(_members(host, inventory)) > 1:
        wanted.append("postgres_replication_password")
    if host.text("postgres_repository", "") == host.name:
        wanted.append("postgres_repository_passphrase")
    for variable in wanted:
        if not host.has(variable):
            yield variable, f"is not set; allowed: {LONG_ENOUGH}"
        elif host.values[variable] == "" and variable == "postgres_monitor_password":
            continue
        elif not PASSWORD.fullmatch(host.text(variable)):
            yield variable, f"is too short or has other characters; allowed: {LONG_ENOUGH}"


def databases(host: Host, _inventory: Inventory) -> Texts:
    """Databases belong to users, and grants name both."""
    known, there = _names(host.records("postgres_users")), []
    for database in host.records("postgres_databases"):
        name, owner = database.text("name"), database.text("owner")
        there.append(name)
        if owner not in known:
            yield (
                "postgres_databases",
                f"the owner {owner} of {name} is not in postgres_users; allowed: {', '.join(known)}",
            )
    for grant in host.records("postgres_grants"):
        name, database_ = grant.text("user"), grant.text("database")
        if name not in known or database_ not in there:
            yield (
                "postgres_grants",
                f"{name} on {database_} names a user or a database that is not listed; allowed: those of "
                "postgres_users and postgres_databases",
            )


def _address_problem(address: str, pooled: bool) -> str:
    """What is wrong with an address from which clients may come; of host names PgBouncer knows none."""
    if address == "samenet" or (address in ("samehost", "all") and not pooled):
        return ""
    if re.search(r"[:/]", address) or re.fullmatch(r"[0-9.]+", address):
        return _network_problem(address)
    if pooled:
        return "is no network, and PgBouncer knows no other; allowed: such as 10.0.0.0/24, samenet"
    if not HOST.fullmatch(address):
        return "is no network and no name of a host; allowed: such as 10.0.0.0/24, app.example.com, samenet"
    return ""


def _network_problem(address: str) -> str:
    """What is wrong with a network."""
    try:
        network = ipaddress.ip_network(address, strict=False)
    except ValueError:
        return "is no network; allowed: such as 10.0.0.0/24, 2001:db8::/64, 2001:db8::11, samenet"
    if network.version == 6 and network.prefixlen == 32 and not address.endswith("::/32"):
        return "is the network of a whole provider; allowed: the address alone, or with /128"
    return ""


def clients(host: Host, _inventory: Inventory) -> Texts:
    """Clients come from networks that the server reads."""
    pooled = host.flag("postgres_pgbouncer")
    given = [("postgres_clients", item) for entry in host.records("postgres_clients") for item in _of(entry)]
    given += [("postgres_replication_clients", item) for item in host.texts("postgres_replication_clients")]
    for variable, address in dict.fromkeys(given):
        if problem := _address_problem(address, pooled and variable == "postgres_clients"):
            yield variable, f"{shown(address)} {problem}"


def _of(entry: Record) -> list[str]:
    try:
        return entry.texts("addresses")
    except NotKnownError:
        return []


def replication(host: Host, inventory: Inventory) -> Texts:
    """A standby follows a primary."""
    primary = host.text("postgres_replication_of")
    if primary == host.name:
        yield "postgres_replication_of", f"{primary} cannot be a standby of itself; allowed: another host"
    elif primary and primary in inventory.hosts:
        theirs = inventory.hosts[primary].text("postgres_replication_of", "")
        if theirs:
            yield (
                "postgres_replication_of",
                f"{primary} is itself a standby, of {theirs}; allowed: the primary",
            )


def one_primary(_host: Host, inventory: Inventory) -> Texts:
    """Standbys know which of the servers they follow."""
    group = inventory.groups.get("postgres", ())
    names = [name for name in inventory.play if name in group or not group] or group
    servers = [inventory.hosts[name] for name in names if name in inventory.hosts]
    primaries = [server.name for server in servers if not server.text("postgres_replication_of", "")]
    if 1 < len(primaries) < len(servers):
        yield (
            "postgres_replication_of",
            f"two primaries in one play with standbys: {', '.join(sorted(primaries))}; "
            "allowed: one, or a play for each",
        )


def repository(host: Host, inventory: Inventory) -> Texts:
    """Backups outlive the servers."""
    name = host.text("postgres_repository")
    if name in inventory.hosts and "postgres" in inventory.hosts[name].groups:
        yield (
            "postgres_repository",
            f"{name} is one of the servers, and backups must outlive them; allowed: a host that is "
            "not in the group "
            "postgres",
        )


def _app_connections(host: Host, inventory: Inventory) -> dict[str, int]:
    """What the worker groups may open: under supervisors in the whole fleet, otherwise on each host."""
    found: dict[str, int] = {}
    pool_size = host.whole("postgres_app_pool_size")
    workers_of = inventory.of("workers") if "workers" in inventory.groups else inventory.hosts.values()
    for other in workers_of if pool_size else ():
        supervised = other.flag("celery_app_supervised")
        for group in other.records("celery_app_worker_groups", []):
            (_, most), workers = least_and_most(group), group.whole("workers")
            each = most if group.text("pool") == "prefork" else min(most, pool_size)
            if supervised:
                workers = group.whole("max_workers", workers)
            name = group.text("name")
            found[name if supervised else f"{name} on {other.name}"] = workers * each
    return found


def connections(host: Host, inventory: Inventory) -> Texts:
    """The server takes the connections of all who may come."""
    if host.text("postgres_repository", "") == host.name:
        return
    total = host.whole("postgres_max_connections")
    offered = total - RESERVED
    opened = _app_connections(host, inventory)
    needed = sum(opened.values())
    each = ", ".join(f"{name}: {number}" for name, number in opened.items())
    if not host.flag("postgres_pgbouncer"):
        if needed > offered:
            yield (
                "postgres_max_connections",
                f"{total} leaves {offered} for the app, whose workers may open {needed} ({each}); "
                f"allowed: {needed + RESERVED} or more",
            )
        return
    pool = host.whole("postgres_pgbouncer_pool_size")
    pooled = len(host.records("postgres_databases")) * pool
    if pooled > offered:
        yield (
            "postgres_max_connections",
            f"{total} leaves {offered} for PgBouncer, which may open {pooled} "
            f"(postgres_pgbouncer_pool_size: {pool} "
            f"for each database); allowed: {pooled + RESERVED} or more",
        )
    most = host.whole("postgres_pgbouncer_max_clients")
    if needed > most:
        yield (
            "postgres_pgbouncer_max_clients",
            f"is {most}, and the workers of the app may open {needed} ({each}); allowed: {needed} or more",
        )


def extra(host: Host, _inventory: Inventory) -> Texts:
    """Settings of the role are set by its variables."""
    sources = ["owned", "replication", "archive", "refused", *(["tls"] if host.flag("postgres_tls") else [])]
    taken = settings("postgres", *(f"__postgres_{source}_settings" for source in sources))
    for name in sorted(host.table("postgres_extra_settings").keys() & taken):
        yield "postgres_extra_settings", f"{name} belongs to the role; allowed: use its variable"


RULES = (
    *(users, passwords, databases, clients, reference("postgres_replication_of"), replication, one_primary),
    *(reference("postgres_repository"), repository, memory, connections, extra),
)
