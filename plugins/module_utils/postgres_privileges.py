"""Privileges in a PostgreSQL database: what users hold, what they are to hold, and the statements between."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

PUBLIC = "PUBLIC"


TABLES = {"read_write": ("SELECT", "INSERT", "UPDATE", "DELETE"), "read_only": ("SELECT",)}


SEQUENCES = {"read_write": ("USAGE", "SELECT"), "read_only": ("SELECT",)}


class Privilege(NamedTuple):
    """One right of one user on one thing. The kinds FUTURE ... are the owner's default privileges."""

    kind: str
    thing: str
    grantee: str
    right: str


def quoted(name: str) -> str:
    """A name as an identifier."""
    return '"' + name.replace('"', '""') + '"'


def wanted_privileges(
    access: dict[str, str],
    database: str,
    schemas: Iterable[str],
    tables: Iterable[str],
    sequences: Iterable[str],
) -> set[Privilege]:
    """What each user (name to access) shall be able to do in the database. Things are quoted names."""
    wanted = set()
    for user, level in access.items():
        wanted |= {
            Privilege("DATABASE", quoted(database), user, "CONNECT"),
            Privilege("FUTURE SCHEMAS", "", user, "USAGE"),
        }
        wanted |= {Privilege("SCHEMA", schema, user, "USAGE") for schema in schemas}
        for kind, things, rights in (
            ("TABLE", tables, TABLES[level]),
            ("SEQUENCE", sequences, SEQUENCES[level]),
        ):
            wanted |= {Privilege(f"FUTURE {kind}S", "", user, right) for right in rights}
            wanted |= {Privilege(kind, thing, user, right) for thing in things for right in rights}
    return wanted


def superfluous(held: set[Privilege], wanted: set[Privilege], managed: set[str]) -> set[Privilege]:
    """What the managed users hold beyond what is wanted, and what nobody shall have through PUBLIC."""
    return {
        privilege
        for privilege in held - wanted
        if privilege.grantee in managed
        or (
            privilege.grantee == PUBLIC
            and (privilege.kind == "DATABASE" or (privilege.kind == "SCHEMA" and privilege.right == "CREATE"))
        )
    }


def privilege_statements(verb: str, owner: str, privileges: set[Privilege]) -> list[str]:
    """The GRANT or REVOKE statements, one for each thing and user."""
    grouped: dict[tuple[str, str, str], list[str]] = {}
    for kind, thing, grantee, right in sorted(privileges):
        grouped.setdefault((kind, thing, grantee), []).append(right)
    preposition = "TO" if verb == "GRANT" else "FROM"
    statements = []
    for (kind, thing, grantee), rights in grouped.items():
        who = PUBLIC if grantee == PUBLIC else quoted(grantee)
        if kind.startswith("FUTURE "):
            what = kind.removeprefix("FUTURE ")
            start = f"ALTER DEFAULT PRIVILEGES FOR ROLE {quoted(owner)} "
        else:
            what, start = f"{kind} {thing}", ""
        statements.append(f"{start}{verb} {', '.join(rights)} ON {what} {preposition} {who}")
    return statements


def shown(privileges: set[Privilege], database: str) -> list[str]:
    """The privileges as lines of a diff."""
    grouped: dict[str, list[str]] = {}
    for kind, thing, grantee, right in sorted(privileges):
        grouped.setdefault(f"{database}: {grantee} on {kind.lower()} {thing}".rstrip(), []).append(right)
    return [f"{where}: {', '.join(rights)}" for where, rights in grouped.items()]


HELD = """
WITH things AS (
    SELECT 'DATABASE' AS kind, quote_ident(datname) AS thing, coalesce(datacl, acldefault('d', datdba)) AS acl
    FROM pg_database WHERE datname = current_database()
    UNION ALL
    SELECT 'SCHEMA', quote_ident(nspname), coalesce(nspacl, acldefault('n', nspowner))
    FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
    UNION ALL
    SELECT CASE relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END,
        quote_ident(nspname) || '.' || quote_ident(relname),
        coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's'::"char" ELSE 'r' END, relowner))
    FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND nspname !~ '^pg_' AND nspname <> 'information_schema'
    UNION ALL
    SELECT CASE defaclobjtype WHEN 'r' THEN 'FUTURE TABLES' WHEN 'S' THEN 'FUTURE SEQUENCES'
            WHEN 'f' THEN 'FUTURE ROUTINES' WHEN 'T' THEN 'FUTURE TYPES' ELSE 'FUTURE SCHEMAS' END,
        '', defaclacl
    FROM pg_default_acl
    WHERE defaclnamespace = 0 AND defaclrole = (SELECT oid FROM pg_roles WHERE rolname = %(owner)s)
)
SELECT kind, thing, CASE grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(grantee) END, privilege_type
FROM things LEFT JOIN LATERAL aclexplode(acl) ON true
"""
