#!/usr/bin/python
"""Ansible module: the users, databases and privileges of a PostgreSQL cluster, as wanted and no more."""

from __future__ import annotations

import os
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.celery_fleet.platform.plugins.module_utils.postgres_owner import (
    other_owners,
    owned,
    statements,
)
from ansible_collections.celery_fleet.platform.plugins.module_utils.postgres_privileges import (
    HELD,
    Privilege,
    privilege_statements,
    quoted,
    shown,
    superfluous,
    wanted_privileges,
)
from ansible_collections.celery_fleet.platform.plugins.module_utils.postgres_scram import (
    password_matches,
    scram_verifier,
)
from ansible_collections.celery_fleet.platform.plugins.module_utils.postgres_server import (
    Server,
    answer,
)
from ansible_collections.celery_fleet.platform.plugins.module_utils.quiet_module import QuietModule

DOCUMENTATION = """
module: postgres_access
short_description: Set the users, databases and privileges of a PostgreSQL cluster
description:
  - Makes each user a role that logs in with SCRAM and has no other attribute, but the one that replicates.
    The server only ever meets the verifier of a password, so none can reach its log.
  - Makes each database, owned by one of the users, and takes from everybody the right to connect to it and to
    create in its schemas.
  - Gives the granted users what their access needs on everything that the owner has created or will create,
    and takes from all listed users but the owner what goes beyond.
  - Makes a physical replication slot for each standby, and a new one in place of one whose log is gone.
  - Connects through the Unix socket as the system user postgres.
options:
  port:
    description: Port of the cluster; it is part of the socket's name.
    type: int
    required: true
  users:
    description: Users that log in.
    type: list
    elements: dict
    default: []
    suboptions:
      name: {description: Name., type: str, required: true}
      password: {description: Password., type: str, required: true}
      replication:
        description: Whether it replicates, and may read the files of the data as pg_rewind does.
        type: bool
        default: false
      monitor:
        description: Whether it reads the statistics of the server, in the database postgres.
        type: bool
        default: false
  databases:
    description: Databases.
    type: list
    elements: dict
    default: []
    suboptions:
      name: {description: Name., type: str, required: true}
      owner: {description: The user that owns it., type: str, required: true}
  grants:
    description: What users other than the owner may do.
    type: list
    elements: dict
    default: []
    suboptions:
      database: {description: Name of the database., type: str, required: true}
      user: {description: Name of the user., type: str, required: true}
      access:
        description: Reading, or reading and writing of data.
        type: str
        choices: [read_write, read_only]
        default: read_write
  extensions:
    description: Extensions that the database postgres shall have, for those who look after the server.
    type: list
    elements: str
    default: []
  slots:
    description: Names of the physical replication slots.
    type: list
    elements: str
    default: []
"""


EXAMPLES = """
- name: Set users, databases and privileges
  postgres_access:
    port: 5432
    users:
      - {name: shop_owner, password: "{{ owner_password }}"}
      - {name: shop_app, password: "{{ app_password }}"}
    databases: [{name: shop, owner: shop_owner}]
    grants: [{database: shop, user: shop_app, access: read_write}]
"""


RETURN = """
statements: {description: What was or would be run, without passwords., type: list, returned: always}
"""


ATTRIBUTES = "LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOBYPASSRLS"


# What pg_rewind calls on the other server. They read no more than a replication sends.
REWIND = (
    "pg_ls_dir(text, boolean, boolean)",
    "pg_stat_file(text, boolean)",
    "pg_read_binary_file(text)",
    "pg_read_binary_file(text, bigint, bigint, boolean)",
)


