"""Who owns what is in a database: the objects follow when the database gets another owner."""

from __future__ import annotations

from typing import Any

# Everything that one user owns, but what belongs to an extension, and what follows something else: the
# sequence of a column, the type of a table, the array of a type.
OWNED = """
WITH owned(classid, objid) AS (
    SELECT 'pg_namespace'::regclass::oid, oid FROM pg_namespace
        WHERE nspowner = %(owner)s AND oid IN ({schemas})
    UNION ALL SELECT 'pg_class'::regclass, c.oid FROM pg_class c
        WHERE relowner = %(owner)s AND relnamespace IN ({schemas})
        AND relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
        AND NOT EXISTS (SELECT FROM pg_depend
            WHERE classid = 'pg_class'::regclass AND objid = c.oid AND relkind = 'S'
            AND refclassid = 'pg_class'::regclass AND refobjsubid > 0 AND deptype IN ('a', 'i'))
    UNION ALL SELECT 'pg_proc'::regclass, oid FROM pg_proc
        WHERE proowner = %(owner)s AND pronamespace IN ({schemas})
    UNION ALL SELECT 'pg_type'::regclass, t.oid FROM pg_type t
        WHERE typowner = %(owner)s AND typnamespace IN ({schemas}) AND typtype IN ('b', 'c', 'd', 'e', 'r')
        AND (typrelid = 0 OR EXISTS (SELECT FROM pg_class c WHERE c.oid = typrelid AND relkind = 'c'))
        AND NOT EXISTS (SELECT FROM pg_type a WHERE a.typarray = t.oid)
    UNION ALL SELECT 'pg_collation'::regclass, oid FROM pg_collation
        WHERE collowner = %(owner)s AND collnamespace IN ({schemas})
    UNION ALL SELECT 'pg_conversion'::regclass, oid FROM pg_conversion
        WHERE conowner = %(owner)s AND connamespace IN ({schemas})
    UNION ALL SELECT 'pg_operator'::regclass, oid FROM pg_operator
        WHERE oprowner = %(owner)s AND oprnamespace IN ({schemas})
    UNION ALL SELECT 'pg_opclass'::regclass, oid FROM pg_opclass
        WHERE opcowner = %(owner)s AND opcnamespace IN ({schemas})
    UNION ALL SELECT 'pg_opfamily'::regclass, oid FROM pg_opfamily
        WHERE opfowner = %(owner)s AND opfnamespace IN ({schemas})
    UNION ALL SELECT 'pg_ts_dict'::regclass, oid FROM pg_ts_dict
        WHERE dictowner = %(owner)s AND dictnamespace IN ({schemas})
    UNION ALL SELECT 'pg_ts_config'::regclass, oid FROM pg_ts_config
        WHERE cfgowner = %(owner)s AND cfgnamespace IN ({schemas})
    UNION ALL SELECT 'pg_statistic_ext'::regclass, oid FROM pg_statistic_ext
        WHERE stxowner = %(owner)s AND stxnamespace IN ({schemas})
    UNION ALL SELECT 'pg_largeobject'::regclass, oid FROM pg_largeobject_metadata WHERE lomowner = %(owner)s
    UNION ALL SELECT 'pg_foreign_data_wrapper'::regclass, oid FROM pg_foreign_data_wrapper
        WHERE fdwowner = %(owner)s
    UNION ALL SELECT 'pg_foreign_server'::regclass, oid FROM pg_foreign_server WHERE srvowner = %(owner)s
    UNION ALL SELECT 'pg_publication'::regclass, oid FROM pg_publication WHERE pubowner = %(owner)s
)
SELECT identified.type, identified.identity FROM owned,
    LATERAL pg_identify_object(owned.classid, owned.objid, 0) AS identified
WHERE NOT EXISTS (SELECT FROM pg_depend d
    WHERE d.classid = owned.classid AND d.objid = owned.objid AND d.deptype = 'e')
ORDER BY identified.type, identified.identity
""".replace(
    "{schemas}",
    "SELECT oid FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'",
)
# Words of ALTER for what pg_identify_object calls otherwise.
WORDS = {"statistics object": "STATISTICS", "foreign-data wrapper": "FOREIGN DATA WRAPPER"}


def statements(objects: list[tuple[str, str]], owner: str) -> list[str]:
    """Return what gives each object, its type and its identity, to an owner, whose name is quoted."""
    return [f"ALTER {WORDS.get(kind, kind.upper())} {name} OWNER TO {owner}" for kind, name in objects]


def owned(cursor: Any, name: str) -> list[tuple[str, str]]:
    """Return the objects of a user in the database of the cursor."""
    cursor.execute("SELECT oid FROM pg_roles WHERE rolname = %s", (name,))
    if not (found := cursor.fetchone()):
        return []
    cursor.execute(OWNED, {"owner": found[0]})
    return [(str(kind), str(identity)) for kind, identity in cursor.fetchall()]


def other_owners(cursor: Any, owner: str) -> list[tuple[str, int]]:
    """Return who else owns tables, views and sequences in the database of the cursor, and how many."""
    cursor.execute(
        "SELECT pg_get_userbyid(relowner), count(*) FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace"
        " WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND nspname !~ '^pg_'"
        " AND nspname <> 'information_schema' AND pg_get_userbyid(relowner) <> %s"
        " AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = pg_class.oid AND d.deptype = 'e')"
        " GROUP BY 1 ORDER BY 1",
        (owner,),
    )
    return [(str(name), int(number)) for name, number in cursor.fetchall()]
