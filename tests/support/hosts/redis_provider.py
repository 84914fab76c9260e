"""Which server a host runs, Redis or Valkey."""

from __future__ import annotations

from typing import Any

UNITS = ["redis-server", "valkey-server"]


def provider(host: Any) -> str:
    """Return the word with which the names of its packages, units and programs begin."""
    return str(host.ansible.get_variables().get("redis_provider", "redis"))
