"""Have Redis tell when a list changes instead of asking it again: ``CLIENT TRACKING``, Redis 6 and later.

One connection reads keys, another one hears which of them change. Each key is told of once after each time
that it was read, however often it changes; only who reads it again hears of it again. It needs no setting of
the server's. Workers and supervisors are woken by it.
"""

from typing import Any

CHANNEL = "__redis__:invalidate"


def hear(connection: Any, channel: str = "") -> int:
    """Let a connection hear which keys change; return its number. It may ask for nothing else from now on.

    The replies to its subscriptions are left on it, also one that refuses the further channel.

    Args:
        connection: The connection.
        channel: A channel that it hears as well.

    Raises:
        redis.RedisError: The server does not answer, or refuses.
    """
    connection.send_command("CLIENT", "ID")
    number: int = connection.read_response()
    # RESP2 passes the words on to subscribers only.
    connection.send_command("SUBSCRIBE", CHANNEL)
    if channel:
        connection.send_command("SUBSCRIBE", channel)
    return number


def track(connection: Any, number: int) -> None:
    """Have the connection of that number told when a key changes that this connection reads.

    Raises:
        redis.RedisError: The server does not answer, refuses, or has lost the other connection.
    """
    connection.send_command("CLIENT", "TRACKING", "ON", "REDIRECT", number, "NOLOOP")
    connection.read_response()
