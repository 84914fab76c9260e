"""What sentinels answered, in one line: redis-py lists the representations of its clients instead."""

import re
from typing import Any

from redis.sentinel import MasterNotFoundError, SentinelManagedConnection

from celery_autoscaler.protocol.text import as_text

# One entry of that list: the client, and the class of its error; before version 8 its text too.
ENTRY = r"\bhost=(?P<host>[^,>)]+),port=(?P<port>\d+).*? - (?:\w+:)?(?P<error>\w+)(?:\(.*?\))?(?=, \S*<|$)"
CAUSES = {
    "AuthenticationError": "refuses the password",
    "ConnectionError": "cannot be reached",
    "TimeoutError": "does not answer in time",
}


class WithOneLine:
    """A connection to the primary that the sentinels name."""

    def connect(self) -> Any:
        """Connect.

        Raises:
            MasterNotFoundError: No sentinel names a primary; says so in one line.
        """
        try:
            return super().connect()  # type: ignore[misc]
        except MasterNotFoundError as error:
            raise MasterNotFoundError(one_line(error)) from None


def with_one_line(connection_class: type[Any]) -> type[Any]:
    """Return a class of connections whose errors about sentinels are one line."""
    if not issubclass(connection_class, SentinelManagedConnection) or issubclass(
        connection_class, WithOneLine
    ):
        return connection_class
    return type(connection_class.__name__, (WithOneLine, connection_class), {})


def one_line(error: MasterNotFoundError) -> str:
    """Return which primary is missing, and why each sentinel that is away does not name it."""
    head, _, entries = str(error).partition(" : ")
    name = head.removeprefix("No master found for ")
    causes = [
        f"{entry['host']}:{entry['port']} {CAUSES.get(entry['error'], entry['error'])}"
        for entry in re.finditer(ENTRY, entries, re.DOTALL)
    ]
    return as_text(f"no sentinel names a primary for {name}" + (f": {', '.join(causes)}" if causes else ""))
