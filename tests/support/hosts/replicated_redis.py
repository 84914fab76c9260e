"""The Redis servers of a scenario that replicate, and their sentinels: who is the primary, as they see it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import redis

from support.hosts.scenario import Scenario, address
from support.processes.services import wait_for

MASTER = "celery"
SENTINEL_PORT = 26379
WITHIN = 60.0  # seconds, on a busy machine


class Servers:
    """The servers, by the names of their hosts."""

    def __init__(self, scenario: Scenario) -> None:
        self.hosts: dict[str, Any] = scenario.hosts("redis")
        self._all: dict[str, Any] = scenario.hosts()
        self.secrets = scenario.secrets
        self.authority = scenario.authority
        """The certificate to trust, where they speak TLS."""

    def connect(self, name: str, port: int = 6379, user: str = "operator", password: str = "") -> Any:
        """Return a client of a server, or of a sentinel."""
        trusted = str(self.authority) if self.authority.exists() else None
        return redis.Redis(
            host=address(self._all[name]),
            port=port,
            username=user,
            password=password or self.secrets[f"redis_{user}"],
            ssl=trusted is not None,
            ssl_ca_certs=trusted,
            decode_responses=True,
            socket_timeout=2,
            socket_connect_timeout=2,
            retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),
        )

    def info(self, name: str) -> dict[str, Any]:
        """Return what a server says of the replication; nothing if it does not answer."""
        with suppress(redis.RedisError), self.connect(name) as client:
            found: dict[str, Any] = client.info("replication")
            return found
        return {}

    def elected(self, by: str) -> str | None:
        """Return the name of the host that a host's sentinel takes for the primary."""
        with suppress(redis.RedisError), self.connect(by, SENTINEL_PORT) as client:
            found, _port = client.sentinel_get_master_addr_by_name(MASTER)
            return next(name for name, host in self.hosts.items() if address(host) == found)
        return None

    def run_ids(self, name: str) -> tuple[str, str]:
        """Return what a restart of a host's server or of its sentinel would change."""
        clients = self.connect(name), self.connect(name, SENTINEL_PORT)
        server, sentinel = (str(client.info("server")["run_id"]) for client in clients)
        return server, sentinel

    def primary(self) -> str:
        """Wait until one server is the primary, the others replicate it, and every sentinel says so."""

        def found() -> str | None:
            names = list(self.hosts)
            primary = self.elected(names[0])
            if primary is None or {self.elected(by) for by in names} != {primary}:
                return None
            states = {name: self.info(name) for name in names}
            replicas = [state for name, state in states.items() if name != primary]
            followed = all(
                state.get("role") == "slave"
                and state["master_host"] in {primary, address(self.hosts[primary])}
                and state["master_link_status"] == "up"
                for state in replicas
            )
            one = states[primary].get("role") == "master"
            return primary if one and followed else None

        return wait_for(found, "the servers and the sentinels do not agree on a primary", WITHIN)
