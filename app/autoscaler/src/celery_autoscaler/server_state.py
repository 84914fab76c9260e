"""A Redis server that answers, and takes no writes for now."""

from typing import Any

from redis import Connection, SSLConnection
from redis.exceptions import ConnectionError as NoConnection
from redis.exceptions import ResponseError
from redis.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection

# How it words that it takes none for now: its replicas are away (min-replicas-to-write), its disk is full.
REFUSALS = ("NOREPLICAS", "MISCONF")


class Refused(NoConnection):
    """The server takes no writes for now: to be tried again, as after a lost connection."""


class _Refusing:
    """A connection that raises it. To redis-py it is the error of whoever asks, and workers end of those."""

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        """Read a reply."""
        try:
            return super().read_response(*args, **kwargs)  # type: ignore[misc]
        except ResponseError as error:
            if str(error).startswith(REFUSALS):
                raise Refused(str(error)) from error
            raise


class PlainConnection(_Refusing, Connection):
    """Over TCP."""


class TLSConnection(_Refusing, SSLConnection):
    """Over TLS."""


class SentinelConnection(_Refusing, SentinelManagedConnection):
    """To the primary that Sentinel names."""


class SentinelTLSConnection(_Refusing, SentinelManagedSSLConnection):
    """The same over TLS."""