class Cluster:
    """The running server, and what is to be told of the changes."""

    def __init__(self, port: int, *, check_mode: bool) -> None:
        self.connect = Server(port).connect
        self.check_mode = check_mode
        self.statements: list[str] = []
        self.before: list[str] = []
        self.after: list[str] = []
        self.warnings: list[str] = []

    def do(self, cursor: Any, statement: str, secret: str | None = None) -> None:
        """Run a statement unless in check mode. A secret stands in the place of %s and is not told."""
        self.statements.append(statement.replace("%s", "'(secret)'"))
        if not self.check_mode:
            cursor.execute(statement, None if secret is None else (secret,))

    def set_users(self, cursor: Any, users: list[dict[str, Any]]) -> None:
        """Each user logs in with its password and has no other attribute than the wanted ones."""
        cursor.execute(
            "SELECT rolname, rolpassword, rolreplication, rolcanlogin AND NOT (rolsuper OR rolcreatedb"
            " OR rolcreaterole OR rolbypassrls) FROM pg_authid"
        )
        roles = {name: (stored, replicates, plain) for name, stored, replicates, plain in cursor.fetchall()}
        for user in users:
            name = user["name"]
            stored, replicates, plain = roles.get(name, (None, False, False))
            plain = plain and replicates == user["replication"]
            attributes = f"{ATTRIBUTES} {'REPLICATION' if user['replication'] else 'NOREPLICATION'}"
            wanted = "replicates only" if user["replication"] else "logs in only"
            password_kept = password_matches(user["password"], stored)
            if name in roles and plain and password_kept:
                continue
            verb = "ALTER" if name in roles else "CREATE"
            statement = f"{verb} ROLE {quoted(name)} {attributes}"
            if password_kept:
                self.do(cursor, statement)
            else:
                self.do(cursor, f"{statement} PASSWORD %s", scram_verifier(user["password"], os.urandom(16)))
            if name in roles:
                self.before.append(
                    f"user {name}: {wanted if plain else 'other attributes'},"
                    f" {'wanted' if password_kept else 'former'} password"
                )
            self.after.append(f"user {name}: {wanted}, wanted password")

    def allow_rewind(self, cursor: Any, name: str) -> None:
        """The user may call what pg_rewind calls, in this database."""
        cursor.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (name,))
        exists = cursor.fetchone() is not None  # in check mode it may not
        for function in REWIND:
            if exists:
                cursor.execute(
                    "SELECT has_function_privilege(%s, %s, 'EXECUTE')", (name, f"pg_catalog.{function}")
                )
                if cursor.fetchone()[0]:
                    continue
            self.do(cursor, f"GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO {quoted(name)}")
            self.after.append(f"user {name}: may call {function}")

    def allow_monitoring(self, cursor: Any, name: str) -> None:
        """The user may connect to this database and read all statistics."""
        cursor.execute(
            "SELECT pg_has_role(oid, 'pg_monitor', 'USAGE') FROM pg_roles WHERE rolname = %s", (name,)
        )
        if cursor.fetchone() != (True,):
            self.do(cursor, f"GRANT pg_monitor TO {quoted(name)}")
            self.after.append(f"user {name}: reads the statistics")

    def set_extensions(self, cursor: Any, names: list[str]) -> None:
        """This database has the extensions."""
        cursor.execute("SELECT extname FROM pg_extension")
        present = {name for (name,) in cursor.fetchall()}
        for name in names:
            if name not in present:
                self.do(cursor, f"CREATE EXTENSION {quoted(name)}")
                self.after.append(f"extension {name}")

    def set_slots(self, cursor: Any, names: list[str]) -> None:
        """Each standby has a slot, which keeps from now on what the standby has not received."""
        cursor.execute("SELECT slot_name, wal_status FROM pg_replication_slots")
        slots = dict(cursor.fetchall())
        for name in names:
            if name in slots and slots[name] != "lost":
                continue
            if name in slots:
                self.before.append(f"slot {name}: lost")
                self.do(cursor, f"SELECT pg_drop_replication_slot('{name}')")
            self.do(cursor, f"SELECT pg_create_physical_replication_slot('{name}', true)")
            self.after.append(f"slot {name}")

    def set_databases(self, cursor: Any, databases: list[dict[str, str]]) -> dict[str, str]:
        """Each database exists; returns the owners of those that were there, by name."""
        cursor.execute("SELECT datname, pg_get_userbyid(datdba) FROM pg_database")
        owners = dict(cursor.fetchall())
        for database in databases:
            name, owner = database["name"], database["owner"]
            if name not in owners:
                self.do(
                    cursor,
                    f"CREATE DATABASE {quoted(name)} OWNER {quoted(owner)} TEMPLATE template0"
                    " ENCODING 'UTF8' LOCALE 'C.UTF-8'",
                )
                self.after.append(f"database {name}: owner {owner}")
        return owners

    def set_owner(self, cursor: Any, database: dict[str, str], former: str) -> None:
        """The database, and what the former owner has in it, belong to the owner; all of it or nothing."""
        name, owner = database["name"], database["owner"]
        if former != owner:
            objects = owned(cursor, former)
            self.before.append(f"database {name}: owner {former}, and of {len(objects)} objects in it")
            self.do(cursor, f"ALTER DATABASE {quoted(name)} OWNER TO {quoted(owner)}")
            for statement in statements(objects, quoted(owner)):
                self.do(cursor, statement)
            self.after.append(f"database {name}: owner {owner}, and of {len(objects)} objects in it")
        others = [(user, number) for user, number in other_owners(cursor, owner) if user != former]
        for user, number in others:
            self.warnings.append(
                f"{name}: {number} tables, views and sequences belong to {user}, and a migration that runs as"
                f" {owner} cannot change them; to give them to it: REASSIGN OWNED BY {quoted(user)} TO"
                f" {quoted(owner)}, as postgres in the database {name}"
            )

    def set_privileges(
        self,
        cursor: Any,
        database: dict[str, str],
        access: dict[str, str],
        managed: set[str],
        *,
        exists: bool,
    ) -> None:
        """The privileges in one database. In check mode it may not be there yet."""
        name, owner = database["name"], database["owner"]
        things: dict[str, set[str]] = {"SCHEMA": {"public"}, "TABLE": set(), "SEQUENCE": set()}
        held: set[Privilege] = set()
        if exists:
            cursor.execute(HELD, {"owner": owner})
            for kind, thing, grantee, right in cursor.fetchall():
                things.setdefault(kind, set()).add(thing)
                if right is not None:
                    held.add(Privilege(kind, quoted(name) if kind == "DATABASE" else thing, grantee, right))
            cursor.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'public'")
            if cursor.fetchone() is None:
                things["SCHEMA"].discard("public")
        wanted = wanted_privileges(access, name, things["SCHEMA"], things["TABLE"], things["SEQUENCE"])
        extra, missing = superfluous(held, wanted, managed), wanted - held
        for statement in [
            *privilege_statements("REVOKE", owner, extra),
            *privilege_statements("GRANT", owner, missing),
        ]:
            self.do(cursor, statement)
        self.before += shown(extra, name)
        self.after += shown(missing, name)


