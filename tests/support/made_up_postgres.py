"""Servers of PostgreSQL, their users and databases as an inventory has them, and what the role renders."""

from typing import Any

from support.role_files import (
    HERE,
    Place,
    load_module,
    load_shared,
    render,
)

access = load_module("postgres_access")
owner = load_shared("postgres_owner")
USERS = [
    {"name": "celery_owner", "password": "an-owner-password"},
    {"name": "celery_app", "password": "an-app-password-1"},
]
DATABASES = [{"name": "celery", "owner": "celery_owner"}]


def rendered(variables: dict[str, Any], place: Place = HERE) -> dict[str, str]:
    """The rendered files, by what they are."""
    paths = {
        "settings": "etc/postgresql/main/conf.d/celery-fleet.conf.j2",
        "access": "etc/postgresql/main/pg_hba.conf.j2",
        "unit": "etc/systemd/system/postgresql@.service.d/celery-fleet.conf.j2",
    }
    texts = render("postgres", list(paths.values()), variables, place)
    return {name: texts[path] for name, path in paths.items()}


# One primary and two standbys, seen from the first standby.
HOSTS: dict[str, Any] = {
    "data1": {"postgres_replication_host": "10.0.0.1"},
    "data2": {"postgres_replication_of": "data1"},
    "data3": {"postgres_replication_of": "data1"},
}
ON_DATA2 = Place("data2", HOSTS, "data1,data2,data3")
OF_DATA1: dict[str, Any] = {
    "postgres_replication_of": "data1",
    "postgres_replication_password": "a-replication:password",
}
# The same servers and the host of their backups.
ARCHIVE = Place("backup1", {**HOSTS, "backup1": {}}, "all", {"postgres": [*HOSTS]})
TO_BACKUP1: dict[str, Any] = {
    "postgres_repository": "backup1",
    "postgres_repository_passphrase": "a-passphrase-of-backups",
}
