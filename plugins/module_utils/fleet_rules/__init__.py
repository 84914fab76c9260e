"""The rules of an inventory, in pure Python: what the roles cannot do with it.

`validate` looks at a whole inventory, `of_role` at one host and one role. Neither connects to a host, changes
anything, or fails, whatever the values are.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress

from . import app, monitoring, names, postgres, redis, specs, supervisor
from .model import UNKNOWN, Finding, Host, Inventory, NotKnownError, Record
from .report import lines
from .text import line

__all__ = [
    "UNKNOWN",
    "Finding",
    "Host",
    "Inventory",
    "Record",
    "line",
    "lines",
    "of_role",
    "roles_of",
    "validate",
]

RULES: dict[str, Iterable[names.Rule]] = {
    "celery_app": app.RULES,
    "celery_autoscaler": supervisor.RULES,
    "common": (),
    "exporters": monitoring.EXPORTER_RULES,
    "monitoring": monitoring.MAIN_RULES,
    "postgres": postgres.RULES,
    "redis": redis.RULES,
}
# Entry points that other hosts play than those of their role.
PARTS = {"exporters": "monitoring"}


def roles_of(host: Host, inventory: Inventory) -> list[str]:
    """The roles that the playbooks apply to a host."""
    found = ["common"]
    if "redis" in host.groups or _flag(host, "redis_sentinel"):
        found.append("redis")
    if "postgres" in host.groups or host.values.get("postgres_repository") == host.name:
        found.append("postgres")
    if host.groups & {"workers", "beat"}:
        found.append("celery_app")
    if "workers" in host.groups:
        found.append("celery_autoscaler")
    if inventory.groups.get("monitoring"):
        found.append("exporters")
    if "monitoring" in host.groups:
        found.append("monitoring")
    return found


def _flag(host: Host, name: str) -> bool:
    try:
        return host.flag(name)
    except NotKnownError:
        return False


def of_role(role: str, host: Host, inventory: Inventory) -> list[Finding]:
    """Find what a role cannot do with the variables of a host."""
    found = list(values(role, host))
    for rule in RULES[role]:
        # What was found before a value was missing counts.
        with suppress(NotKnownError):
            for variable, text in rule(host, inventory):
                found.append(Finding(variable, text, host.name))
    return found


def values(role: str, host: Host) -> Iterator[Finding]:
    """Find variables of a role that a host has not, that cannot be evaluated, or that have another type."""
    described = specs.roles()[PARTS.get(role, role)]
    for variable in sorted(described.required - host.names if role not in PARTS else ()):
        yield Finding(variable, f"is not set; the role {role} needs it", host.name)
    for variable, option in described.options.items():
        if variable in host.values:
            texts = list(specs.check(variable, host.values[variable], option))
            for text in [*host.failures.get(variable, ()), *texts]:
                yield Finding(variable, text, host.name)


def validate(inventory: Inventory) -> list[Finding]:
    """Find all that is wrong with an inventory."""
    found = [finding for rule in names.RULES for finding in rule(inventory)]
    for host in inventory.hosts.values():
        for role in roles_of(host, inventory):
            found += of_role(role, host, inventory)
    return list(dict.fromkeys(found))
