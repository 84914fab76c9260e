"""What is wrong with the servers of a PostgreSQL cluster as they are found: one line for each fault."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

Found = Mapping[str, Any]

TIME_WITH_ZONE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d([.]\d+)?[+-]\d\d(:?\d\d)?")
LATEST = "latest"


def host_errors(found: Found) -> list[str]:
    """Return what is wrong with a host, before it is asked for its servers.

    Args:
        found: The wanted ``version``, those ``known`` by the release of Debian, the ``oldest``, the
            ``distribution`` in words; the ``release`` of the host, the ``repository`` and its release.
    """
    errors = []
    version = str(found["version"])
    if version == "unknown":
        errors.append(
            f"{found['distribution']} carries no version of PostgreSQL that this role knows (Debian "
            f"{', '.join(found['known'])}); choose one by postgres_version"
        )
    elif not re.fullmatch("[0-9]{2}", version) or int(version) < found["oldest"]:
        errors.append(
            f"postgres_version: '{version}' is no major version that this role manages (allowed: "
            f"{found['oldest']} and newer, such as 17)"
        )
    if found["repository_release"] != found["release"]:
        errors.append(
            f"postgres_repository: {found['repository']} and the servers must run the same release of Debian,"
            " for pgBackRest speaks with its own version only"
        )
    return errors


def state_errors(found: Found) -> list[str]:
    """Return why the role leaves the server as it is."""
    server, version = found["self"], str(found["version"])
    if server.get("errors"):
        return list(server["errors"])
    others = sorted(set(server["versions"]) - {version})
    if others:
        return [
            f"there is a cluster of PostgreSQL {', '.join(others)}, and version {version} is wanted: keep it "
            f"(postgres_version: {others[-1]}), or move its data as docs/how-to/upgrades.md says"
        ]
    if len(found["primaries"]) > 1:
        return [
            f"two primaries take writes: {', '.join(found['primaries'])}; choose one with "
            "playbooks/failover_postgres.yml, which rebuilds the other"
        ]
    if server["data"] and not server["configured"]:
        return ["there are data of a cluster without its configuration in /etc/postgresql"]
    return [] if found["standby"] else primary_errors(found)


def primary_errors(found: Found) -> list[str]:
    """Return why the server cannot be a primary."""
    server = found["self"]
    if server["data"] and set(found["primaries"]) - {found["host"]}:
        return [
            f"this was a primary, and {found['primary']} is the primary now; "
            "playbooks/failover_postgres.yml rebuilds it"
        ]
    any_data = any(state.get("data") for state in found["states"].values())
    if not server["data"] and (found["silent"] or any_data):
        return [
            "no new primary is made while the other servers of the cluster are not known to be empty: "
            f"{', '.join(found['others'])} must answer, and run where there are data"
        ]
    return []


def promotion_errors(found: Found) -> list[str]:
    """Return why the server is not promoted."""
    server = found["self"]
    if not found["others"]:
        return ["the inventory knows no standby"]
    if not server["running"]:
        return ["PostgreSQL does not run here, so it cannot take over"]
    if not server["standby"]:
        return []
    if found["primaries"]:
        return lag_errors(found)
    ahead = sorted(
        name
        for name, state in found["states"].items()
        if state.get("running") and state["standby"] and state["position"] > server.get("position", 0)
    )
    return [f"other standbys have received more: {', '.join(ahead)}; promote that one"] if ahead else []


def lag_errors(found: Found) -> list[str]:
    """Return why a standby is too far behind a primary that answers."""
    server, primary = found["self"], found["primary"]
    if not server["streaming"]:
        return [f"it does not follow {primary}, which is the primary and answers"]
    lag = found["states"][primary]["position"] - server["replayed"]
    if lag <= int(found["most_lag"]):
        return []
    return [f"it is {lag} bytes behind {primary}; allowed are {found['most_lag']} (postgres_promote_max_lag)"]


def restore_errors(found: Found) -> list[str]:
    """Return what is wrong with the moment to restore, ``to``, and with the ``repository``."""
    if not found["repository"]:
        return ["there are no backups: postgres_repository is not set"]
    if found["to"] != LATEST and not TIME_WITH_ZONE.fullmatch(str(found["to"])):
        return [
            f"postgres_restore_to: '{found['to']}' is no moment; allowed are latest and a time with its zone,"
            " such as 2026-11-24 10:00:00+00"
        ]
    return []


def restore_state_errors(found: Found) -> list[str]:
    """Return why the servers are not restored: their state, or the ends of the ``backups``."""
    if found["silent"]:
        return [
            f"servers that do not answer may still take writes: {', '.join(found['silent'])}; stop them, or "
            "take them out of the inventory"
        ]
    if not found["self"]["configured"]:
        return ["there is no PostgreSQL yet; run playbooks/site.yml first"]
    if not found["backups"]:
        return ["there is no backup in the repository"]
    first, moment = found["backups"][0], int(found["moment"])
    if moment < first:
        shown = datetime.fromtimestamp(first, UTC).strftime("%Y-%m-%d %H:%M:%S+00")
        return [f"no backup ended before {found['to']}; the first one ended at {shown}"]
    if found["to"] != LATEST and moment > datetime.now(UTC).timestamp():
        return [f"postgres_restore_to: {found['to']} lies in the future"]
    return []


def backup_errors(found: Found) -> list[str]:
    """Return what the check of the backups says: the result of its command."""
    return [] if found["rc"] == 0 else [str(found.get("stderr") or found.get("msg"))]


def health_errors(found: Found) -> list[str]:
    """Return what is wrong with a server that should be at work."""
    server, primary = found["self"], found["primary"]
    if server.get("errors"):
        return list(server["errors"])
    if not server["running"]:
        return ["PostgreSQL does not run"]
    if found["pgbouncer_status"] != 0:
        return ["PgBouncer does not run"]
    if len(found["primaries"]) != 1:
        return [f"the cluster needs one primary and has {', '.join(found['primaries']) or 'none'}"]
    if server["standby"] and not server["streaming"]:
        return [
            f"it does not follow {primary}; playbooks/failover_postgres.yml -e postgres_new_primary={primary}"
            " rebuilds it"
        ]
    return []


RULES: Mapping[str, Callable[[Found], list[str]]] = {
    "backup": backup_errors,
    "health": health_errors,
    "host": host_errors,
    "promotion": promotion_errors,
    "restore": restore_errors,
    "restore_state": restore_state_errors,
    "state": state_errors,
}
