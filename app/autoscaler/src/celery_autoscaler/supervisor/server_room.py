"""What the Redis server has left: memory, and clients for more workers."""

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

# Parts of the server's memory and clients above which no worker is started.
FULL = 0.9
# Clients that have to be left for others: producers, operators, supervisors.
CLIENTS_LEFT = 50
# Clients that a worker is taken to need before that was measured, and bounds of what is measured.
FIRST_CLIENTS, LEAST_CLIENTS, MOST_CLIENTS = 10.0, 2.0, 100.0
# Measurements that are remembered.
MEASUREMENTS = 9


@dataclass(frozen=True)
class ClientsSeen:
    """The clients of the server."""

    connected: int = 0
    most: int = 0
    """Clients that it accepts; 0 if it does not tell (before Redis 7)."""

    @property
    def free(self) -> float:
        """Clients that workers may still take."""
        if not self.most:
            return math.inf
        return self.most - min(CLIENTS_LEFT, self.most // 10) - self.connected


def read_clients(info: Mapping[str, Any]) -> ClientsSeen:
    """Return the clients from the server's ``INFO clients``."""
    return ClientsSeen(int(info["connected_clients"]), int(info.get("maxclients") or 0))


def short_of(memory: Mapping[str, Any], clients: Mapping[str, Any]) -> str:
    """Return what a server is short of, in words."""
    limit, used = int(memory.get("maxmemory") or 0), int(memory["used_memory"])
    if limit and used > FULL * limit:
        return f"Redis uses {100 * used / limit:.0f} % of its memory"
    seen = read_clients(clients)
    return f"Redis has {seen.connected} of at most {seen.most} clients" if seen.free < 0 else ""


class ClientsPerWorker:
    """How many clients of the server a worker takes, from how their number changes with that of workers."""

    def __init__(self) -> None:
        self._before: tuple[int, int] | None = None
        self._measured: deque[float] = deque(maxlen=MEASUREMENTS)

    @property
    def value(self) -> float:
        """Clients of one worker."""
        return median(self._measured) if self._measured else FIRST_CLIENTS

    @property
    def is_measured(self) -> bool:
        """Whether it was measured at all."""
        return bool(self._measured)

    def update(self, connected: int, ready: int, *, settled: bool) -> None:
        """Take in a look at the fleet.

        Args:
            connected: Clients of the server.
            ready: Workers of the fleet that consume.
            settled: Whether none starts or ends, so that each worker has all its clients.
        """
        if not settled:
            return
        if self._before is not None and ready != self._before[1]:
            clients = (connected - self._before[0]) / (ready - self._before[1])
            if LEAST_CLIENTS <= clients <= MOST_CLIENTS:
                self._measured.append(clients)
        self._before = connected, ready

    def room(self, seen: ClientsSeen, starting: int, hosts: int, turn: int) -> int | None:
        """Return how many workers one host may start before the server runs out of clients.

        Args:
            seen: The clients of the server.
            starting: Workers of the fleet that are starting: they take theirs soon.
            hosts: Hosts that may start workers; each has its part.
            turn: This host among them, from 0.

        Returns:
            The number; nothing if the server does not tell how many clients it accepts.
        """
        if not seen.most:
            return None
        fleet = max(0, int(seen.free / self.value) - starting)
        return fleet // max(1, hosts) + int(turn < fleet % max(1, hosts))
