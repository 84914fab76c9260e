"""Names: variables, groups, hosts and files of variables that nobody knows; hosts that are one."""

from __future__ import annotations

import ipaddress
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress

from . import projects
from .model import Finding, Host, Inventory, NotKnownError
from .specs import options
from .text import did_you_mean, resembling, shown

Rule = Callable[[Host, Inventory], Iterator[tuple[str, str]]]

GROUPS = ("redis", "postgres", "workers", "beat", "monitoring")
# What playbooks take beside the variables of the roles.
OF_PLAYBOOKS = frozenset({"postgres_new_primary"})
PREFIXES = ("redis_", "postgres_", "celery_", "monitoring_", "common_")
# What Ansible itself takes for a group or a host of any inventory.
ALWAYS = frozenset({"all", "ungrouped", "localhost"})


def variables(inventory: Inventory) -> Iterator[Finding]:
    """Find variables that no role knows.

    One that another variable uses is somebody's own. One that resembles no known one may be: a warning.
    """
    known = options().keys() | OF_PLAYBOOKS
    for host in inventory.hosts.values():
        for name in sorted(host.names):
            if name.startswith(PREFIXES) and name not in known and name not in inventory.used:
                close = resembling(name, known)
                meant = f"did you mean {close}?" if close else "no role and no other variable uses it"
                yield Finding(name, f"is unknown; {meant}", host.name, fatal=bool(close))


def groups(inventory: Inventory) -> Iterator[Finding]:
    """Find groups that are misspelt or empty, and an inventory that says nothing to any role."""
    there = [name for name in GROUPS if inventory.groups.get(name)]
    if not inventory.hosts:
        yield Finding("hosts", f"there is no host; allowed: hosts in the groups {', '.join(GROUPS)}")
        return
    missing = [name for name in GROUPS if name not in inventory.groups]
    for name in sorted(inventory.groups.keys() - set(GROUPS) - ALWAYS):
        if close := resembling(name, missing):
            yield Finding(
                f"group {name}", f"is unknown, and there is no group {close}; did you mean {close}?"
            )
    if not there:
        yield Finding(
            "groups", f"no host is in a group that a playbook deploys; allowed: {', '.join(GROUPS)}"
        )
    if "workers" in inventory.groups and not inventory.groups["workers"]:
        yield Finding("group workers", "is empty; allowed: at least one host, or no such group")


def files(inventory: Inventory) -> Iterator[Finding]:
    """Find files of variables that are named after no group and no host, but resemble one."""
    known = inventory.groups.keys() | inventory.hosts.keys() | ALWAYS
    for name, path in sorted(inventory.files.items()):
        if name not in known and (close := resembling(name, known)):
            yield Finding(path, f"names no group and no host of the inventory; did you mean {close}?")


def _identity(host: Host) -> tuple[str, ...]:
    """What two hosts that are one have in common: how Ansible connects to them.

    Raises:
        NotKnownError: It is not known here.
    """
    kind = host.text("ansible_connection", "ssh").rpartition(".")[2]
    if kind == "local":
        return (kind,)
    address = host.address.strip().rstrip(".").casefold()
    with suppress(ValueError):
        address = ipaddress.ip_address(address.strip("[]")).compressed
    port = str(host.whole("ansible_port", 22)) if kind in ("ssh", "paramiko", "paramiko_ssh", "smart") else ""
    ways = [host.text(name, "") for name in ("ansible_ssh_common_args", "ansible_ssh_extra_args")]
    return (kind, address, port, *ways)


def _same_hosts(inventory: Inventory) -> dict[tuple[str, ...], list[Host]]:
    """Return the hosts under each of their names."""
    found: dict[tuple[str, ...], list[Host]] = defaultdict(list)
    for host in inventory.hosts.values():
        try:
            found[_identity(host)].append(host)
        except NotKnownError:
            continue
    return found


def further_names(inventory: Inventory, among: Collection[str]) -> dict[str, str]:
    """Return the names of hosts that have another one before it, each with that one.

    What is once a host is done under the first.
    """
    further: dict[str, str] = {}
    for hosts in _same_hosts(inventory).values():
        first, *others = [host.name for host in hosts if host.name in among] or [""]
        further |= dict.fromkeys(others, first)
    return further


def identities(inventory: Inventory) -> Iterator[Finding]:
    """Find hosts that are one under several names, which are not those of its projects."""
    for identity, hosts in _same_hosts(inventory).items():
        names = [host.name for host in hosts]
        if projects.may_be_one(hosts):
            yield from projects.in_common(hosts)
        elif len(names) > 1:
            where = (
                "this machine" if identity[0] == "local" else ":".join(part for part in identity[1:3] if part)
            )
            yield Finding(
                "ansible_host",
                f"{' and '.join(sorted(names))} are one host, {where}; allowed: one name a host, or one for "
                "each project of it (celery_app_project)",
            )


def reference(variable: str, elsewhere: bool = False) -> Rule:
    """Return the rule that a variable names a host which is there, or with `elsewhere` an address."""

    def rule(host: Host, inventory: Inventory) -> Iterator[tuple[str, str]]:
        name, known = host.text(variable, ""), inventory.hosts.keys()
        if not name or name in known or (elsewhere and inventory.reached_by(name)):
            return
        if not elsewhere or resembling(name, known):
            yield variable, f"{shown(name)} is no host of the inventory; {did_you_mean(name, known)}"

    return rule


RULES = (variables, groups, files, identities, projects.shared_queues)