def run(module: AnsibleModule) -> dict[str, Any]:
    """Compare, change and report."""
    users, databases, grants = (module.params[name] for name in ("users", "databases", "grants"))
    cluster = Cluster(module.params["port"], check_mode=module.check_mode)

    connection = cluster.connect("postgres")
    connection.autocommit = True  # CREATE DATABASE allows no transaction
    with connection.cursor() as cursor:
        cluster.set_users(cursor, users)
        existing = cluster.set_databases(cursor, databases)
        for user in users:
            if user["replication"]:
                cluster.allow_rewind(cursor, user["name"])
            if user["monitor"]:
                cluster.allow_monitoring(cursor, user["name"])
        cluster.set_extensions(cursor, module.params["extensions"])
        cluster.set_slots(cursor, module.params["slots"])
    connection.close()

    for database in databases:
        access = {grant["user"]: grant["access"] for grant in grants if grant["database"] == database["name"]}
        managed = {user["name"] for user in users} - {database["owner"]}
        exists = database["name"] in existing or not module.check_mode
        connection = cluster.connect(database["name"] if exists else "postgres")
        with connection, connection.cursor() as cursor:
            if database["name"] in existing:
                cluster.set_owner(cursor, database, existing[database["name"]])
            cluster.set_privileges(cursor, database, access, managed, exists=exists)
        connection.close()

    for warning in cluster.warnings:
        module.warn(warning)
    return {
        "changed": bool(cluster.statements),
        "statements": cluster.statements,
        "diff": {
            "before": "".join(f"{line}\n" for line in cluster.before),
            "after": "".join(f"{line}\n" for line in cluster.after),
        },
    }


def main() -> None:
    """Run as a module."""
    required = {"type": "str", "required": True}
    module = QuietModule(
        argument_spec={
            "port": {"type": "int", "required": True},
            "users": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "name": required,
                    "password": {**required, "no_log": True},
                    "replication": {"type": "bool", "default": False},
                    "monitor": {"type": "bool", "default": False},
                },
            },
            "databases": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"name": required, "owner": required},
            },
            "grants": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "database": required,
                    "user": required,
                    "access": {
                        "type": "str",
                        "choices": ["read_write", "read_only"],
                        "default": "read_write",
                    },
                },
            },
            "extensions": {"type": "list", "elements": "str", "default": []},
            "slots": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    answer(module, run)


if __name__ == "__main__":
    main()
